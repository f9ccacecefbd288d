"""Ops that have no fake kernel, in estimates: nothing of a large model is computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import torchprof
from torchprof.estimation.fake.fallbacks import LITTLE

aten = torch.ops.aten
ROWS, WIDTH = 64, 128


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the ops that PyTorch runs for real because they have no fake kernel."""
    from torch._subclasses import fake_tensor

    names: list[str] = []
    run = fake_tensor.run_fallback_kernel

    def seen(mode: object, op: object, *args: object) -> object:
        names.append(str(op))
        return run(mode, op, *args)

    monkeypatch.setattr(fake_tensor, "run_fallback_kernel", seen)
    return names


class Scaled(nn.Module):
    """A product of two float8 matrices, written into a tensor."""

    def __init__(self, made: tuple[int, ...] = (ROWS, WIDTH)) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(WIDTH, WIDTH))
        self.made = made

    def forward(self, x: Tensor) -> Tensor:
        one = torch.ones((), device=x.device)
        out = torch.empty(self.made, dtype=torch.bfloat16, device=x.device)
        left, right = (each.detach().to(torch.float8_e4m3fn) for each in (x, self.weight))
        assert aten._scaled_mm.out(left, right.t(), one, one, out_dtype=torch.bfloat16, out=out) is out
        assert out.shape == (ROWS, WIDTH)
        return out.float() * self.weight.sum()


def test_what_is_written_into_a_tensor_is_not_computed(computed: list[str]) -> None:
    found = torchprof.estimate(Scaled(), (ROWS, WIDTH), capacity="H100-80GB")
    assert "aten::_scaled_mm" in [row["name"] for row in torchprof.by_op(found.trace).rows]
    assert not computed


def test_a_tensor_of_another_shape_is_resized_as_the_op_would(computed: list[str]) -> None:
    one_by_one, whole = (
        torchprof.estimate(lambda made=made: Scaled(made), (ROWS, WIDTH), capacity="H100-80GB")
        for made in ((0,), (ROWS, WIDTH))
    )
    assert one_by_one.max_allocated == whole.max_allocated
    assert not computed


class Binned(nn.Module):
    """Calls an op that has neither a fake kernel nor an overload that has one."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale * torch.histogram(x.detach(), 8).hist.sum()


def test_an_op_on_little_is_run(computed: list[str]) -> None:
    assert torchprof.estimate(Binned(), (ROWS, WIDTH), device="cpu").max_allocated > 0
    assert computed == ["aten.histogram.bin_ct"]


def test_an_op_on_much_is_refused_with_the_way_out(computed: list[str]) -> None:
    with pytest.raises(
        torchprof.EstimateError, match=r"aten::histogram .*has no fake kernel.*allow_real=\('aten::histogram',\)"
    ):
        torchprof.estimate(Binned(), (LITTLE + 1,), device="cpu")
    assert not computed
