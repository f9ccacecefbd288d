"""Stacks of threads as one table, on logs written by hand."""

from __future__ import annotations

from typing import Any

import pytest
from test_collator import collator

from torchprof.trace.schema import LAYOUTS

MAIN, STEP, BACKWARD = ("main", "a.py", 1, 9), ("step", "a.py", 20, 31), ("backward", "b.py", 5, 6)
RANGE, FUNCTION = 7, 0
Event = tuple[Any, ...]


def op(key: int, time: int, scope: int = FUNCTION) -> Event:
    return ("op", key, time, f"op {key}", -1, 0, scope)


def collate(*threads: list[Event], budget: int = 2**24) -> tuple[dict[str, Any], Any]:
    tables, strings, losses, _ = collator().collate_events([list(events) for events in threads], budget, stacks=True)
    return {name: rows.view(LAYOUTS[name]) for name, rows in tables.items()} | {"strings": strings}, losses


def stack(tables: dict[str, Any], row: int) -> list[tuple[str, str, int, int]]:
    found = []
    while row >= 0:
        parent, function, line = tables["stacks"][row].tolist()
        name, file, first_line = tables["functions"][function].tolist()
        found.append((tables["strings"][name], tables["strings"][file], first_line, line))
        row = parent
    return found[::-1]


def stacks(tables: dict[str, Any], name: str) -> list[list[tuple[str, str, int, int]]]:
    return [stack(tables, row) for row in tables[name].tolist()]


def test_equal_stacks_of_two_threads_are_one_row() -> None:
    tables, _ = collate(
        [("at", [MAIN, STEP]), op(1, 1), ("end", 1, 2)],
        [("at", [MAIN, BACKWARD]), op(1, 1), ("end", 1, 2), ("at", [MAIN, STEP]), op(2, 3), ("end", 2, 4)],
    )
    assert tables["op_stacks"].tolist() == [1, 2, 1]
    assert stacks(tables, "op_stacks") == [[MAIN, STEP], [MAIN, BACKWARD], [MAIN, STEP]]
    assert tables["stacks"]["parent"].tolist() == [-1, 0, 0]
    assert len(tables["functions"]) == 3


def test_functions_with_one_name_in_two_files_are_two() -> None:
    other = ("step", "b.py", 20, 31)
    tables, _ = collate([("at", [STEP]), op(1, 1), ("end", 1, 2), ("at", [other]), op(2, 3), ("end", 2, 4)])
    assert stacks(tables, "op_stacks") == [[STEP], [other]]


def test_an_op_inside_another_at_the_same_place_has_its_stack() -> None:
    tables, _ = collate(
        [("at", [MAIN]), op(1, 1), op(2, 2), ("at", [MAIN, STEP]), op(3, 3), *(("end", key, 4) for key in (3, 2, 1))]
    )
    assert stacks(tables, "op_stacks") == [[MAIN], [MAIN], [MAIN, STEP]]


def test_a_range_that_moves_out_of_the_op_it_began_in_keeps_its_stack() -> None:
    tables, _ = collate(
        [("at", [MAIN, STEP]), op(1, 1), op(2, 2, RANGE), ("end", 1, 3), ("at", [MAIN]), op(3, 4), ("end", 3, 5), ("end", 2, 6)]
    )
    assert tables["ops"]["parent"].tolist() == [-1, -1, 1]
    assert stacks(tables, "op_stacks") == [[MAIN, STEP], [MAIN, STEP], [MAIN]]


def test_threads_without_python_have_no_stacks() -> None:
    tables, _ = collate([op(1, 1), ("memory", 2, 64, 16), ("end", 1, 3)])
    assert tables["op_stacks"].tolist() == [-1]
    assert tables["allocation_stacks"].tolist() == [-1]
    assert len(tables["stacks"]) == 0


def test_blocks_have_the_stack_of_their_op_or_their_own() -> None:
    tables, _ = collate(
        [
            *(("at", [MAIN]), op(1, 1), ("memory", 2, 64, 16)),
            *(("at", [MAIN, STEP]), ("memory", 3, 128, 16), ("end", 1, 4)),
            *(("memory", 5, 192, 16), ("memory", 6, 64, -16), ("at", []), ("memory", 7, 256, 16)),
        ]
    )
    assert tables["allocations"]["op"].tolist() == [0, 0, -1, -1]
    assert stacks(tables, "allocation_stacks") == [[MAIN], [MAIN, STEP], [MAIN, STEP], []]


def test_module_calls_have_the_stack_of_their_caller() -> None:
    tables, _ = collate(
        [("at", [MAIN]), ("call", 1, 500, "A"), ("at", [MAIN, STEP]), ("call", 2, 600, "B"), ("return", 3), ("return", 4)]
    )
    assert stacks(tables, "call_stacks") == [[MAIN], [MAIN, STEP]]


@pytest.mark.parametrize("budget", [2**18, 2**19])
def test_where_the_budget_is_spent_stacks_are_right_or_missing(budget: int) -> None:
    lines = [(f"function {number}", "a.py", number, number) for number in range(5000)]
    events = [event for row, line in enumerate(lines) for event in (("at", [MAIN, line]), op(row, row), ("end", row, row))]
    tables, losses = collate(events, budget=budget)
    found = stacks(tables, "op_stacks")
    names = [tables["strings"][signature] for signature in tables["signatures"]["name"][tables["ops"]["signature"]].tolist()]
    assert losses["stacks"] > 0
    assert any(found)
    for name, frames in zip(names, found, strict=True):
        assert frames in ([], [MAIN, lines[int(name.split()[1])]])
