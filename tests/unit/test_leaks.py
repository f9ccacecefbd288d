"""Leaks: what holds more and more at the ends of steps. On allocations written by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from handwritten import module, trace

from torchprof import memory, profile
from torchprof.analysis.memory.leaks import FEWEST_STEPS, Leak, keeps_growing, may_grow
from torchprof.trace.model import Model
from torchprof.trace.schema import Phase, Use
from torchprof.trace.trace import Trace

OUTSIDE, IN_FORWARD, INSIDE_IT = range(3)


def steps(count: int) -> list[dict[str, int]]:
    return [{"start": 10 * number, "end": 10 * number + 10, "number": number} for number in range(count)]


def block(step: int, freed_in: int | None = None, *, size: int = 8, op: int = OUTSIDE, **more: int) -> dict[str, int]:
    """A block that one step allocates and a later one, if any, frees."""
    end = -1 if freed_in is None else 10 * freed_in + 5
    return {"start": 10 * step + 2, "end": end, "bytes": size, "op": op, "uses": int(Use.HELD_AFTER_CALL), **more}


def recorded(*blocks: dict[str, int], of: int = 6, **facts: object) -> Trace:
    """So many steps with these blocks. Op 2 runs inside op 1, in forward; module 1 is ``fc``, 0 the root."""
    forward = int(Phase.FORWARD) << 4
    ops = [{"name": 0}, {"name": 1, "flags": forward}, {"name": 2, "parent": 1, "flags": forward}]
    return trace(
        model=Model((module("", "Net", -1, 100), module("fc", "Linear", 0, 101))),
        strings=["aten::randn", "aten::clone", "aten::empty"],
        modules=[{"address": 100}, {"address": 101}],
        ops=ops,
        allocations=list(blocks),
        steps=steps(of),
        facts=dict(facts),
    )


def test_a_leak_is_named_by_the_outermost_op_and_its_module_with_its_growth() -> None:
    found = memory(recorded(*(block(step, op=INSIDE_IT, module=1) for step in range(6)), block(0, size=100)))
    assert found.leaks == [Leak("aten::clone", "fc", "outputs", count=6, bytes=48, steps=6, growth=8.0)]
    assert found.steps.held.tolist() == [108, 116, 124, 132, 140, 148]
    text = str(found)
    assert "Held at the end of step 0: 108 B, 1: 116 B, 2: 124 B, 3: 132 B, 4: 140 B, 5: 148 B" in text
    assert "Leaks: these held more and more at the ends of steps" in text
    assert "aten::clone  fc" in text


@pytest.mark.parametrize("use", [Use.GRADIENT, Use.READ_BY_OPTIMIZER, Use.PARAMETER, Use.BUFFER])
def test_no_category_may_grow_unseen(use: Use) -> None:
    found = memory(recorded(*(block(step, module=0, uses=int(use)) for step in range(6))))
    assert [(leak.module, leak.bytes) for leak in found.leaks] == [("", 48)]
    assert found.leak_table.rows[0]["module"] == "Net"


def test_one_block_that_is_replaced_by_a_bigger_one_is_growth() -> None:
    found = memory(recorded(*(block(step, step + 1 if step < 5 else None, size=8 * (step + 1)) for step in range(6))))
    assert found.leaks == [Leak("aten::randn", "(no module)", "other", count=1, bytes=48, steps=6, growth=8.0)]


def test_what_is_held_longer_than_a_step_is_no_leak() -> None:
    ahead = [block(step, step + 1) for step in range(5)]
    replaced = [block(step, step + 1, op=INSIDE_IT) for step in range(5)]
    assert memory(recorded(*ahead, *replaced, block(5), block(5, op=INSIDE_IT), block(2, module=1))).leaks == []


def test_a_leak_among_blocks_that_come_and_go_at_the_same_place_is_found() -> None:
    sizes = [5, 9, 2, 7, 3, 8, 1, 6, 9, 2, 5, 4]
    ahead = [block(step, step + 1, size=size) for step, size in enumerate(sizes)]
    kept = [block(step, size=6) for step in range(12)]
    assert [(leak.count, leak.bytes) for leak in memory(recorded(*ahead, *kept, of=12)).leaks] == [(12 + 1, 12 * 6 + 4)]
    assert memory(recorded(*ahead, of=12)).leaks == []


@pytest.mark.parametrize(
    "held",
    [
        [1, 2, 3, 4],
        [1, 2, 3, 4, 5],
        [1, 2, 3, 4, 5, 6],
        [0, 1, 1, 2, 2, 3],  # in every other step
        [0, 2, 3, 4, 5],  # nothing was made in the first step
        [0, 0, 0, 0, 2, 3, 4, 5],
        [1, 1, 2, 2, 3, 3, 4],
        [0, 0, 1, 1, 1, 2, 2, 2, 3],
        [5, 6, 4, 7, 9, 8, 10, 12, 11, 14, 13, 15],  # something else comes and goes at the same place
        list(range(1000)),
    ],
)
def test_what_grows_in_every_third_of_the_steps_leaks(held: list[int]) -> None:
    assert keeps_growing(np.array(held))


@pytest.mark.parametrize(
    "held",
    [
        [0] * 6,
        [8] * 4,
        [8] * 6,
        [0, 8, 8, 8],
        [0, 8, 8, 8, 8, 8],  # one-off
        [0, 0, 0, 0, 0, 8],
        [0, 0, 0, 8, 8, 16],  # held for too few steps
        [0, 1, 2, 3],
        [0, 0, 0, 0, 1, 2, 3, 3],
        [1, 2, 3, 3, 3],  # a cache that fills
        [1, 2, 3, 4, 5, 6, 6, 6],
        [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4],  # emptied in every third
        [6, 5, 4, 3, 2, 1],
        [3, 9, 4, 1, 8, 2, 7, 5],
        [*range(500), *([500] * 500)],
    ],
)
def test_what_does_not_grow_in_every_third_of_the_steps_is_no_leak(held: list[int]) -> None:
    assert not keeps_growing(np.array(held))


@pytest.mark.parametrize(
    ("held", "unclear"),
    [
        ([0, 1, 2, 3], True),
        ([0, 0, 0, 0, 5, 7], True),
        ([0, 0, 0, 0, 0, 5], False),  # made once
        ([0, 0, 0, 8, 8, 16], False),
        ([0, 0, 0, 3, 2, 1], False),
        ([0, 0, 0, 8, 8, 8], False),
        ([0, 1, 2, 3, 4], False),  # it is a leak
        ([0, 0, 0, 0], False),
    ],
)
def test_what_grew_in_each_of_too_few_steps_may_be_a_leak(held: list[int], unclear: bool) -> None:
    assert may_grow(np.array(held)) == unclear


def test_one_tensor_that_grows_from_the_second_step_on_is_a_leak() -> None:
    cat = [block(step, step + 1 if step < 5 else None, size=8 * (step + 1), op=IN_FORWARD) for step in range(1, 6)]
    (leak,) = memory(recorded(block(0, 1), *cat)).leaks
    assert (leak.op, leak.bytes, leak.growth, leak.steps) == ("aten::clone", 48, 8.0, 5)


@pytest.mark.parametrize("count", [4, 5, 6])
def test_a_live_tensor_that_is_concatenated_in_every_step_grows_by_what_is_added(count: int) -> None:
    held = None
    with profile() as prof:
        for _ in range(count):
            y = torch.zeros(1024)
            held = y if held is None else torch.cat([held, y])
            prof.step()
    found = memory(prof.trace)
    if count == 4:
        assert found.leaks == []
        assert found.leaks_unknown is not None
        assert "aten::cat held nothing at first, and more in each step since, of which 4 are needed" in found.leaks_unknown
        assert f"Leaks: unknown, because {found.leaks_unknown}" in str(found)
        assert "nothing held more and more" not in str(found)
    else:
        assert [(leak.op, leak.bytes, leak.growth) for leak in found.leaks] == [("aten::cat", 4096 * count, 4096.0)]
        assert found.leaks_unknown is None


def test_a_leak_that_is_clear_stands_beside_one_that_is_not() -> None:
    late = [block(step, op=INSIDE_IT, module=1) for step in (4, 5)]
    text = str(memory(recorded(*(block(step) for step in range(6)), *late)))
    assert "Leaks: these held more and more at the ends of steps" in text
    assert (
        "Further leaks: unknown, because too few steps to tell: aten::clone in fc held nothing at first, and more in each step "
        "since, of which 4 are needed"
    ) in text


def test_memory_whose_size_varies_at_random_is_hardly_ever_called_a_leak() -> None:
    random = np.random.default_rng(1)
    series = random.integers(1, 1000, size=(2000, 9))
    assert sum(keeps_growing(held) for held in series) <= 12  # 1 of 300 by chance


@pytest.mark.parametrize("count", range(FEWEST_STEPS))
def test_with_few_steps_there_is_no_telling(count: int) -> None:
    found = memory(recorded(*(block(step) for step in range(count)), of=count))
    assert found.leaks == []
    assert found.leaks_unknown == f"too few steps to tell: 4 are needed, and {count} {'was' if count == 1 else 'were'} recorded"
    assert f"Leaks: unknown, because {found.leaks_unknown}" in str(found)


def test_with_enough_steps_it_is_known_that_nothing_leaks() -> None:
    found = memory(recorded(of=FEWEST_STEPS))
    assert (found.leaks, found.leaks_unknown) == ([], None)
    assert "Leaks: nothing held more and more at the ends of steps" in str(found)


@pytest.mark.parametrize("table", ["allocations", "ops", "module_calls"])
def test_no_leak_is_told_of_lost_data(table: str) -> None:
    blocks = [block(step) for step in range(6)]
    assert len(memory(recorded(*blocks)).leaks) == 1
    found = memory(recorded(*blocks, losses={table: 7, "operands": 0}))
    name = table.replace("_", " ")
    assert found.leaks == []
    assert found.leaks_unknown == f"rows of {name} were lost, and what was freed may be among them"
    text = str(found)
    assert ("Held at the end of step" in text) == (table != "allocations")
    assert ("(INCOMPLETE: of what was recorded)" in text.splitlines()[0]) == (table == "allocations")
    assert text.endswith(f"INCOMPLETE: 7 {name} did not fit the budget; figures above miss them")


def test_of_many_steps_the_held_bytes_of_some_are_printed() -> None:
    found = memory(recorded(*(block(step) for step in range(100)), of=100))
    line = next(line for line in str(found).splitlines() if line.startswith("Held at the ends of "))
    assert line.startswith("Held at the ends of 10 of 100 steps: 0: 8 B, 11: 96 B, 22: 184 B")
    assert line.endswith("99: 800 B")
    assert line.count(":") == 11


def held_in_a_loop(blocks: Sequence[dict[str, int]], count: int) -> list[int]:
    """Bytes held at the end of every step, by the definition."""
    ends = [row["end"] for row in steps(count)]
    return [sum(b["bytes"] for b in blocks if b["start"] < end and not 0 <= b["end"] < end) for end in ends]


def test_held_bytes_are_those_of_a_simple_loop() -> None:
    random = np.random.default_rng(2)
    blocks = []
    for _ in range(300):
        step = int(random.integers(0, 12))
        freed = int(random.integers(step, 14))
        blocks.append(block(step, freed if freed < 12 else None, size=int(random.integers(1, 99))))
    assert memory(recorded(*blocks, of=12)).steps.held.tolist() == held_in_a_loop(blocks, 12)
