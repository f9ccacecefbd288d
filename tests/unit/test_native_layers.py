"""The layers of csrc/: which directory may include which. Read from the sources; nothing is compiled."""

from __future__ import annotations

import re
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

CSRC: Final = Path(__file__).parents[2] / "csrc"

MAY_INCLUDE: Final[dict[str, str]] = {
    # The lowest first: a directory includes only directories that are listed before it.
    "trace": "",
    "collate": "trace",
    "record/python": "",
    "record": "trace record/python",
    "device": "trace",
    "device/cupti": "trace device",
    "device/events": "trace record device",
    "allocator": "",
    "session": "trace collate record device",
    "bindings": "trace record device allocator session",
}
PURE: Final = ["trace", "collate", "allocator"]
"""Without PyTorch and Python."""

FACTORY: Final = CSRC / "device" / "recorder.cpp"
"""The one file that names every kind of device."""

FILES: Final = sorted(path for path in CSRC.rglob("*") if path.suffix in (".h", ".cpp"))


def directory(path: str) -> str:
    return path.rpartition("/")[0]


def includes(path: Path) -> tuple[list[str], list[str]]:
    """The headers of csrc/ that a file includes, and those of others."""
    source = path.read_text(encoding="utf-8")
    return re.findall(r'^#include "(.+)"', source, re.MULTILINE), re.findall(r"^#include <(.+)>", source, re.MULTILINE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CSRC)))
def test_a_file_includes_only_lower_directories(path: Path) -> None:
    here = directory(str(path.relative_to(CSRC)))
    headers, others = includes(path)
    allowed = {here, *MAY_INCLUDE[here].split(), *(["device/cupti", "device/events"] if path == FACTORY else [])}
    assert {directory(header) for header in headers} <= allowed
    assert all((CSRC / header).exists() for header in headers)
    if here in PURE:
        assert not [header for header in others if header.startswith(("ATen", "c10", "torch", "pybind11", "Python"))]
    assert here == "bindings" or not [header for header in others if header.startswith("pybind11")]


def test_headers_do_not_include_each_other_in_a_circle() -> None:
    graph = {str(path.relative_to(CSRC)): includes(path)[0] for path in FILES}
    assert list(TopologicalSorter(graph).static_order())
