"""The lines of real models, against those that ``sys.settrace`` sees, and how many ops of backward have one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from architectures import Case, bert, gpt2, llama, loss_of, resnet, t5, vit
from stacks import TRUTH, stack_in, stacks_in, traced

import torchprof
from torchprof.analysis.autograd import forward_and_backward_ops
from torchprof.trace.schema import Phase, phases

MODELS = pytest.mark.parametrize("make", [gpt2, llama, bert, t5, vit, resnet], ids=lambda make: make.__name__)


@MODELS
@pytest.mark.filterwarnings("ignore")
def test_every_op_of_forward_has_the_line_that_python_says(make: Callable[[], Case]) -> None:
    torch.manual_seed(0)
    model, data = make()
    with torchprof.profile(model, stacks=True) as prof, traced() as truth:
        loss_of(model(**data))
    trace = prof.trace
    stacks = stacks_in(trace)
    seen = list(truth.of_ops(trace))
    assert len(seen) > 30
    for row, stack in seen:
        assert stacks[int(trace.op_stacks[row])] == stack
    outermost = [
        row
        for row, parent in enumerate(trace.ops["parent"].tolist())
        if parent < 0 and not trace.strings[int(trace.op_names[row])].startswith(TRUTH)
    ]
    assert outermost == []  # all were seen


@MODELS
@pytest.mark.filterwarnings("ignore")
def test_backward_differentiates_ops_with_lines(make: Callable[[], Case]) -> None:
    torch.manual_seed(0)
    model, data = make()
    with torchprof.profile(model, stacks=True) as prof:
        loss_of(model(**data)).backward()
    trace = prof.trace
    runs_python = trace.ops["thread"] == 0  # PyTorch's own threads run some ops, which have no line
    assert (trace.op_stacks[runs_python & (phases(trace.ops) != Phase.BACKWARD)] >= 0).all()
    forward, backward = forward_and_backward_ops(trace)
    assert len(forward) > 30
    assert (trace.op_stacks[forward] >= 0).all()
    assert (trace.op_stacks[backward] >= 0).all()
    calls = np.unique(trace.call_stacks)
    assert (calls >= 0).all()


def test_stacks_of_steps_that_are_added_up_are_those_of_the_whole_trace() -> None:
    def record(*, aggregate: bool) -> torchprof.Trace:
        torch.manual_seed(0)
        model, data = gpt2()
        optimizer = torch.optim.AdamW(model.parameters())
        with torchprof.profile(model, stacks=True, aggregate=aggregate) as prof:
            for _ in range(4):
                loss_of(model(**data)).backward()
                optimizer.step()
                optimizer.zero_grad()
                prof.step()
        return prof.trace

    whole, folded = record(aggregate=False), record(aggregate=True)
    assert (folded.op_totals["stack"] >= 0).mean() > 0.98
    assert (folded.call_totals["stack"] >= 0).all()
    counted: Counter[tuple[str, str]] = Counter()
    stacks = stacks_in(folded)
    for stack, phase, signature, count in folded.op_totals[["stack", "phase", "signature", "count"]].tolist():
        if phase != Phase.BACKWARD:
            counted[str(stacks[stack]), folded.strings[folded.signatures["name"][signature]]] += count
    truth: Counter[tuple[str, str]] = Counter()
    stacks = stacks_in(whole)
    columns = whole.op_stacks.tolist(), phases(whole.ops).tolist(), whole.op_names.tolist()
    for stack, phase, name in zip(*columns, strict=True):
        if phase != Phase.BACKWARD:
            truth[str(stacks[stack]), whole.strings[name]] += 1
    assert counted == truth


def test_sums_of_backward_have_the_line_of_forward() -> None:
    def square(x: torch.Tensor) -> torch.Tensor:
        return x * x

    weight = torch.ones(3, requires_grad=True)
    with torchprof.profile(stacks=True, aggregate=True) as prof:
        for _ in range(3):
            square(weight).sum().backward()
            prof.step()
    trace = prof.trace
    lines = {}
    for row in trace.op_totals:
        lines[trace.strings[trace.signatures["name"][row["signature"]]]] = stack_in(trace, int(row["stack"]))[-1][0]
    assert lines["MulBackward0"] == square.__qualname__
    assert lines["torch::autograd::AccumulateGrad"] == square.__qualname__
    assert lines["autograd::engine::evaluate_function: MulBackward0"] == square.__qualname__


def test_stacks_beyond_the_most_that_an_op_may_have_are_counted() -> None:
    source = "\n".join("torch.ones(2)" for _ in range(100))
    with torchprof.profile(stacks=True, aggregate=True) as prof:
        for _ in range(3):
            exec(compile(source, "long.py", "exec"), {"torch": torch})
            prof.step()
    trace = prof.trace
    ones = [row for row in trace.op_totals if trace.strings[trace.signatures["name"][row["signature"]]] == "aten::ones"]
    by_line = {stack_in(trace, int(row["stack"]))[-1][2]: int(row["count"]) for row in ones if row["stack"] >= 0}
    assert by_line == dict.fromkeys(range(1, 65), 3)
    assert [int(row["count"]) for row in ones if row["stack"] < 0] == [36 * 3]
    assert trace.losses["stacks"] > 0
