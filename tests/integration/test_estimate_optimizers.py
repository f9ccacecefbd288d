"""How optimizers update parameters on CUDA, one by one or all at once, with temporaries in bytes worked out by hand."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _foreach_utils

import torchprof
from torchprof import Estimate

LAYERS, WIDTH = 12, 512
WEIGHT = 4 * WIDTH * WIDTH
ALL = LAYERS * WEIGHT


def build() -> nn.Module:
    return nn.Sequential(*[nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)])


def of(optimizer: Any, **options: Any) -> Estimate:
    return torchprof.estimate(build, (1, WIDTH), optimizer=optimizer, **options)


def beside(found: Estimate, copies: int) -> float:
    """What is there at the peak beside copies of all parameters, in weights of one layer. Small tensors are not counted."""
    return round((found.memory.peak.bytes - copies * ALL) / WEIGHT, 1)


def options_of(kind: Any, **options: Any) -> Any:
    return lambda parameters: kind(parameters, **options)


PARAMETERS_AND_GRADIENTS, WITH_TWO_MOMENTS = 2, 4
ROWS_AND_COLUMNS = 0.1
ONE_AFTER_THE_OTHER = 3
"""Of Adam: a square root, its quotient, and the quotient of the parameter before, which a variable still holds."""


def test_adafactor_updates_one_parameter_after_the_other() -> None:
    one, before = 1, 1  # its update, and that of the parameter before it, which a variable still holds
    assert beside(of(torch.optim.Adafactor), PARAMETERS_AND_GRADIENTS) == one + before + ROWS_AND_COLUMNS
    at_once = of(options_of(torch.optim.Adafactor, foreach=True))
    assert beside(at_once, PARAMETERS_AND_GRADIENTS) == LAYERS + ROWS_AND_COLUMNS


def test_adam_updates_all_at_once() -> None:
    assert beside(of(torch.optim.Adam), WITH_TWO_MOMENTS) == LAYERS  # their square roots
    assert beside(of(options_of(torch.optim.Adam, foreach=False)), WITH_TWO_MOMENTS) == ONE_AFTER_THE_OTHER
    assert beside(of(options_of(torch.optim.Adam, fused=True)), WITH_TWO_MOMENTS) == 0


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_a_learning_rate_that_is_a_tensor_makes_adam_update_one_after_the_other(kind: Any) -> None:
    assert beside(of(options_of(kind, lr=torch.tensor(1e-3))), WITH_TWO_MOMENTS) == ONE_AFTER_THE_OTHER
    assert beside(of(options_of(kind, lr=torch.tensor(1e-3), capturable=True)), WITH_TWO_MOMENTS) == LAYERS


def test_a_learning_rate_that_is_a_tensor_changes_nothing_for_others() -> None:
    for kind in (torch.optim.SGD, torch.optim.RMSprop, torch.optim.NAdam):
        one, other = of(options_of(kind, lr=1e-3)), of(options_of(kind, lr=torch.tensor(1e-3)))
        assert other.memory.peak.bytes - one.memory.peak.bytes < 1024


def test_a_learning_rate_that_is_changed_meanwhile_is_afterwards_what_it_was() -> None:
    rate = torch.tensor(0.1)
    seen: list[float] = []

    def step(model: nn.Module, optimizer: Any, x: Tensor) -> None:
        model(x).sum().backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"].mul_(0.5)
        seen.append(round(optimizer.param_groups[0]["lr"].item(), 4))

    of(options_of(torch.optim.Adam, lr=rate), step=step, steps=2)
    assert seen == [0.05, 0.025]
    assert rate.item() == pytest.approx(0.1)


def test_parameters_on_the_cpu_are_updated_one_after_the_other() -> None:
    assert beside(of(torch.optim.Adam, device="cpu"), WITH_TWO_MOMENTS) == ONE_AFTER_THE_OTHER


class Own(torch.optim.Adam):
    """An optimizer of one's own that asks PyTorch as those of PyTorch do."""


def test_so_does_an_optimizer_of_ones_own() -> None:
    assert beside(of(Own), WITH_TWO_MOMENTS) == LAYERS


def clipping(model: nn.Module, optimizer: Any, x: Tensor) -> None:
    model(x).sum().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    model.zero_grad()


def test_gradients_are_clipped_all_at_once() -> None:
    assert "aten::_foreach_norm" in of(torch.optim.SGD, step=clipping).trace.strings


def test_optimizers_of_other_threads_do_as_they_did_meanwhile() -> None:
    listed: list[list[str]] = []

    def step(model: nn.Module, optimizer: object, x: Tensor) -> None:
        other = threading.Thread(target=lambda: listed.append(_foreach_utils._get_foreach_kernels_supported_devices()))
        other.start()
        other.join()
        listed.append(_foreach_utils._get_foreach_kernels_supported_devices())

    of(None, step=step, steps=1)
    assert ["cpu" in devices for devices in (*listed, _foreach_utils._get_foreach_kernels_supported_devices())] == [
        False,
        True,
        False,
    ]
    assert FakeTensor not in _foreach_utils._foreach_supported_types


@pytest.mark.parametrize(("options", "on_the_gpu"), [({}, 0), ({"capturable": True}, 2), ({"fused": True}, 2)])
def test_adam_counts_its_steps_on_the_host_unless_kernels_read_them(options: dict[str, bool], on_the_gpu: int) -> None:
    model = nn.Linear(64, 64)
    found = torchprof.estimate(model, (1, 64), optimizer=lambda given: torch.optim.AdamW(given, **options))
    averages = 2 * sum(parameter.nbytes for parameter in model.parameters())
    assert found.memory.by_category["optimizer state"] == averages + 4 * on_the_gpu
