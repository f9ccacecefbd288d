"""What tables say of sums that an aggregated recording merged: of several modules, and of ranges with ever new names."""

from __future__ import annotations

from typing import Any

import handwritten
import pytest

import torchprof
from torchprof.analysis.model.module_tree import module_tree
from torchprof.trace.trace import Trace

STRINGS = ["Net", "Head", "Linear", "aten::add", "range 1", "other ranges"]
NET, FIRST, OTHERS, INSIDE = range(4)


def call(module: int, caller: int, count: int) -> dict[str, Any]:
    return {
        "module": module,
        "caller": caller,
        "count": count,
        "time": 10 * count,
        "self_time": 10 * count,
        "phase": 1,
        "stack": -1,
    }


def op(signature: int, module: int, count: int) -> dict[str, Any]:
    times = {"time": count, "self_time": count, "min": 1, "max": 1}
    return {"signature": signature, "module": module, "count": count, "phase": 1, "stack": -1, **times}


def merged(*, ranges: int = 7, others: tuple[int, int] = (0, 0)) -> Trace:
    """A network that made a head in each of 20 forward passes; 18 of these are summed up together, and so are most ranges."""
    return handwritten.trace(
        strings=STRINGS if ranges else STRINGS[:-1],
        facts={"aggregate": True, "shapes_kept": 16, "duration_ns": 1000},
        modules=[{"address": at, "type": type} for at, type in zip((4096, 8192, *others), (0, 1, 1, 2), strict=True)],
        signatures=[{"name": 3}, {"name": 4}, *([{"name": 5}] if ranges else [])],
        call_totals=[call(NET, -1, 20), call(FIRST, NET, 2), call(OTHERS, NET, 18), call(INSIDE, OTHERS, 18)],
        op_totals=[op(0, INSIDE, 18), op(1, NET, 1), *([op(2, NET, ranges)] if ranges else [])],
        steps=[{"start": 0, "end": 1000, "number": 0}],
    )


def test_modules_that_were_merged_are_one_in_the_module_that_called_them() -> None:
    (net,) = module_tree(merged())
    assert [(node.path, node.depth, node.modules) for node in net.walk()] == [
        ("<Net>", 0, [NET]),
        ("<Net>.<Head>", 1, [FIRST]),
        ("<Net>.<other Head>", 1, [OTHERS]),
        ("<Net>.<other Head>.<other Linear>", 2, [INSIDE]),
    ]


@pytest.mark.parametrize("table", [torchprof.by_module, torchprof.by_op, torchprof.by_step])
def test_every_table_says_what_was_merged(table: Any) -> None:
    text = str(table(merged()))
    assert (
        "Other modules: 36 calls of modules that the model does not have and that were not called for long, summed up by class "
        "and caller\n" in text
    )
    assert "Other ranges: 7 ranges with further names than the first, summed up together\n" in text
    assert "Other shapes" not in text


def test_nothing_is_said_of_what_was_not_merged() -> None:
    assert "Other ranges" not in str(torchprof.by_op(merged(ranges=0)))
    assert "Other modules" not in str(torchprof.by_module(merged(others=(16, 32))))


def test_calls_of_merged_modules_are_counted_together() -> None:
    rows = {row["path"]: row["calls"] for row in torchprof.by_module(merged()).rows}
    assert rows["<Net>.<other Head>"] == rows["<Net>.<other Head>.<other Linear>"] == 18
    assert rows["<Net>.<Head>"] == 2
