"""Which line every op is of, found by other ways than the recorder's: a mode that is called for every op, and anomaly mode."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NamedTuple

import pytest
import torch
import torch._compile
import torch._dynamo.eval_frame
from torch.utils._python_dispatch import TorchDispatchMode

AROUND_MODES = tuple(module.__file__ for module in (torch._compile, torch._dynamo.eval_frame, torch.utils._python_dispatch))
"""What PyTorch calls a mode through."""
FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


class Ran(NamedTuple):
    """An op as it ran.

    Attributes:
        name: such as ``aten::addmm``.
        line: of the innermost frame in the file of the programs; None: there is none, or none inside the backward pass.
        place: file and line of the innermost frame of all.
        in_backward: whether a backward pass ran it.
    """

    name: str
    line: int | None
    place: tuple[str, int]
    in_backward: bool


class _Mode(TorchDispatchMode):
    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file
        self.ran: list[Ran] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        at: FrameType | None = sys._getframe(1)
        while at is not None and at.f_code.co_filename in AROUND_MODES:
            at = at.f_back
        assert at is not None
        place = (at.f_code.co_filename, at.f_lineno)
        line, in_backward = None, False
        while at is not None and not in_backward:
            in_backward = at.f_code.co_name == "_engine_run_backward"
            if line is None and at.f_code.co_filename == self.file:
                line = at.f_lineno
            at = at.f_back
        # What record_function does is no op, and the results that autograd keeps are detached without one.
        if func.namespace != "profiler" and func._opname != "detach":
            self.ran.append(Ran(f"{func.namespace}::{func._opname}", line, place, in_backward))
        return func(*args, **(kwargs or {}))


def what_ran(run: Callable[[], None], file: str) -> list[Ran]:
    """The ops of a program, in order, each with its line in this file."""
    with _Mode(file) as mode:
        run()
    return mode.ran


def common(one: Sequence[object], other: Sequence[object]) -> list[tuple[int, int]]:
    """The positions of the longest sequence that is in both, in order."""
    lengths = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for a in range(len(one) - 1, -1, -1):
        row, below = lengths[a], lengths[a + 1]
        for b in range(len(other) - 1, -1, -1):
            row[b] = below[b + 1] + 1 if one[a] == other[b] else max(below[b], row[b + 1])
    pairs, a, b = [], 0, 0
    while a < len(one) and b < len(other):
        if one[a] == other[b]:
            pairs.append((a, b))
            a, b = a + 1, b + 1
        elif lengths[a + 1][b] >= lengths[a][b + 1]:
            a += 1
        else:
            b += 1
    return pairs


class Node(NamedTuple):
    """An autograd node: its name, and the line of the forward op that made it."""

    name: str
    line: int | None


def what_is_differentiated(run: Callable[[], None], file: str, monkeypatch: pytest.MonkeyPatch) -> list[list[Node]]:
    """The nodes of every call of ``backward()``, in the order in which they were made; without those of gradients."""
    found: list[list[Node]] = []
    backward = torch.Tensor.backward

    def look(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        left, seen = [tensor.grad_fn], set[Any]()
        while left:
            node = left.pop()
            if node is not None and node not in seen:
                seen.add(node)
                left += [each for each, _ in node.next_functions]
        made = [node for node in seen if "AccumulateGrad" not in node.name()]
        found.append([Node(node.name(), _line(node, file)) for node in sorted(made, key=lambda node: node._sequence_nr())])
        backward(tensor, *args, **kwargs)

    with monkeypatch.context() as patched, torch.autograd.set_detect_anomaly(True, check_nan=False):
        patched.setattr(torch.Tensor, "backward", look)
        run()
    return found


def _line(node: Any, file: str) -> int | None:
    """The innermost line in this file that made a node: anomaly mode keeps the stack."""
    frames = [match for text in node.metadata["traceback_"] if (match := FRAME.search(text))]
    return next((int(match["line"]) for match in reversed(frames) if match["file"] == file), None)
