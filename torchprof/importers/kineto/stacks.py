"""Stacks: ranges of Python functions as a call tree, and the place in it of every op and module call."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import numpy as np

from torchprof.importers.kineto.columns import Ints, Numbered
from torchprof.importers.kineto.nesting import AT_ONCE, order_of
from torchprof.importers.kineto.read_events import MODULE
from torchprof.importers.kineto.threads import Threads
from torchprof.trace.schema import NO_THREAD, STACKS, Rows

__all__ = ["stacks_of"]

Tables = dict[str, Rows]
PLACE: Final = re.compile(r"(?P<file>.+)\((?P<line>[0-9]+)\): (?P<name>.+)", re.DOTALL)


class _Tree(NamedTuple):
    """Ranges in order of thread and start; of each, the range around it and its row in the table of stacks."""

    ranges: dict[str, Ints]
    parent: Ints
    stack: Ints


def stacks_of(
    frames: dict[str, Ints],
    functions: Numbered[str],
    ops: Rows,
    calls: Rows,
    modules: list[str],
    threads: Threads,
    strings: Numbered[str],
) -> Tables:
    """The tables of stacks. A module call is a function too: ``nn.Module: Linear_0``.

    Args:
        frames: ranges of functions, which are taken over.
        functions: their names.
        modules: the names of modules.
        strings: names, to which those of functions are added.
    """
    thread = threads.row_of(frames.pop("thread")).astype(np.uint16)
    known = np.flatnonzero(thread != NO_THREAD)
    row_of_module = np.array([functions.row(f"{MODULE}{name}") for name in modules], dtype=np.int32)
    ranges: dict[str, Ints] = {
        "thread": np.concatenate([thread[known], calls["thread"]]),
        "function": np.concatenate([frames.pop("function")[known], row_of_module[calls["module"]]]),
        **{name: np.concatenate([frames.pop(name)[known], calls[name]]) for name in ("start", "end")},
    }
    order = order_of(ranges["thread"], ranges["start"], ranges["end"]).astype(np.int32)
    for name in ranges:
        ranges[name] = ranges[name][order]
    listed: list[tuple[int, int]] = []
    tree = _tree(ranges, listed)
    of_range = np.empty(len(order), dtype=np.int32)
    of_range[order] = tree.stack
    del order, thread
    parent, function = np.array(listed, dtype=np.int64).reshape(-1, 2).T
    used, at = np.unique(function, return_inverse=True)
    stacks = np.zeros(len(listed), dtype=STACKS["stacks"])
    stacks["parent"], stacks["function"], stacks["line"] = parent, at, -1
    names = functions.list()
    return {
        "functions": _functions([names[row] for row in used.tolist()], strings),
        "stacks": stacks,
        "op_stacks": _of_ops(tree, ops),
        "call_stacks": of_range[len(known) :],
    }


def _functions(texts: list[str], strings: Numbered[str]) -> Rows:
    """Of ``net.py(30): forward`` the file, the line where the function begins, and its name; others are names as a whole."""
    functions = np.zeros(len(texts), dtype=STACKS["functions"])
    for row, text in enumerate(texts):
        place = PLACE.fullmatch(text)
        if place is None or int(place["line"]) >= 2**31:
            functions[row] = strings.row(text), -1, -1
        else:
            functions[row] = strings.row(place["name"]), strings.row(place["file"]), int(place["line"])
    return functions


def _tree(ranges: dict[str, Ints], listed: list[tuple[int, int]]) -> _Tree:
    """The call tree of these ranges.

    Args:
        listed: to which the stacks are added, each the row of its caller and its function.
    """
    known: dict[tuple[int, int], int] = {}
    count = len(ranges["start"])
    parents, stacks = np.empty(count, dtype=np.int32), np.empty(count, dtype=np.int32)
    open_ranges: list[tuple[int, int, int]] = []  # when each ends, its row, its stack
    of_thread: Any = None
    for first in range(0, count, AT_ONCE):
        part = slice(first, first + AT_ONCE)
        around: list[int] = []
        places: list[int] = []
        columns = (ranges[name][part].tolist() for name in ("thread", "start", "end", "function"))
        for row, (thread, start, end, function) in enumerate(zip(*columns, strict=True), start=first):
            if thread != of_thread:
                of_thread = thread
                open_ranges.clear()
            while open_ranges and open_ranges[-1][0] <= start:
                open_ranges.pop()
            _, parent, above = open_ranges[-1] if open_ranges else (0, -1, -1)
            stack = known.get((above, function))
            if stack is None:
                stack = known[above, function] = len(listed)
                listed.append((above, function))
            around.append(parent)
            places.append(stack)
            open_ranges.append((end, row, stack))
        parents[part], stacks[part] = around, places
    return _Tree(ranges, parents, stacks)


def _of_ops(tree: _Tree, ops: Rows) -> Rows:
    """The stack of every op: of the innermost range that it ran in as a whole.

    A range of ``record_function`` began in a function that opened it, and belongs to the one whose ``with`` it is.
    """
    found = np.full(len(ops), -1, dtype=np.int32)
    ends, parent, stack = np.append(tree.ranges["end"], 2**62), np.append(tree.parent, -1), np.append(tree.stack, -1)
    for thread in np.unique(tree.ranges["thread"]).tolist():
        first, last = np.searchsorted(tree.ranges["thread"], [thread, thread + 1])
        begin, stop = np.searchsorted(ops["thread"], [thread, thread + 1]).tolist()
        for at_once in range(begin, stop, AT_ONCE):
            rows = slice(at_once, min(at_once + AT_ONCE, stop))
            at = first - 1 + np.searchsorted(tree.ranges["start"][first:last], ops["start"][rows], side="right")
            at = np.where(at >= first, at, -1)
            while (outside := ends[at] < ops["end"][rows]).any():
                at = np.where(outside, parent[at], at)
            found[rows] = stack[at]
    return found
