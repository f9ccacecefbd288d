"""What the blocks of a memory snapshot are used for: estimated from stacks and lifetimes, on programs that know it."""

from __future__ import annotations

from collections import Counter

import pytest
from snapshot_programs import (
    ENGINE,
    MIB,
    OF_CUBLAS,
    RECORDING,
    TORCH,
    Frames,
    Program,
    Training,
    cpp,
    frame,
    of_backward,
    of_forward,
    of_loading,
    of_optimizer,
    of_recomputation,
    of_zero_grad,
    script,
)

import torchprof
from torchprof.allocator.stack_roles import Role, roles
from torchprof.importers.stacks import Stacks
from torchprof.tables.snapshot_memory import SnapshotMemory


def found_of(program: Program, memory: SnapshotMemory) -> dict[int, str]:
    """By number of the block, the category of those that the history allocated."""
    mine = memory.blocks["start"] >= 0
    names = [torchprof.SNAPSHOT_CATEGORIES[category] for category in memory.category[mine].tolist()]
    return dict(zip(range(len(program.what) - len(names), len(program.what)), names, strict=True))


def wrong(program: Program, memory: SnapshotMemory) -> Counter[tuple[str, str]]:
    """How many blocks are (in truth, found) two things."""
    return Counter(
        (program.what[number], found) for number, found in found_of(program, memory).items() if found != program.what[number]
    )


@pytest.mark.parametrize("engine_is_seen", [True, False])
def test_blocks_of_a_training_loop_are_told_by_stack_and_lifetime(engine_is_seen: bool) -> None:
    program = Training(engine_is_seen)
    for _ in range(4):
        program.step()
    memory = torchprof.memory(program.snapshot())
    assert wrong(program, memory) == Counter()


def test_categories_add_up_to_the_peak() -> None:
    program = Training()
    for _ in range(3):
        program.step()
    memory = torchprof.memory(program.snapshot())
    assert memory.peak == sum(memory.by_category.values()) == program.at_peak.total()
    assert {name: size for name, size in memory.by_category.items() if size} == program.at_peak
    assert [(row["name"], row["at_peak"]) for row in memory.categories.rows] == [
        (name, size) for name, size in memory.by_category.items() if size
    ]


def test_what_a_history_that_ends_in_backward_leaves_open_is_told_by_earlier_steps_or_unknown() -> None:
    def until_backward(steps: int) -> Training:
        program = Training()
        for _ in range(steps):
            program.step()
        program.forward()
        program.allocate("gradients", 4 * MIB, of_backward("SumBackward0"))
        program.allocate("gradients", 4 * MIB, of_backward())
        return program

    first, later = until_backward(0), until_backward(3)
    found = wrong(first, torchprof.memory(first.snapshot()))
    assert found == {("activations", "unknown"): Training.LAYERS, ("gradients", "unknown"): 2, ("inputs", "unknown"): 1}
    assert wrong(later, torchprof.memory(later.snapshot())) == {
        ("gradients", "unknown"): 1
    }  # of a stack met for the first time


def test_a_history_that_begins_late_knows_what_was_there_by_stack_at_the_end_or_by_how_it_was_freed() -> None:
    program = Training()
    program.step()
    kept = program.forward()
    first, truth = len(program.history), program.held()
    for number in kept:
        program.free(number, frames=of_backward())
    program.step()
    memory = torchprof.memory(program.snapshot(first))
    before = memory.blocks["start"] < 0
    found: Counter[str] = Counter()
    for category, size in zip(memory.category[before].tolist(), memory.blocks["bytes"][before].tolist(), strict=True):
        found[torchprof.SNAPSHOT_CATEGORIES[category]] += size
    unknown = truth.pop("inputs") + truth.pop("outputs")  # freed later, by what says nothing, and the history has no stack
    assert found == {**truth, "unknown": unknown}


def test_recomputed_activations_are_told_from_what_is_gone_at_once() -> None:
    program = Program()
    program.allocate("parameters", 4 * MIB, of_loading())
    for _ in range(2):
        kept = program.allocate("activations", 2 * MIB, of_forward(0))
        again = program.allocate("activations", 3 * MIB, of_recomputation(0))
        scratch = program.allocate("temporaries", 3 * MIB, of_recomputation(0))
        program.free(scratch, frames=of_recomputation(0))
        flowing = program.allocate("temporaries", 5 * MIB, of_backward())
        second = program.allocate("activations", 3 * MIB, of_recomputation(1))
        gradient = program.allocate("gradients", 4 * MIB, of_backward())
        program.free(again, kept, flowing, second, frames=of_backward())
        program.free(program.allocate("temporaries", MIB, of_optimizer("_fused_adamw")), frames=of_optimizer())
        program.free(gradient, frames=of_zero_grad())
    assert wrong(program, torchprof.memory(program.snapshot())) == Counter()


def test_inference_makes_temporaries_and_what_is_kept_is_an_output() -> None:
    program = Program()
    program.allocate("parameters", 4 * MIB, of_loading())
    for _ in range(3):
        batch = program.allocate("inputs", MIB, script(11))
        hidden = program.allocate("temporaries", 3 * MIB, of_forward(0))
        program.allocate("outputs", 2 * MIB, of_forward(1))  # a cache
        program.free(hidden, frames=of_forward(1))
        program.free(batch, frames=script(11))
    found = wrong(program, torchprof.memory(program.snapshot()))
    assert found == {}


def test_without_stacks_ranges_of_the_optimizer_are_what_is_known() -> None:
    program = Program()
    gradient = program.allocate("gradients", 4 * MIB, None)
    with program.range("Optimizer.step#SGD.step"):
        program.allocate("optimizer state", 4 * MIB, None)
    with program.range("Optimizer.zero_grad#SGD.zero_grad"):
        program.free(gradient)
    memory = torchprof.memory(program.snapshot())
    assert found_of(program, memory) == {0: "gradients", 1: "unknown"}  # the state: nothing shows that it is held afterwards


def test_where_nothing_tells_categories_they_are_said_to_be_unknown() -> None:
    program = Program()
    program.free(program.allocate("", 4 * MIB, None))
    memory = torchprof.memory(program.snapshot())
    assert memory.by_category["unknown"] == memory.peak == 4 * MIB
    assert "Categories: unknown, because no stacks were recorded that tell them" in str(memory)
    assert "estimated from stacks" not in str(memory)


def test_what_the_program_says_itself_is_shown() -> None:
    program = Program()
    program.allocate("", 4 * MIB, script(11), metadata="request 7")
    program.allocate("", 2 * MIB, script(11))
    memory = torchprof.memory(program.snapshot())
    assert memory.by_metadata == {"request 7": 4 * MIB, "": 2 * MIB}
    assert "By user metadata: request 7 4,096.0 KiB, (none) 2,048.0 KiB" in str(memory)


CUSTOM = [
    frame("/a/ops.py", 30, "backward"),
    frame(f"{TORCH}autograd/function.py", 311, "apply"),
    *cpp("torch::autograd::PyNode::apply(std::vector<at::Tensor>&&)"),
]


@pytest.mark.parametrize(
    ("frames", "role"),
    [
        (of_forward(0), Role.FORWARD),
        (of_backward(), Role.BACKWARD),
        ([], Role.BACKWARD),  # beside stacks with Python
        (of_recomputation(0), Role.RECOMPUTATION),
        (of_optimizer(), Role.OPTIMIZER),
        (of_zero_grad(), Role.ZEROING),
        (of_loading(), Role.LOADING),
        (OF_CUBLAS, Role.WORKSPACE),
        (script(3), Role.OTHER),
        (CUSTOM, Role.BACKWARD),
        (cpp("at::empty_like", "torch::autograd::AccumulateGrad::apply(...)", "torch::autograd::Engine::x"), Role.ACCUMULATION),
        (cpp("c10d::Reducer::initialize_buckets(...)") + script(4), Role.COMMUNICATION),
        # A closure: forward and backward inside the step of an optimizer are themselves.
        ([*of_forward(0), *of_optimizer("step")], Role.FORWARD),
        ([frame(f"{TORCH}_tensor.py", 9, "backward"), *of_optimizer("step")], Role.BACKWARD),
        ([frame("/venv/lib/bitsandbytes/optim/optimizer.py", 9, "step"), *script(15)], Role.OPTIMIZER),
        ([frame("/a/stepper.py", 9, "step"), *script(15)], Role.OTHER),
        ([frame("/a/model.py", 9, "Net.forward"), *script(15)], Role.FORWARD),  # named as of Python 3.11
        ([frame("C:\\lib\\torch\\optim\\sgd.py", 9, "step"), *script(15)], Role.OPTIMIZER),
        ([frame(f"{TORCH}utils/data/dataloader.py", 9, "__next__"), *script(10)], Role.DATA),
        ([frame("/venv/transformers/modeling_utils.py", 9, "from_pretrained"), *script(2)], Role.LOADING),
    ],
)
def test_the_role_of_a_stack(frames: Frames, role: Role) -> None:
    stacks = Stacks()
    number = stacks.number(frames)
    stacks.number(script(1))
    assert roles(stacks)[number] == role


def test_without_any_python_an_empty_stack_says_nothing() -> None:
    stacks = Stacks()
    assert roles(stacks)[stacks.number([])] == Role.UNKNOWN
    assert roles(stacks)[stacks.number(None)] == Role.UNKNOWN


def test_equal_stacks_have_one_number_and_lines_of_python() -> None:
    stacks = Stacks()
    number = stacks.number([*cpp("at::empty"), *script(3)])
    assert stacks.number([*cpp("at::empty"), *script(3)]) == number
    assert stacks.lines(number) == ("/a/train.py:3 train", "/a/train.py:99 <module>")
    assert stacks.lines(stacks.number(of_backward())) == ("AddmmBackward0 (aten::mm)",)
    assert stacks.lines(stacks.number(cpp("c10d::work()"))) == ("??:0 c10d::work()",)
    assert len(stacks) == 3


def test_lines_of_c_plus_plus_begin_where_memory_was_asked_for() -> None:
    stacks = Stacks()
    between = cpp("at::_ops::add_Tensor::call(at::Tensor const&)", "torch::autograd::InputBuffer::add(unsigned long)")
    assert stacks.lines(stacks.number([*RECORDING, *between, *ENGINE])) == ("autograd engine (aten::add_Tensor)",)
    alone = cpp("at::native::empty_cuda(c10::ArrayRef<long>)", "main")
    assert stacks.lines(stacks.number([*RECORDING, *alone])) == (
        "??:0 at::native::empty_cuda(c10::ArrayRef<long>)",
        "??:0 main",
    )
    assert stacks.lines(stacks.number(RECORDING)) == tuple(f"??:0 {frame['name']}" for frame in RECORDING)
