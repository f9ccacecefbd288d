"""Reads its own stacks by what is made of ``tests/native/python_frames.cpp``: a program for any Python of 3.11 or newer."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

At = tuple[str, str, int, int]


def module_at(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("python_frames", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


frames = module_at(sys.argv[1])
wanted: list[tuple[int, list[At]]] = []


def here() -> None:
    """Compares the stack of the caller with what Python says of it."""
    row = frames.read()
    frame: types.FrameType | None = sys._getframe(1)
    found: list[At] = []
    while frame is not None:
        code = frame.f_code
        found.append((code.co_qualname, code.co_filename, code.co_firstlineno, frame.f_lineno))
        frame = frame.f_back
    wanted.append((row, found[::-1]))


def numbers() -> Iterator[int]:
    here()
    yield 1
    here()
    yield 2


class Special:
    def __enter__(self) -> None:
        here()

    def __exit__(self, *_: object) -> None:
        here()

    def __iter__(self) -> Iterator[int]:
        here()
        yield from numbers()

    def __del__(self) -> None:
        here()


async def step() -> None:
    here()
    await asyncio.sleep(0)
    here()


async def steps() -> None:
    await asyncio.gather(step(), step())
    await step()


def deeper(levels: int) -> None:
    if levels:
        deeper(levels - 1)
    here()


def programs() -> None:
    list(numbers())
    _ = [here() for _ in range(2)]
    list(map(lambda _: here(), range(2)))  # noqa: C417
    special = Special()
    with special:
        list(special)
    del special
    sorted([3, 1, 2], key=lambda number: here() or number)
    asyncio.run(steps())
    deeper(50)
    for number in range(50):
        source = "\n" * number + f"def made_{number}():\n  here()\n  here()\nmade_{number}()"
        exec(compile(source, f"file_{number}.py", "exec"), {"here": here})
    thread = threading.Thread(target=deeper, args=(3,))
    thread.start()
    thread.join()


def all_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from all_codes(constant)


def check_lines() -> int:
    checked = 0
    for module in list(sys.modules.values()):
        for value in list(vars(module).values()):
            code = getattr(value, "__code__", None)
            for each in all_codes(code) if isinstance(code, types.CodeType) else ():
                lines = [-1 if line is None else line for line, *_ in each.co_positions()]
                found = frames.lines(each)
                assert found[: len(lines)] == lines, each
                checked += 1
    return checked


def main() -> None:
    frames.begin()
    assert frames.can_read()
    programs()
    frames.end()
    rows = frames.rows()
    for row, stack in wanted:
        found: list[Any] = []
        while row >= 0:
            row, *frame = rows[row]
            found.append(tuple(frame))
        assert found[0][0] == "here"
        assert found[:0:-1] == stack, (found[:0:-1], stack)
    assert len(wanted) > 150
    assert check_lines() > 500
    for text in ("a", "\u00e9", "\u6f22", "\U0001f600"):
        assert frames.text(text) == text.encode()
    assert frames.text("a\udcff") == b"a\\udcff"


main()
