"""What one rule found in a trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Worth"]


@dataclass(frozen=True, slots=True)
class Worth:
    """How much of something a change could save.

    Attributes:
        of: of what: the time of a step, or of the recording where no steps were marked; or the peak of memory.
        low, high: nanoseconds of a step, or bytes; the same where it is no range.
        whole: all of it, in the same unit: the time of a step, or the peak.
        measured: whether this was measured in the recording; otherwise it is estimated, and ``basis`` says from what.
        basis: what it is, or follows from, in a few words: ``"the time that the host waited"``.
    """

    of: Literal["step time", "recording", "peak memory"]
    low: int
    high: int
    whole: int
    measured: bool
    basis: str

    @property
    def share(self) -> float:
        """The middle of the range, as a part of the whole; 0 where there is no whole."""
        return (self.low + self.high) / 2 / self.whole if self.whole else 0.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that could be better.

    Attributes:
        rule: name of the rule, as the file of its function: ``"data_loading"``.
        what: what is the case, with figures: one sentence, without a full stop at its end.
        advice: what to do about it: one or two sentences.
        why: address of a page that explains it.
        worth: how much a change could save; None where that cannot be told.
        module: path of the module; empty for none or several.
        lines: of the program, such as ``train.py:31``; what costs most first.
        details: the evidence, a line each: which modules, ops, bytes.
    """

    rule: str
    what: str
    advice: str
    why: str
    worth: Worth | None = None
    module: str = ""
    lines: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
