"""A call of a module, and the ranges that are open on a thread."""

from __future__ import annotations

import types
from bisect import bisect_right
from dataclasses import dataclass, field

from torch import nn

from torchprof.ranges.marker import Marker

__all__ = ["Call", "OpenRanges"]


@dataclass(eq=False, slots=True)
class Call:
    """A call of a module.

    Attributes:
        name: of its ranges.
        parent: the call that it is inside of.
        begin: the number that the first node of autograd made in it has.
        made_in: the backward pass in which it was made, as where a checkpoint recomputes; -1: none.
        module, frame: the module, and the frame of Python that called it, while it runs.
        moments: of an outermost call: from which number on nodes are of which call inside it; None: of none of them.
    """

    name: str
    parent: Call | None
    begin: int
    made_in: int
    module: nn.Module | None
    frame: types.FrameType | None
    moments: list[tuple[int, Call | None]] = field(default_factory=list)

    def chain(self) -> list[Call]:
        """The calls that it is inside of, the outermost first, and itself."""
        found: list[Call] = []
        call: Call | None = self
        while call is not None:
            found.append(call)
            call = call.parent
        return found[::-1]

    def owner(self, number: int) -> Call | None:
        """Of an outermost call that has ended: the innermost call in which the node with this number was made."""
        at = bisect_right(self.moments, number, key=lambda moment: moment[0])
        return self.moments[at - 1][1] if at else None


@dataclass(slots=True)
class Open:
    """A range that is open.

    Attributes:
        call: what it is of.
        backward: the backward pass that it is in; -1: it is of forward.
    """

    call: Call
    backward: int


class OpenRanges:
    """The ranges that are open on one thread, the outermost first: those that this pushed and did not pop."""

    def __init__(self, marker: Marker) -> None:
        self._marker = marker
        self._open: list[Open] = []

    def __len__(self) -> int:
        return len(self._open)

    def push(self, call: Call, backward: int) -> None:
        """A range begins."""
        self._marker.range_push(call.name if backward < 0 else f"{call.name} backward")
        self._open.append(Open(call, backward))

    def pop_to(self, depth: int) -> None:
        """End ranges until so many are open."""
        while len(self._open) > depth:
            self._open.pop()
            self._marker.range_pop()

    def running(self, frame: types.FrameType | None) -> Call | None:
        """The innermost call that runs in this frame of Python. Ranges of what was interrupted and is gone are ended.

        An interrupt is not told to hooks, so a range of forward may be open though its call is over.
        """
        while self._open and self._open[-1].backward < 0:
            call = self._open[-1].call
            above = frame
            while above is not None and above is not call.frame:
                above = above.f_back
            if above is not None:
                return call
            self.pop_to(len(self._open) - 1)
        return None

    def end_forward(self, module: nn.Module) -> Call | None:
        """The latest call of a module that runs has ended. None: it is not known to have begun."""
        for at in reversed(range(len(self._open))):
            each = self._open[at]
            if each.backward < 0 and each.call.module is module:
                self.pop_to(at)
                return each.call
        return None

    def settle(self, call: Call | None, backward: int) -> bool:
        """What runs next in this backward pass is of a call, or of none: end and begin ranges such that it is in those of the
        call and of all around it. Returns whether these are the first of the pass on this thread."""
        first = self._bottom(backward)
        if first == len(self._open) and first and self._open[-1].backward >= 0:
            # Another pass: one inside it, of what it recomputed, or the next one after it raised.
            around = self._open[-1].backward
            if call is None or call.made_in != around:
                self.pop_to(self._bottom(around))
                first = len(self._open)
        is_new = first == len(self._open)
        wanted = call.chain() if call is not None else []
        same = 0
        for each, other in zip(wanted, self._open[first:], strict=False):
            if each is not other.call:
                break
            same += 1
        self.pop_to(first + same)
        for each in wanted[same:]:
            self.push(each, backward)
        return is_new and bool(wanted)

    def leave(self, call: Call, backward: int) -> None:
        """End the ranges of a call, and of those inside it, in this backward pass."""
        for at in range(self._bottom(backward), len(self._open)):
            if self._open[at].call is call:
                self.pop_to(at)
                return

    def end_backward(self, backward: int) -> None:
        """End the ranges of a backward pass, if nothing else has begun inside it."""
        self.pop_to(self._bottom(backward))

    def _bottom(self, backward: int) -> int:
        """Below which of the latest ranges none is of this pass."""
        at = len(self._open)
        while at and self._open[at - 1].backward == backward:
            at -= 1
        return at
