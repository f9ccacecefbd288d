"""What AOTInductor compiled runs past the dispatcher: that is seen and said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchprof
from torchprof.record import torch_private
from torchprof.trace.schema import CALL_COMPILED

REGION = "Torch-Compiled Region: AOTInductor"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Tensor], Tensor]:
    """A layer, compiled to a library and loaded from it."""
    path = tmp_path_factory.mktemp("aot") / "layer.pt2"
    with torch.no_grad():
        program = torch.export.export(nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval(), (torch.rand(4, 8),))
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    loaded: Any = torch._inductor.aoti_load_package(str(path))
    return loaded  # type: ignore[no-any-return]


class Around(nn.Module):
    """A layer of its own, and then the one that is compiled."""

    def __init__(self, compiled: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.own = nn.Linear(8, 8)
        self.compiled = compiled

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.compiled(self.own(x))


def test_its_flops_are_unknown_and_the_module_is_marked(compiled: Callable[[Tensor], Tensor]) -> None:
    found = torchprof.summary(Around(compiled), (8,), batch_size=4, verbose=0)
    around, own = found.rows
    assert "compiled: calls inside are not seen" in around.note
    assert "compiled" not in own.note
    assert found.totals.flops == own.flops == 2 * 4 * 8 * 8
    assert found.totals.flops_unknown == {"compiled code": 1}
    assert own.flops_unknown == ()
    assert f"FLOPs: at least {2 * 4 * 8 * 8}" in str(found)


@pytest.mark.parametrize("aggregate", [False, True], ids=["whole", "aggregated"])
def test_each_run_is_a_row_of_its_own(compiled: Callable[[Tensor], Tensor], aggregate: bool) -> None:
    model = Around(compiled)
    with torchprof.profile(model, aggregate=aggregate) as prof:
        for _ in range(3):
            model(torch.rand(4, 8))
            prof.step()
    (row,) = [row for row in torchprof.by_op(prof.trace).rows if row["name"] == REGION]
    assert (row["calls"], row["flops"], row["flops_unknown"]) == (1, None, ["compiled code"])  # for each step


def test_outside_of_modules_it_is_counted(compiled: Callable[[Tensor], Tensor]) -> None:
    with torchprof.profile(nn.Linear(2, 2)) as prof:
        compiled(torch.rand(4, 8))
        compiled(torch.rand(4, 8))
    assert prof.trace.facts["compiled_outside_calls"] == 2
    assert not (prof.trace.module_calls["flags"] & CALL_COMPILED).any()


def test_what_it_raises_is_the_programs_own(compiled: Callable[[Tensor], Tensor]) -> None:
    with torchprof.profile(nn.Linear(2, 2)) as prof, pytest.raises(Exception, match=r".") as error:
        compiled(torch.rand(4, 8), torch.rand(1))  # type: ignore[call-arg]
    with pytest.raises(type(error.value)) as without:
        compiled(torch.rand(4, 8), torch.rand(1))  # type: ignore[call-arg]
    assert str(error.value) == str(without.value)
    assert len(prof.trace.ops) >= 1


def test_the_functions_that_run_it_are_as_before(compiled: Callable[[Tensor], Tensor]) -> None:
    x = torch.rand(4, 8)
    before, functions = compiled(x), torch_private.ahead_of_time_runs()
    assert len(functions) >= 3
    with torchprof.profile(nn.Linear(2, 2)):
        assert torch.equal(compiled(x), before)
        assert all(a is b for a, b in zip(functions, torch_private.ahead_of_time_runs(), strict=True))
    assert torch.equal(compiled(x), before)
