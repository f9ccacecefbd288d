"""Compiling is no work of the program, and compiled code may have kernels that are no ops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchprof
from torchprof.analysis.model.totals import Totals

FORWARD = 2 * 3 * 8 * (4 + 8)
SHOW_OPS = ["eager", "aot_eager"]
BACKENDS = [*SHOW_OPS, "inductor"]


@pytest.fixture(autouse=True)
def compiles_anew() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8))


def totals(model: Any, **options: Any) -> Totals:
    return torchprof.summary(model, (3, 4), verbose=0, **options).totals


def figures(found: Totals) -> tuple[Any, ...]:
    return (
        found.flops,
        found.flops_unknown,
        found.flops_backward,
        found.backward,
        found.allocated,
        found.peak,
        found.saved,
        found.recompute,
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_the_call_that_compiles_is_as_any_other(backend: str, grad: bool) -> None:
    model = torch.compile(network(), backend=backend)
    with torch.set_grad_enabled(grad):
        first, second = totals(model), totals(model)
    assert figures(first) == figures(second)
    assert (first.flops, first.backward) == (FORWARD, 0)
    assert (first.saved == 0) == (not grad)


@pytest.mark.parametrize("backend", SHOW_OPS)
def test_a_backward_that_compiles_is_as_any_other(backend: str) -> None:
    model = torch.compile(network(), backend=backend)
    first, second = totals(model, backward=True), totals(model, backward=True)
    assert first.flops == second.flops == FORWARD
    assert first.flops_backward == second.flops_backward == 2 * FORWARD - 2 * 3 * 4 * 8  # no gradient of the input
    assert first.flops_backward_unknown == second.flops_backward_unknown == {}


def test_what_inductor_wrote_may_do_more_than_is_seen() -> None:
    found = torchprof.summary(torch.compile(network()), (3, 4), verbose=0)
    assert found.totals.flops_unknown == {"compiled code": 1}
    assert f"FLOPs: at least {FORWARD}" in str(found)
    assert found.rows[0].flops_unknown == ("compiled code",)


def test_so_may_what_a_backend_of_ones_own_runs() -> None:
    model = torch.compile(network(), backend=lambda graph, inputs: graph.forward)
    assert totals(model).flops_unknown == {"compiled code": 1}


@pytest.mark.parametrize("backend", SHOW_OPS)
def test_backends_that_run_op_by_op_show_all(backend: str) -> None:
    assert totals(torch.compile(network(), backend=backend)).flops_unknown == {}


def test_calls_while_it_compiles_are_none() -> None:
    model = torch.compile(network(), backend="aot_eager")
    calls = [[(row.type, row.calls) for row in torchprof.summary(model, (3, 4), verbose=0).rows] for _ in range(2)]
    assert calls[0] == calls[1]


class CompilesInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.compile(self.layer, backend="aot_eager")(x)


def test_what_forward_compiles_itself_is_left_out_too() -> None:
    first = totals(CompilesInside())
    assert (first.flops, first.flops_unknown, first.backward) == (2 * 3 * 4 * 4, {}, 0)


def test_a_training_loop_that_compiles_counts_what_it_runs() -> None:
    model = network()
    compiled = torch.compile(model, backend="aot_eager")
    with torchprof.profile(model) as prof:
        for _ in range(2):
            compiled(torch.rand(3, 4)).sum().backward()
            prof.step()
    both = FORWARD + 2 * FORWARD - 2 * 3 * 4 * 8
    rows = torchprof.by_step(prof.trace).rows
    assert [(row["flops"], row["flops_unknown"]) for row in rows] == [(both, []), (both, [])]
    assert rows[0]["allocated"] == rows[1]["allocated"]


def test_dynamo_is_left_as_it_was() -> None:
    import torch._dynamo.callback

    handler = torch._dynamo.callback.callback_handler
    before = dict(vars(handler))
    totals(torch.compile(network(), backend="eager"))
    assert vars(handler) == before
