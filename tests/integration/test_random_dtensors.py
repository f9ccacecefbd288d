"""Random DTensors in an estimate of ranks, whose mesh is one of the CPU: for CUDA they are as on GPUs, as PyTorch has them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed.tensor as dtensor
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard

import torchprof
from torchprof import Estimate

WIDTH = 256
WARNING = "may not have complete support on cpu device mesh"

Draw = Callable[[Any], Any]


def of(device: str, draw: Draw | None = None, draw_in_build: Draw | None = None) -> Estimate:
    def build() -> nn.Module:
        layer = nn.Linear(WIDTH, WIDTH)
        fully_shard(layer, mesh=init_device_mesh(device, (2,)))
        if draw_in_build is not None:
            draw_in_build(layer)
        return layer

    def step(model: nn.Module, optimizer: Any, x: torch.Tensor) -> None:
        kept = draw(model) if draw is not None else None
        model(x).sum().backward()
        del kept

    return torchprof.estimate(build, (8, WIDTH), step=step, device=device, world_size=2)


def warned(device: str, **draws: Draw) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        of(device, **draws)
    return [str(each.message) for each in caught if WARNING in str(each.message)]


def mesh_of(layer: Any) -> Any:
    return layer.weight.device_mesh


def initialized(layer: Any) -> Any:
    return nn.init.normal_(layer.weight)


def dropped(layer: Any) -> Any:
    return nn.functional.dropout(layer.weight.detach())


def drawn(layer: Any) -> Any:
    return dtensor.randn(WIDTH, WIDTH, device_mesh=mesh_of(layer), placements=[Shard(0)])


def seeded(layer: Any) -> Any:
    dtensor._random.manual_seed(0, mesh_of(layer))


@pytest.mark.parametrize("draw", [initialized, dropped, drawn, seeded])
def test_for_cuda_pytorch_does_not_warn_of_the_cpu(draw: Draw) -> None:
    assert warned("cuda", draw=draw) == []
    assert warned("cuda", draw_in_build=draw) == []


@pytest.mark.parametrize("draw", [initialized, dropped, seeded])
def test_for_the_cpu_it_does(draw: Draw) -> None:
    assert warned("cpu", draw=draw)
    assert warned("cpu", draw_in_build=draw)


def test_a_dtensor_that_is_drawn_on_gpus_takes_what_one_of_zeros_takes() -> None:
    def zeros(layer: Any) -> Any:
        return dtensor.zeros(WIDTH, WIDTH, device_mesh=mesh_of(layer), placements=[Shard(0)])

    peaks = [of("cuda", draw).memory.peak.bytes for draw in (None, zeros, drawn)]
    assert peaks[2] == peaks[1] == peaks[0] + 4 * WIDTH * WIDTH // 2


def test_pytorchs_states_are_its_own_again() -> None:
    before = dict(vars(dtensor._random))
    of("cuda", drawn)
    assert dict(vars(dtensor._random)) == before
