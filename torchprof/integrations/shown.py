"""What is printed at the end of a training."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import torchprof
from torchprof.errors import ArgumentError, TorchprofError
from torchprof.running.verdict import lines_of
from torchprof.trace.trace import Trace
from torchprof.wording import nearest
from torchprof.wording import shown as value_of

__all__ = ["Shown", "check_shown", "show"]

Shown = str | Callable[[Trace], object]

NAMES: Final = ("verdict", "by_module", "by_op", "by_step", "by_line", "by_function", "by_kernel", "memory", "gpu", "findings")


def check_shown(wanted: Any) -> tuple[Shown, ...]:
    """What to print, as given.

    Raises:
        ArgumentError: it is nothing that can be printed of a trace.
    """
    if isinstance(wanted, str) or callable(wanted):
        wanted = (wanted,)
    if not isinstance(wanted, Sequence):
        raise ArgumentError(f'show={value_of(wanted)} must be a list of what to print, such as ["verdict", "by_module"]')
    for each in wanted:
        if each not in NAMES and not callable(each):
            meant = nearest(each, NAMES) if isinstance(each, str) else None
            hint = f"did you mean {meant!r}? " if meant else ""
            raise ArgumentError(
                f"show contains {value_of(each)}, which cannot be printed: {hint}it takes {', '.join(NAMES)}, and functions"
            )
    return tuple(wanted)


def show(wanted: Sequence[Shown], trace: Trace | None, file: str | None, a_step: str, why: str) -> None:
    """Print on standard error, if there is one. Where a table cannot be made of the trace, the reason is printed."""
    stream = sys.stderr
    if stream is None or not wanted:
        return
    if trace is None:
        print(
            f"torchprof: nothing was recorded: {why or 'the training ended before its first step did'}", file=stream, flush=True
        )
        return
    for each in wanted:
        try:
            text = "\n".join(lines_of(trace, file, a_step, why)) if each == "verdict" else made(each, trace)
        except TorchprofError as error:
            text = f"torchprof: {each if isinstance(each, str) else value_of(each)}: {error}"
        except Exception as error:  # of a function of the user: the training has ended well
            text = f"torchprof: {value_of(each)} raised {type(error).__name__}: {error}"
        if text is not None:
            print(text, file=stream, flush=True)


def made(each: Shown, trace: Trace) -> Any:
    """What one of them says of a trace."""
    function = getattr(torchprof, each) if isinstance(each, str) else each
    return function(trace)
