"""Backward formulas that ask whether a value is zero, and take the long way where there are none to ask: that of fake tensors.

Such a node of the autograd graph is taken as one kernel: what its formula allocates for fake tensors is not counted, but the
gradient it returns, and what the real formula needs on its way where no value is zero (``prod_backward`` and
``cumprod_backward`` in PyTorch's ``FunctionsManual.cpp``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch

from torchprof import _native
from torchprof.record.nested import find_tensors

__all__ = ["Formulas"]


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.itemsize


def _prod_of_slices(given: torch.Tensor) -> int:
    size = _bytes(given)
    return given.numel() + max(torch.long.itemsize * given.numel() - size, size)


NEEDED: Final[dict[str, Callable[[Any], int]]] = {
    # result / input
    "ProdBackward0": lambda node: _bytes(node._saved_self),
    # which are zero; to count them, as integers; then result / input
    "ProdBackward1": lambda node: _prod_of_slices(node._saved_self),
    # grad * output, which are zero, and sums from the end: flipped, summed and flipped back
    "CumprodBackward0": lambda node: 3 * _bytes(node._saved_self) + node._saved_self.numel(),
}


class Formulas:
    """The node that runs as one kernel, if there is one."""

    def __init__(self) -> None:
        self._node: Any = None
        self._handle: Any = None

    def begin(self) -> None:
        """To be called when a node takes what it saved: nothing is counted from here to its end, if it is one of these."""
        node: Any = torch._C._current_autograd_node()
        if node is None or self._node is not None or node.name() not in NEEDED or torch.is_grad_enabled():
            return
        self._node = node
        needed = NEEDED[node.name()](node)
        _native.pause_recording()
        self._handle = node.register_hook(lambda made, _: self._end(made, needed))

    def _end(self, made: Any, needed: int) -> None:
        self._handle.remove()
        self._node = None
        _native.resume_recording(list(find_tensors(made)), needed)

    def close(self) -> None:
        """To be called when the program is over: a node that failed did not end."""
        if self._node is not None:
            self._end((), 0)
