"""Where ops, blocks, kernels and runtime calls come from, in words: the line of the user's own code."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from torchprof.analysis.lines.file_names import short_files
from torchprof.analysis.lines.op_stacks import op_stacks
from torchprof.analysis.lines.user_code import counted_rows
from torchprof.analysis.python_frames import python_frames
from torchprof.analysis.remembered import remembered
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["lines_of_allocations", "lines_of_launches", "most_first", "numbered"]

Ints = npt.NDArray[np.int64]


def lines_of_allocations(trace: Trace, rows: Ints) -> list[str]:
    """The line that made each of these rows of ``trace.allocations``; of backward, the line of forward that it differentiates.

    ``train.py:31``; ``train.py:20 step`` of a function of which no line is known; empty where nothing is.
    """
    if not len(trace.stacks):
        return [""] * len(rows)
    of_ops, called = _of_ops(trace)
    own, op = trace.allocation_stacks[rows].astype(np.int64), trace.allocations["op"][rows]
    call = np.append(trace.call_stacks.astype(np.int64), -1)[trace.allocations["module_call"][rows]]
    runs_itself = (own >= 0) & (called[op] < 0)
    return _in_words(trace, np.where(runs_itself, own, np.where(op >= 0, of_ops[op], np.where(own >= 0, own, call))))


def lines_of_launches(trace: Trace, rows: Rows) -> list[str]:
    """The same of these kernels or runtime calls: of the op that launched them or, without one, of the module call around."""
    if not len(trace.stacks):
        return [""] * len(rows)
    of_ops, _ = _of_ops(trace)
    call = np.append(trace.call_stacks.astype(np.int64), -1)[rows["module_call"]]
    return _in_words(trace, np.where(rows["op"] >= 0, of_ops[rows["op"]], call))


def most_first(lines: Iterable[tuple[str, float]]) -> list[str]:
    """Those that are known, each once, by the sum of their values."""
    sums: dict[str, float] = {}
    for line, value in lines:
        if line:
            sums[line] = sums.get(line, 0) + value
    return sorted(sums, key=lambda line: -sums[line])


def numbered(lines: list[str]) -> Ints:
    """A number for each: the same for equal ones."""
    numbers = {line: at for at, line in enumerate(dict.fromkeys(lines))}
    return np.array([numbers[line] for line in lines], dtype=np.int64)


def _of_ops(trace: Trace) -> tuple[Ints, Ints]:
    """The stack that each op is attributed to, and that of the call of its backward pass; one more, -1, for no op."""
    stacks = op_stacks(trace)
    return np.append(stacks.attributed(counted_rows(trace, False)), -1), np.append(stacks.called, -1)


def _in_words(trace: Trace, stacks: Ints) -> list[str]:
    counted = np.append(counted_rows(trace, False), -1)[stacks]
    names = _names(trace)
    return [names[row] for row in np.where(counted >= 0, counted, stacks).tolist()]


@remembered
def _names(trace: Trace) -> tuple[str, ...]:
    """Of every row of ``trace.stacks``; the last, at index -1, of none."""
    found = python_frames(trace)
    files = short_files({frame.file for frame in found if frame.file is not None})
    names = []
    for name, file, first_line, line in found:
        if file is None:
            names.append(name)
        elif line is not None:
            names.append(f"{files[file]}:{line}")
        else:
            names.append(f"{files[file]}:{first_line} {name}" if first_line is not None else f"{files[file]} {name}")
    return (*names, "")
