"""Pages of traces, and what is embedded in them, for tests."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from handwritten import module, trace

import torchprof
from torchprof.trace.model import Model

__all__ = ["AWKWARD", "SHOWN", "awkward_trace", "embedded", "wide_trace"]

AWKWARD = '<script>boo()</script>&amp;<img src=x onerror="boo()">\n\x1b[31m</script>'
"""A name that does harm where it is not text."""
SHOWN = r'<script>boo()</script>&amp;<img src=x onerror="boo()">\n\x1b[31m</script>'


def embedded(page: Path) -> dict[str, Any]:
    """The data of a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


def awkward_trace() -> torchprof.Trace:
    """Modules, ops and memory whose names have markup in them."""
    calls = [{"start": 0, "end": 900}, {"start": 100, "end": 500, "module": 1, "parent": 0}]
    return trace(
        model=Model((module("", AWKWARD, -1, 100), module(AWKWARD, AWKWARD, 0, 101))),
        strings=[AWKWARD],
        modules=[{"address": 100, "type": 0}, {"address": 101, "type": 0}],
        module_calls=calls,
        ops=[{"name": 0, "start": 150, "end": 300, "module_call": 1}],
        allocations=[{"start": 160, "end": 700, "bytes": 2048, "op": 0, "module_call": 1, "module": 1}],
        steps=[{"start": 0, "end": 1000}],
        facts={"duration_ns": 1000, "memory": True, "source": AWKWARD, "notes": [AWKWARD], "origin_unix_ns": 1},
    )


def wide_trace(modules: int) -> torchprof.Trace:
    """A model of blocks of ten layers, each layer called once in each of two steps of 1 ns a module."""
    infos = [module("", "Net", -1, 1), module("blocks", "ModuleList", 0, 2)]
    for block in range(modules // 10):
        above = len(infos)
        infos.append(module(f"blocks.{block}", "Block", 1, above + 1))
        infos += [module(f"blocks.{block}.layer{at}", "Linear", above, above + 2 + at) for at in range(9)]
    calls = []
    for step in range(2):
        at = step * len(infos) * 10
        root = len(calls)
        calls.append({"start": at, "end": at + len(infos) * 10 - 1, "module": 0})
        for row, info in enumerate(infos[2:], 2):
            begin = at + row * 10
            if info.type == "Block":
                block = len(calls)
                calls.append({"start": begin, "end": begin + 98, "module": row, "parent": root})
            else:
                calls.append({"start": begin, "end": begin + row % 9 + 1, "module": row, "parent": block})
    return trace(
        model=Model(tuple(infos)),
        strings=["Net"],
        modules=[{"address": info.address} for info in infos],
        module_calls=calls,
        steps=[{"start": step * len(infos) * 10, "end": (step + 1) * len(infos) * 10, "number": step} for step in range(2)],
        facts={"duration_ns": len(infos) * 20},
    )
