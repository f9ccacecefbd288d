"""Leaks in memory snapshots: stacks that hold more and more, and what is none."""

from __future__ import annotations

from typing import Any

import pytest
from snapshot_programs import MIB, Program, Training, of_forward, of_loading, of_optimizer, script

import torchprof
from torchprof.allocator.snapshot_leaks import StackLeak

LEAK = ("/a/train.py:17 train", "/a/train.py:99 <module>")


@pytest.mark.parametrize("engine_is_seen", [True, False])
def test_a_healthy_training_loop_has_no_leaks(engine_is_seen: bool) -> None:
    """Parameters, the state that the first step makes, a cache that fills in two steps, and a batch that is loaded ahead."""
    program = Training(engine_is_seen)
    for number in range(9):
        program.step()
        if number < 2:
            program.allocate("", MIB, script(18))
    memory = torchprof.memory(program.snapshot())
    assert (memory.leaks, memory.leaks_unknown) == ([], None)
    assert "Leaks: nothing held more and more at the ends of steps (9 steps, told by Optimizer.step#AdamW.step ranges)" in str(
        memory
    )


def test_a_leak_is_named_by_its_stack_with_its_growth() -> None:
    program = Training()
    for _ in range(6):
        program.step()
        program.allocate("", 3 * 512, script(17))
    memory = torchprof.memory(program.snapshot())
    (leak,) = memory.leaks
    assert leak == StackLeak(LEAK, "unknown", 6, 6 * 3 * 512, 6, 3 * 512.0)
    assert "Leaks: these held more and more at the ends of steps (6 steps" in str(memory)
    assert [row["name"] for row in memory.leak_table.to_dict()] == ["train.py:17 train"]


def test_activations_that_a_list_keeps_are_a_leak_of_the_forward_line() -> None:
    program = Training()
    for _ in range(6):
        program.allocate("", 512, of_forward(2, line=19))
        program.step()
    (leak,) = torchprof.memory(program.snapshot()).leaks
    assert leak == StackLeak(leak.stack, "outputs", 6, 6 * 512, 6, 512.0)
    assert leak.stack[3] == "/a/model.py:22 forward"


def test_one_block_that_is_replaced_by_a_bigger_one_is_growth() -> None:
    program = Training()
    before: int | None = None
    for number in range(6):
        program.step()
        after = program.allocate("", (number + 1) * 512, script(17))
        if before is not None:
            program.free(before, frames=script(17))
        before = after
    assert [(leak.bytes, leak.blocks, leak.growth) for leak in torchprof.memory(program.snapshot()).leaks] == [
        (6 * 512, 1, 512.0)
    ]


def test_a_leak_that_began_late_is_said_to_be_unknown() -> None:
    program = Training()
    for number in range(9):
        program.step()
        if number >= 6:
            program.allocate("", 512, script(17))
    memory = torchprof.memory(program.snapshot())
    assert memory.leaks == []
    assert str(memory.leaks_unknown).startswith("too few steps to tell: /a/train.py:17 train held nothing at first")


def test_a_history_that_begins_late_finds_the_leak_all_the_same() -> None:
    program = Training()
    for number in range(8):
        if number == 2:
            first = len(program.history) - 1
        program.step()
        program.allocate("", 512, script(17))
    memory = torchprof.memory(program.snapshot(first))
    assert [(leak.stack, leak.growth) for leak in memory.leaks] == [(LEAK, 512.0)]


def loop(program: Program, rounds: int, leaks: bool) -> dict[str, Any]:
    """Loads 30 parameters from one line, then serves requests."""
    for _ in range(30):
        program.allocate("parameters", MIB, of_loading())
    for _ in range(rounds):
        batch = program.allocate("inputs", MIB, script(11))
        hidden = [program.allocate("", MIB, of_forward(layer)) for layer in (0, 0, 1)]
        if leaks:
            program.allocate("", 512, script(17))
        program.free(*hidden, batch, frames=of_forward(1))
    return program.snapshot()


def test_steps_of_a_program_without_optimizer_are_told_by_a_stack_that_recurs() -> None:
    memory = torchprof.memory(loop(Program(), 6, leaks=True))
    assert memory.steps is not None
    assert (len(memory.steps.ends), memory.steps.told_by) == (6, "a stack that recurs")
    assert [(leak.stack, leak.growth) for leak in memory.leaks] == [(LEAK, 512.0)]
    assert "6 steps, told by a stack that recurs, train.py:11 train" in str(memory)
    healthy = torchprof.memory(loop(Program(), 6, leaks=False))
    assert (healthy.leaks, healthy.leaks_unknown) == ([], None)


@pytest.mark.parametrize(("rounds", "layers"), [(6, 24), (5, 3), (2, 12)])
def test_what_recurs_in_every_layer_is_no_step(rounds: int, layers: int) -> None:
    program = Program()
    for _ in range(rounds):
        batch = program.allocate("inputs", MIB, script(11))
        hidden = [program.allocate("", MIB, [*of_forward(line)]) for _ in range(layers) for line in range(4)]
        program.free(program.allocate("", MIB, script(14)), batch, *hidden, frames=script(15))
    memory = torchprof.memory(program.snapshot())
    assert memory.steps is not None
    assert len(memory.steps.ends) == rounds
    assert memory.leaks == []


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_training_of_few_steps_has_these_however_often_its_layers_recur(steps: int, ranges: bool) -> None:
    program = Training()
    for _ in range(steps):
        program.free(*(program.allocate("", MIB, of_forward(0)) for _ in range(24)), frames=of_forward(0))
        program.step()
    snapshot = program.snapshot()
    if not ranges:
        del snapshot["external_annotations"]
    memory = torchprof.memory(snapshot)
    were = "was" if steps == 1 else "were"
    assert memory.leaks_unknown == f"too few steps to tell: 4 are needed, and {steps} {were} found"


def test_loading_a_model_is_no_leak() -> None:
    memory = torchprof.memory(loop(Program(), 0, leaks=False))
    assert memory.leaks == []
    assert memory.leaks_unknown == "too few steps to tell: 4 are needed, and 0 were found"


def test_ranges_of_the_profiler_are_steps_before_all_else() -> None:
    program = Training()
    for number in range(4):
        with program.range(f"ProfilerStep#{number + 3}"):
            program.step()
            program.step()
    steps = torchprof.memory(program.snapshot()).steps
    assert steps is not None
    assert (len(steps.ends), steps.told_by) == (4, "ProfilerStep ranges")
    assert steps.ends[-1] == len(program.history)


def test_without_ranges_forward_that_begins_again_ends_a_step() -> None:
    program = Training()
    for _ in range(5):
        program.step()
    snapshot = program.snapshot()
    del snapshot["external_annotations"]
    steps = torchprof.memory(snapshot).steps
    assert steps is not None
    assert (len(steps.ends), steps.told_by) == (5, "the optimizer")


def test_where_the_optimizer_allocates_only_once_backward_ends_a_step() -> None:
    program = Program()
    for number in range(5):
        activation = program.allocate("activations", MIB, of_forward(0))
        gradient = program.allocate("gradients", MIB, [])
        program.free(activation, frames=[])
        if number == 0:
            program.allocate("optimizer state", MIB, of_optimizer())
        program.free(gradient, frames=script(9))
    snapshot = program.snapshot()
    steps = torchprof.memory(snapshot).steps
    assert steps is not None
    assert (len(steps.ends), steps.told_by) == (5, "backward")


def test_without_stacks_leaks_are_unknown() -> None:
    program = Program()
    for _ in range(9):
        program.allocate("", 512, None)
    memory = torchprof.memory(program.snapshot())
    assert (memory.leaks, memory.leaks_unknown) == ([], "no stacks were recorded")
    assert "Leaks: unknown, because no stacks were recorded" in str(memory)
    assert torchprof.memory(program.snapshot()["segments"]).leaks_unknown == "no history was recorded"
