"""Stacks of Python of ops, module calls and allocations, against what `sys._getframe` says on the same line of the program."""

from __future__ import annotations

import asyncio
import functools
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from stacks import At, stack_in, stack_of, stacks_in
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import torchprof
from torchprof.analysis.python_frames import python_frames
from torchprof.record import recorder

FLOAT = 4


@dataclass
class Truth:
    """The stacks of ``torch.zeros(truth())``, by the number of elements, which no two have in common."""

    stacks: dict[int, list[At]] = field(default_factory=dict)

    def __call__(self) -> int:
        size = len(self.stacks) + 1001
        self.stacks[size] = stack_of(sys._getframe(1))
        return size

    def check(self, trace: torchprof.Trace, how: str = "frames") -> None:
        """Whether the ops, and the blocks that they allocated, have these stacks."""
        assert trace.facts["stacks"] == how
        names = [trace.strings[name] for name in trace.op_names.tolist()]
        ops = {}
        for row, (name, op) in enumerate(zip(names, trace.ops, strict=True)):
            if name == "aten::zeros":
                ops[trace.shape(int(trace.tensors["shape"][trace.operands[op["outputs"]]]))[0]] = row
        blocks = {int(block["bytes"]): row for row, block in enumerate(trace.allocations)}
        assert sorted(self.stacks) == sorted(ops)
        stacks = stacks_in(trace)
        for size, stack in self.stacks.items():
            assert stacks[trace.op_stacks[ops[size]]] == stack
            assert stacks[trace.allocation_stacks[blocks[size * FLOAT]]] == stack


def recorded(program: Callable[[Truth], object]) -> tuple[torchprof.Trace, Truth]:
    truth = Truth()
    with torchprof.profile(stacks=True) as prof:
        program(truth)
    return prof.trace, truth


def check(program: Callable[[Truth], object]) -> torchprof.Trace:
    trace, truth = recorded(program)
    truth.check(trace)
    return trace


def test_every_line_of_a_function_has_its_own_stack() -> None:
    def program(truth: Truth) -> None:
        torch.zeros(truth())
        torch.zeros(truth())
        for _ in range(2):
            torch.zeros(truth())

    trace = check(program)
    lines = [stack[-1][2] for stack in (stack_in(trace, int(row)) for row in trace.op_stacks[trace.ops["parent"] < 0])]
    first = program.__code__.co_firstlineno
    assert lines == [first + 1, first + 2, first + 4, first + 4]


def test_ops_inside_an_op_have_its_stack() -> None:
    trace = check(lambda truth: torch.zeros(truth()))
    assert len(trace.ops) > 1
    assert set(trace.op_stacks.tolist()) == {int(trace.op_stacks[0])}


def test_without_stacks_the_tables_are_empty() -> None:
    with torchprof.profile(stacks=False) as prof:
        torch.zeros(3)
    trace = prof.trace
    assert trace.facts["stacks"] is False
    assert [len(getattr(trace, name)) for name in ("functions", "stacks", "op_stacks", "call_stacks", "allocation_stacks")] == [
        0
    ] * 5


def test_functions_have_their_file_and_first_line() -> None:
    trace, _ = recorded(lambda truth: torch.zeros(truth()))
    frame = python_frames(trace)[int(trace.op_stacks[0])]
    assert frame.file == __file__
    assert frame.first_line == frame.line
    assert frame.name == "test_functions_have_their_file_and_first_line.<locals>.<lambda>"


def test_generators_comprehensions_and_callbacks_of_c() -> None:
    def numbers(truth: Truth) -> Iterator[int]:
        torch.zeros(truth())
        yield 1
        torch.zeros(truth())
        yield 2

    def program(truth: Truth) -> None:
        def called_by_c(_: int) -> None:
            torch.zeros(truth())

        list(numbers(truth))
        _ = [torch.zeros(truth()) for _ in range(2)]
        _ = {len(torch.zeros(truth())) for _ in range(2)}
        list(map(called_by_c, range(2)))
        sorted([3, 1, 2], key=lambda number: float(torch.zeros(truth())[0]) + number)
        functools.reduce(lambda a, _: a + torch.zeros(truth()).sum(), range(2), torch.ones(()))

    check(program)


class Named:
    """Special methods that C calls."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth

    def __enter__(self) -> None:
        torch.zeros(self.truth())

    def __exit__(self, *_: object) -> None:
        torch.zeros(self.truth())

    def __iter__(self) -> Iterator[Tensor]:
        yield torch.zeros(self.truth())
        yield from [torch.zeros(self.truth())]

    def __del__(self) -> None:
        torch.zeros(self.truth())

    def __add__(self, other: int) -> Tensor:
        return torch.zeros(self.truth()) + other

    @property
    def value(self) -> Tensor:
        return torch.zeros(self.truth())


def test_special_methods() -> None:
    def program(truth: Truth) -> None:
        named = Named(truth)
        with named:
            list(named)
        _ = named + 1
        _ = named.value
        del named

    check(program)


def test_coroutines() -> None:
    async def step(truth: Truth) -> None:
        torch.zeros(truth())
        await asyncio.sleep(0)
        torch.zeros(truth())

    async def steps(truth: Truth) -> None:
        await asyncio.gather(step(truth), step(truth))
        await step(truth)

    check(lambda truth: asyncio.run(steps(truth)))


def test_exceptions() -> None:
    def program(truth: Truth) -> None:
        for _ in range(3):
            try:
                torch.zeros(truth())
                torch.ones(2) @ torch.ones(3)
            except RuntimeError:
                torch.zeros(truth())
            finally:
                torch.zeros(truth())

    check(program)


def test_threads_have_their_own_stacks() -> None:
    def program(truth: Truth) -> None:
        def work() -> None:
            for _ in range(20):
                with lock:
                    torch.zeros(truth())
                torch.ones(2)

        lock = threading.Lock()
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    trace = check(program)
    names = {stack_in(trace, int(row))[0][0] for row in trace.op_stacks[trace.ops["thread"] > 0]}
    assert names == {"Thread._bootstrap"}


def test_code_that_ended_is_not_taken_for_what_came_to_be_where_it_was() -> None:
    def program(truth: Truth) -> None:
        addresses = []
        for number in range(100):
            source = "\n" * number + f"def made_{number}():\n  torch.zeros(truth())\nmade_{number}()"
            space: dict[str, Any] = {"torch": torch, "truth": truth}
            exec(compile(source, f"file_{number}.py", "exec"), space)
            addresses.append(id(space[f"made_{number}"].__code__))
            del space
            gc.collect()
        assert len(set(addresses)) < len(addresses)

    trace = check(program)
    names = {frame.name for frame in python_frames(trace)}
    assert {f"made_{number}" for number in range(100)} <= names


def test_recursion_is_bounded_and_that_is_said() -> None:
    def deeper(levels: int) -> None:
        if levels > 0:
            deeper(levels - 1)
        else:
            torch.ones(3)

    before = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    try:
        trace, _ = recorded(lambda _: deeper(5000))
    finally:
        sys.setrecursionlimit(before)
    stack = stack_in(trace, int(trace.op_stacks[0]))
    assert (stack[0], len(stack)) == (("... more frames", "?", None), 1025)
    assert {name for name, _, _ in stack[1:]} == {"test_recursion_is_bounded_and_that_is_said.<locals>.deeper"}


def test_recursion_with_an_op_at_each_level() -> None:
    def deeper(levels: int, truth: Truth) -> None:
        torch.zeros(truth())
        if levels > 0:
            deeper(levels - 1, truth)
        torch.zeros(truth())

    check(lambda truth: deeper(50, truth))


def test_user_ranges_and_what_runs_in_them() -> None:
    def program(truth: Truth) -> None:
        with torch.profiler.record_function("outer"):
            torch.zeros(truth())
            with torch.profiler.record_function("inner"):
                torch.zeros(truth())
            torch.zeros(truth())
        for _ in range(3):
            with torch.profiler.record_function("again"), torch.profiler.record_function("and again"):
                torch.zeros(truth())

    trace = check(program)
    for row, name in enumerate(trace.op_names.tolist()):
        if trace.strings[name] in ("outer", "inner", "again", "and again"):
            assert program.__qualname__ in [function for function, _, _ in stack_in(trace, int(trace.op_stacks[row]))]


def test_autograd_functions_run_python_inside_an_op() -> None:
    truth = Truth()

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            torch.zeros(truth())
            return x * 2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            torch.zeros(truth())
            torch.zeros(truth())
            return gradient * 2

    with torchprof.profile(stacks=True) as prof:
        x = torch.ones(3, requires_grad=True)
        Double.apply(x).sum().backward()
    truth.check(prof.trace)


def test_recomputation_has_the_line_that_runs_again() -> None:
    truth = Truth()

    def block(x: Tensor) -> Tensor:
        return x.sin() * torch.zeros(truth()).sum()

    with torchprof.profile(stacks=True) as prof:
        x = torch.ones(3, requires_grad=True)
        checkpoint(block, x, use_reentrant=False).sum().backward()
    assert len(truth.stacks) == 2
    truth.check(prof.trace)


def test_backward_ops_have_the_line_of_backward() -> None:
    def program(truth: Truth) -> None:
        x = torch.ones(3, requires_grad=True)
        (x * 2).sum().backward()

    trace, _ = recorded(program)
    backward = [row for row, op in enumerate(trace.ops) if op["scope"] == 1]
    assert backward
    for row in backward:
        stack = stack_in(trace, int(trace.op_stacks[row]))
        assert (program.__qualname__, __file__, program.__code__.co_firstlineno + 2) in stack


def test_dispatch_modes_run_python_inside_an_op() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    truth = Truth()

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            if "sin" in str(function):
                torch.zeros(truth())
            return result

    with torchprof.profile(stacks=True) as prof:
        with Mode():
            torch.ones(3).sin()
        torch.ones(3).sin()
    truth.check(prof.trace)


def test_blocks_that_are_made_outside_of_ops() -> None:
    with torchprof.profile(stacks=True) as prof:
        kept = torch.UntypedStorage(12_345)
        line = sys._getframe().f_lineno - 1
    trace = prof.trace
    row = trace.allocations["bytes"].tolist().index(12_345)
    assert trace.allocations["op"][row] == -1
    assert stack_in(trace, int(trace.allocation_stacks[row]))[-1][2] == line
    del kept


def test_module_calls_have_the_line_that_called_them() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.second.__call__(x)  # type: ignore[no-any-return]

    pair = Pair()
    with torchprof.profile(pair, stacks=True) as prof:
        pair(torch.ones(1, 2))
        line = sys._getframe().f_lineno - 1
    trace = prof.trace
    innermost = [stack_in(trace, row)[-1] for row in trace.call_stacks.tolist()]
    forward = Pair.forward.__code__
    assert innermost == [
        (test_module_calls_have_the_line_that_called_them.__qualname__, __file__, line),
        (forward.co_qualname, __file__, forward.co_firstlineno + 1),
        (forward.co_qualname, __file__, forward.co_firstlineno + 2),
    ]


def test_calls_have_stacks_without_ops() -> None:
    with torchprof.profile(ops=False, stacks=True) as prof:
        nn.Linear(2, 2)(torch.ones(1, 2))
    trace = prof.trace
    assert len(trace.call_stacks) == 1
    assert stack_in(trace, int(trace.call_stacks[0]))[-1][1] == __file__


def test_what_does_not_fit_the_budget_is_counted() -> None:
    source = "\n".join("torch.ones(2)" for _ in range(20_000))
    with torchprof.profile(stacks=True, memory=False, budget=2**20) as prof:
        exec(compile(source, "long.py", "exec"), {"torch": torch})
    trace = prof.trace
    known = trace.op_stacks[trace.ops["parent"] < 0]
    assert trace.losses["stacks"] > 0
    assert (known == -1).any()
    lines = [stack_in(trace, row)[-1][2] for row in known.tolist()[:200:40]]
    assert lines == [1, 41, 81, 121, 161]


def test_code_is_not_kept_alive() -> None:
    space: dict[str, Any] = {"torch": torch}
    exec("def made():\n  torch.ones(3)", space)
    code = weakref.ref(space["made"].__code__)
    with torchprof.profile(stacks=True) as prof:
        space["made"]()
        del space
        gc.collect()
        assert code() is None
    assert stack_in(prof.trace, int(prof.trace.op_stacks[0]))[-1] == ("made", "<string>", 2)


def test_a_trace_with_stacks_is_saved_and_read(tmp_path: Any) -> None:
    trace, _ = recorded(lambda truth: torch.zeros(truth()))
    trace.save(tmp_path / "x.torchprof")
    read = torchprof.load(tmp_path / "x.torchprof")
    assert stack_in(read, int(read.op_stacks[0])) == stack_in(trace, int(trace.op_stacks[0]))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a Python whose frames are not known."""
    monkeypatch.setattr(recorder, "how_stacks_are_read", lambda: "api")


@pytest.mark.usefixtures("asked")
def test_python_is_asked_where_frames_are_not_known() -> None:
    def numbers(truth: Truth) -> Iterator[Tensor]:
        yield torch.zeros(truth())
        with torch.profiler.record_function("range"):
            yield torch.zeros(truth())

    def program(truth: Truth) -> None:
        list(numbers(truth))
        thread = threading.Thread(target=lambda: torch.zeros(truth()))
        thread.start()
        thread.join()
        for number in range(20):
            space: dict[str, Any] = {"torch": torch, "truth": truth}
            exec(compile(f"def made_{number}():\n  torch.zeros(truth())\nmade_{number}()", "made.py", "exec"), space)
        nn.Linear(2, 2)(torch.ones(1, 2))

    trace, truth = recorded(program)
    truth.check(trace, how="api")
    assert [stack_in(trace, row)[-1][0] for row in trace.call_stacks.tolist()] == [program.__qualname__]


@pytest.mark.usefixtures("asked")
def test_where_python_is_asked_ops_inside_ops_have_the_stack_of_the_outermost() -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * 2

    with torchprof.profile(stacks=True) as prof:
        Double.apply(torch.ones(3, requires_grad=True)).sum().backward()
    trace = prof.trace
    inner = np.flatnonzero(trace.ops["parent"] >= 0)
    parents = trace.ops["parent"][inner]
    of_op = trace.ops["scope"][parents] != 7
    assert (trace.op_stacks[inner[of_op]] == trace.op_stacks[parents[of_op]]).all()


@pytest.mark.usefixtures("asked")
def test_many_threads_are_asked_while_the_recording_ends() -> None:
    def work() -> None:
        while not done.is_set():
            torch.ones(2)

    done = threading.Event()
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        with torchprof.profile(stacks=True) as prof:
            torch.ones(2)
        assert (prof.trace.op_stacks[prof.trace.ops["parent"] < 0] >= 0).all()
    done.set()
    for thread in threads:
        thread.join()


def test_torch_func_and_compiled_code_have_lines_or_none() -> None:
    def loss(x: Tensor) -> Tensor:
        return (x * x).sum()

    with torchprof.profile(stacks=True) as prof:
        torch.func.grad(loss)(torch.ones(3))
        torch.func.vmap(loss)(torch.ones(2, 3))
        torch.compile(loss, backend="eager")(torch.ones(3))
    trace = prof.trace
    innermost = [stack_in(trace, row)[-1] for row in trace.op_stacks.tolist() if row >= 0]
    line = loss.__code__.co_firstlineno + 1
    assert [frame for frame in innermost if frame[:2] == (loss.__qualname__, __file__)].count(
        (loss.__qualname__, __file__, line)
    ) > 3


def test_greenlets_have_their_own_stacks() -> None:
    greenlet = pytest.importorskip("greenlet")

    def program(truth: Truth) -> None:
        def first() -> None:
            torch.zeros(truth())
            other.switch()
            torch.zeros(truth())

        def second() -> None:
            torch.zeros(truth())
            one.switch()

        one, other = greenlet.greenlet(first), greenlet.greenlet(second)
        one.switch()
        torch.zeros(truth())

    check(program)
