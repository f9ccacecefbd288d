"""Estimates of programs that read values of tensors, or use ops without a fake kernel: what may run for real, and on what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from architectures import loss_of, mixtral, wav2vec2
from test_estimate import measured
from torch import Tensor, nn

import torchprof
from torchprof import ArgumentError, EstimateError
from torchprof.estimation.fake.real_ops import stand_in


class Reads(nn.Module):
    """A network that reads a value of a tensor on its way."""

    def __init__(self, how: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 64)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        found = self.how(y)
        return y * found if isinstance(found, Tensor) and found.shape == y.shape else y


def allowed(how: Callable[[Tensor], Any], allow_real: Any) -> torchprof.Estimate:
    return torchprof.estimate(
        nn.Sequential(nn.Tanh(), Reads(how)), (32, 64), optimizer=torch.optim.SGD, device="cpu", allow_real=allow_real
    )


@pytest.mark.parametrize(
    ("how", "name"),
    [
        (lambda y: y.sum().item(), "aten::item"),
        (lambda y: 1 if y.max() > 0 else 2, "aten::item"),
        (lambda y: y.tolist(), "aten::item"),
        (lambda y: y.detach().numpy().sum(), "aten::item"),
        (lambda y: np.asarray(y.detach(), dtype=np.float64), "aten::item"),
        (lambda y: y.nonzero(), "aten::nonzero"),
        (lambda y: torch.unique(y), "aten::_unique2"),
        (lambda y: torch.equal(y, y), "aten::equal"),
    ],
)
def test_what_the_message_says_to_allow_is_enough(how: Callable[[Tensor], Any], name: str) -> None:
    with pytest.raises(EstimateError, match=r"module '1' \(Reads\).*allow_real=.*" + name):
        allowed(how, False)
    assert allowed(how, (name,)).max_allocated > 0
    assert "worked on stand-ins" in str(allowed(how, True))


def test_a_custom_op_without_a_fake_kernel_is_accounted_like_any_other() -> None:
    @torch.library.custom_op("torchprof_tests::doubled", mutates_args=())
    def doubled(x: Tensor) -> Tensor:
        return torch.cat([x, x])

    with pytest.raises(EstimateError, match=r"register_fake.*allow_real=\('torchprof_tests::doubled',\)"):
        allowed(lambda y: doubled(y), False)
    sizes: list[int] = []
    found = allowed(lambda y: sizes.append(len(doubled(y))), ("torchprof_tests::doubled",))
    assert sizes == [64, 64]
    assert max(found.memory.allocations["bytes"]) == 64 * 64 * 4


def test_masks_select_everything_and_checks_for_nan_find_none() -> None:
    def how(y: Tensor) -> None:
        if torch.isnan(y).any():
            raise ValueError("nan")
        if not (y == y).all():
            raise ValueError("not equal")
        assert len(y[y > 0]) == y.numel()
        assert len(torch.empty(8, dtype=torch.long)[torch.zeros(5, dtype=torch.long)]) == 5

    assert allowed(how, True).max_allocated > 0


def test_values_that_the_program_made_itself_are_known() -> None:
    chosen = np.array([True, False] * 16)

    def how(y: Tensor) -> None:
        mask = torch.tensor(chosen)
        assert y[mask].shape == (16, 64)
        assert mask.nonzero().squeeze(1).tolist() == list(range(0, 32, 2))

    assert allowed(how, ("aten::nonzero", "aten::item", "aten::index")).max_allocated > 0


def test_a_module_that_was_named_may_read_values_and_others_may_not() -> None:
    def how(y: Tensor) -> Tensor:
        return y[y > 0].sum() * y

    assert allowed(how, ("1",)).max_allocated > 0
    with pytest.raises(EstimateError, match=r"module '1' \(Reads\)"):
        allowed(how, ("0",))


@pytest.mark.parametrize(
    ("allow_real", "says"),
    [
        ("aten::nonzero", "allow_real must be"),
        (3, "allow_real must be"),
        (("aten::nonzeros",), "'aten::nonzeros', which is no op"),
        (("no.such.module",), "'no.such.module', which is no module"),
    ],
)
def test_names_that_mean_nothing_are_refused(allow_real: Any, says: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        allowed(lambda y: None, allow_real)
    assert says in str(caught.value)


def test_stand_ins_are_ones_valid_indices_and_true() -> None:
    with torch._subclasses.FakeTensorMode():
        fakes = [torch.empty(2, 3, dtype=dtype) for dtype in (torch.float32, torch.long, torch.bool)]
    assert [stand_in(fake).unique().tolist() for fake in fakes] == [[1.0], [0], [True]]


@pytest.mark.filterwarnings("ignore")
def test_masks_drawn_by_numpy_cost_what_they_cost() -> None:
    torch.manual_seed(0)
    model, inputs = wav2vec2()
    model.config.layerdrop = 0.0  # the real run would leave out layers by chance, the estimate does not
    inputs = {"input_values": torch.rand(8, 400)}
    with pytest.raises(EstimateError, match="allow_real"):
        torchprof.estimate(model.train(), inputs, loss=loss_of, device="cpu")
    for make_optimizer in (torch.optim.SGD, torch.optim.AdamW):
        found = torchprof.estimate(model, inputs, optimizer=make_optimizer, loss=loss_of, device="cpu", allow_real=True)
        assert found.max_allocated == pytest.approx(measured(model, inputs, make_optimizer), rel=0.001)


@pytest.mark.parametrize("make_optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adafactor, torch.optim.ASGD])
@pytest.mark.filterwarnings("ignore")
def test_experts_in_float32_cost_what_they_cost(make_optimizer: Any) -> None:
    model, inputs = mixtral()
    found = torchprof.estimate(model.train(), inputs, optimizer=make_optimizer, loss=loss_of, device="cpu")
    assert found.max_allocated == pytest.approx(measured(model, inputs, make_optimizer), rel=0.001)


def test_optimizers_may_read_values_where_the_model_may_not() -> None:
    model = nn.Sequential(nn.Linear(64, 64), Reads(lambda y: y.sum().item()))
    for make_optimizer in (torch.optim.Adafactor, torch.optim.ASGD):
        with pytest.raises(EstimateError, match=r"module '1' \(Reads\)"):
            torchprof.estimate(model, (4, 64), optimizer=make_optimizer)
        found = torchprof.estimate(model[0], (4, 64), optimizer=make_optimizer)
        assert found.by_category["optimizer state"] > 0
        assert found.notes == ()
