"""Where ops, blocks, kernels and runtime calls come from, in words: the line of the user's own code."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from torchprof.analysis.lines.file_names import place_text, short_files
from torchprof.analysis.lines.op_stacks import op_stacks
from torchprof.analysis.lines.running import running_at_launches
from torchprof.analysis.lines.user_code import counted_rows
from torchprof.analysis.python_frames import python_frames
from torchprof.analysis.remembered import remembered
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["lines_of_allocations", "lines_of_launches", "lines_of_ops", "lines_of_stacks", "most_first", "numbered"]

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
    """The same of these kernels or runtime calls: of the op that launched them.

    Without one, as for ``torch.cuda.synchronize()``, it is what was running at the op before and at the op after it, or else
    the line of the module call around.
    """
    if not len(trace.stacks):
        return [""] * len(rows)
    of_ops, _ = _of_ops(trace)
    return _in_words(trace, *running_at_launches(trace, rows, of_ops[:-1]))


def lines_of_ops(trace: Trace, rows: Ints) -> list[str]:
    """The same of these ops."""
    return lines_of_stacks(trace, _of_ops(trace)[0][rows]) if len(trace.stacks) else [""] * len(rows)


def lines_of_stacks(trace: Trace, stacks: Ints, is_line: npt.NDArray[np.bool_] | None = None) -> list[str]:
    """The same of these rows of ``trace.stacks``; -1: none.

    Args:
        is_line: whether the line of each was running; else its function is told. None: all were.
    """
    return _in_words(trace, stacks, is_line) if len(trace.stacks) else [""] * len(stacks)


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


def _in_words(trace: Trace, stacks: Ints, is_line: npt.NDArray[np.bool_] | None = None) -> list[str]:
    """
    Args:
        is_line: whether the line of each was running; else its function, and the lines around it.
    """
    counted = np.append(counted_rows(trace, False), -1)[stacks]
    shown = np.where(counted >= 0, counted, stacks)
    lines, functions = _names(trace)
    if is_line is None:
        return [lines[row] for row in shown.tolist()]
    known = (is_line | (shown != stacks)).tolist()
    return [lines[row] if known[at] else functions[row] for at, row in enumerate(shown.tolist())]


@remembered
def _names(trace: Trace) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of every row of ``trace.stacks``, its line, and its function; the last, at index -1, of none."""
    found = python_frames(trace)
    files = short_files({frame.file for frame in found if frame.file is not None})
    lines, functions = [], []
    for name, file, first_line, line in found:
        functions.append(f"{place_text(files, file, first_line)} {name}".strip())
        lines.append(place_text(files, file, line) if file is not None and line is not None else functions[-1])
    return (*lines, ""), (*functions, "")
