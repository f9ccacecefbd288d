"""Stacks of a memory snapshot, each once: lists of frames ``{filename, line, name}``, the innermost first.

Frames of Python have a file of Python. PyTorch may record those of C++ around them; their file is often ``??``. What the
autograd engine allocates on a thread of its own has no frames of Python.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

__all__ = ["NOT_RECORDED", "Frame", "Stack", "Stacks"]

Stack = tuple[str, ...]
"""Lines of Python as ``"train.py:12 step"``, the innermost first. Where there are none: ``"MmBackward0 (aten::mm)"``, the node
of autograd and its op; ``"autograd engine (aten::add_Tensor)"`` of what the engine does between nodes, such as adding gradients
up; or else the lines of C++, without those that recorded the stack and without the allocator's."""

NOT_RECORDED: Final = -1
NODE: Final = re.compile(r"autograd::(?:generated::(?:details::)?)?(\w*Backward\w*|AccumulateGrad|PyNode|CppNode)\b.*::apply")
ENGINE: Final = re.compile(r"autograd::Engine::evaluate_function\b")
RECORDING: Final = re.compile(r"torch::unwind::|CapturedTraceback::gather|gather_with_cpp|CachingAllocator::|CUDAMallocAsync")
"""What is innermost in every stack of C++: reading the stack, and the allocator."""
OP: Final = re.compile(r"\bat::_ops::(\w+)::(?:call|redispatch)\b")


class Frame(NamedTuple):
    """One function that was running.

    Attributes:
        file, line, name: where, and the function.
    """

    file: str
    line: int
    name: str

    @property
    def is_python(self) -> bool:
        """Whether it is one of Python; ``<string>`` and the like are files too."""
        return self.file.endswith((".py", ">")) and not self.file.startswith("??")


class Stacks:
    """Numbers for stacks. Equal stacks have the same one."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, ...], int] = {}
        self._equal: dict[tuple[Frame, ...], int] = {}
        self._frames: list[tuple[Frame, ...]] = []
        self._known: dict[int, Frame] = {}
        self._kept: list[Any] = []  # the frames whose ids are keys

    def __len__(self) -> int:
        return len(self._frames)

    def number(self, frames: Any) -> int:
        """Of this list of frames; ``NOT_RECORDED`` of None and of what is no list."""
        if not isinstance(frames, Sequence) or isinstance(frames, str):
            return NOT_RECORDED
        key = tuple(map(id, frames))  # a pickle has every frame once, and millions of lists of them
        found = self._numbers.get(key)
        if found is None:
            self._kept.append(list(frames))
            read = tuple(self._frame(frame) for frame in frames if isinstance(frame, dict))
            found = self._equal.setdefault(read, len(self._frames))
            if found == len(self._frames):
                self._frames.append(read)
            self._numbers[key] = found
        return found

    def frames(self, number: int) -> tuple[Frame, ...]:
        """All, the innermost first; empty of ``NOT_RECORDED``."""
        return self._frames[number] if number >= 0 else ()

    def lines(self, number: int) -> Stack:
        """The frames of Python as text; where there are none, the node of autograd or all."""
        frames = self.frames(number)
        shown = [frame for frame in frames if frame.is_python]
        if not shown:
            if node := _node(frames):
                return (node,)
            outside = next((at for at, frame in enumerate(frames) if not RECORDING.search(frame.name)), 0)
            shown = list(frames[outside:])
        return tuple(f"{frame.file}:{frame.line} {frame.name}" for frame in shown)

    def _frame(self, frame: dict[str, Any]) -> Frame:
        found = self._known.get(id(frame))
        if found is None:
            line = frame.get("line", 0)
            found = Frame(str(frame.get("filename", "?")), line if isinstance(line, int) else 0, str(frame.get("name", "?")))
            self._known[id(frame)] = found
        return found


def _node(frames: Sequence[Frame]) -> str:
    """The innermost node of autograd, or the engine between nodes, and its outermost op; empty where there is neither."""
    op = ""
    for frame in frames:
        found = NODE.search(frame.name)
        if node := found[1] if found else "autograd engine" * bool(ENGINE.search(frame.name)):
            return f"{node} ({op})" if op else node
        if found := OP.search(frame.name):
            op = f"aten::{found[1]}"
    return ""
