"""The fixture ``torchprof``: times one block of a test against another in the same test."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from statistics import median
from typing import Final

from torchprof.errors import RecordingError

__all__ = ["LEAST_PASSES", "Timing"]

LEAST_PASSES: Final = 3
"""How often each block is timed at least."""
KINDS: Final = ("reference", "measured")


class Timing:
    """Times a block against a reference, in turns.

    A ratio of two times that were taken in one process, in turns, is the same on a fast machine and on a slow one, where a time
    is not. The first pass warms up: it is recorded, if the test is, and not timed. Then the recording ends, so that times are
    of the program alone.

    Example:
        >>> @pytest.mark.limit(time_ratio=1.1)
        ... def test_the_fused_layer_is_no_slower(torchprof):
        ...     for _ in range(20):
        ...         with torchprof.reference():
        ...             plain(x)
        ...         with torchprof.measured():
        ...             fused(x)
    """

    def __init__(self) -> None:
        self.times: dict[str, list[int]] = {kind: [] for kind in KINDS}
        self.before_timing: Callable[[], None] | None = None
        self._entered = dict.fromkeys(KINDS, 0)
        self._running = ""

    def reference(self) -> AbstractContextManager[None]:
        """A ``with`` block: what is compared with."""
        return self._block("reference")

    def measured(self) -> AbstractContextManager[None]:
        """A ``with`` block: what shall not take longer than the reference, times the limit."""
        return self._block("measured")

    @property
    def unknown(self) -> str:
        """Why there is no ratio; empty where there is one."""
        passes = min(len(times) for times in self.times.values())
        if passes >= LEAST_PASSES:
            return ""
        return (
            f"it takes {LEAST_PASSES + 1} passes of `with torchprof.reference():` and `with torchprof.measured():` in turns, "
            f"the first of which warms up, and there were {min(self._entered.values())}"
        )

    @property
    def time_ratio(self) -> float:
        """The median time of ``measured`` by that of ``reference``.

        Raises:
            RecordingError: there were too few passes.
        """
        if self.unknown:
            raise RecordingError(f"there is no time_ratio: {self.unknown}")
        return median(self.times["measured"]) / median(self.times["reference"])

    @contextmanager
    def _block(self, kind: str) -> Iterator[None]:
        __tracebackhide__ = True
        if self._running:
            raise RecordingError(f"torchprof.{kind}() was entered inside torchprof.{self._running}(): one after the other")
        other = KINDS[1 - KINDS.index(kind)]
        if self._entered[kind] > self._entered[other]:
            raise RecordingError(
                f"torchprof.{kind}() was entered twice without torchprof.{other}() in between: enter both in every pass of a "
                "loop, so that what else the machine does meanwhile slows down both"
            )
        self._entered[kind] += 1
        is_timed = self._entered[kind] > 1
        if is_timed and self.before_timing is not None:
            self.before_timing()
            self.before_timing = None
        self._running = kind
        try:
            synchronize()
            began = time.perf_counter_ns()
            yield
            synchronize()
            if is_timed:
                self.times[kind].append(time.perf_counter_ns() - began)
        finally:
            self._running = ""


def synchronize() -> None:
    """Wait for the accelerator, if one is in use."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    device = torch.accelerator.current_accelerator()
    if device is not None and getattr(getattr(torch, device.type, None), "is_initialized", lambda: True)():
        torch.accelerator.synchronize()
