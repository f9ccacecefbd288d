"""What ranges are written to."""

from __future__ import annotations

from typing import Any, Final, Protocol

import torch

from torchprof.errors import ArgumentError, UnsupportedTorchError
from torchprof.wording import shown

__all__ = ["Marker", "marker_of"]

PROFILERS: Final = {"nvtx": "NVTX (Nsight Systems; on AMD roctx)", "itt": "ITT (VTune)"}


class Marker(Protocol):
    """Keeps a stack of ranges for every thread."""

    def range_push(self, msg: str) -> object:
        """A range with this name begins on this thread."""
        ...

    def range_pop(self) -> object:
        """The latest range that began on this thread ends."""
        ...


def marker_of(to: Any) -> Marker:
    """What an argument ``to`` means.

    Raises:
        ArgumentError: it means nothing.
        UnsupportedTorchError: this PyTorch was built without it.
    """
    if not isinstance(to, str):
        if not all(callable(getattr(to, name, None)) for name in ("range_push", "range_pop")):
            raise ArgumentError(f'to={shown(to)} must be "nvtx", "itt", or have range_push(name) and range_pop()')
        marker: Marker = to
        return marker
    if to not in PROFILERS:
        raise ArgumentError(f'to={to!r:.80} must be "nvtx", "itt", or an object with range_push(name) and range_pop()')
    found: Any = torch.cuda.nvtx if to == "nvtx" else torch.profiler.itt
    try:
        is_there = found.is_available() if to == "itt" else _works(found)
    except RuntimeError:
        is_there = False
    if not is_there:
        raise UnsupportedTorchError(
            f"to={to!r}: this torch {torch.__version__} was built without {PROFILERS[to]}: install one that has it, or give an "
            "object with range_push(name) and range_pop()"
        )
    return found  # type: ignore[no-any-return]


def _works(nvtx: Any) -> bool:
    """Whether there is a library behind it: without one, PyTorch raises."""
    nvtx.range_push("torchprof")
    nvtx.range_pop()
    return True
