"""Sums over rows on CUDA, against blocks that real histories of allocations show."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchprof


class Sums(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(tuple(range(x.dim() - 1)))


def buffer(shape: tuple[int, ...], gpu: str, dtype: torch.dtype = torch.float32) -> int:
    """Bytes of the largest block beside the input and the sum; without the semaphores, one of four bytes for 128 columns."""

    def step(model: nn.Module, optimizer: Any, x: Tensor) -> None:
        model(x)

    found = torchprof.estimate(Sums(), torch.empty(shape, dtype=dtype, device="meta"), capacity=gpu, step=step, steps=1)
    largest = max(found.memory.allocations["bytes"].tolist()[1:])
    columns = shape[-1]
    return 0 if largest == columns * dtype.itemsize else largest - 4 * -(-columns // 128)


@pytest.mark.parametrize(
    ("shape", "gpu", "expected"),
    [
        ((2048, 2560), "H100-80GB", 41_943_040),
        ((8192, 768), "A100-80GB", 50_331_648),
        ((8, 1024, 768), "A100-80GB", 50_331_648),
        ((512, 1024), "A100-80GB", 0),
    ],
)
def test_the_buffer_is_the_block_that_a_real_history_shows(shape: tuple[int, ...], gpu: str, expected: int) -> None:
    assert buffer(shape, gpu) == expected


def test_half_precision_is_added_up_in_float32() -> None:
    assert buffer((8192, 768), "A100-80GB", torch.bfloat16) == 50_331_648


def test_a_gradient_of_a_bias_takes_it() -> None:
    squares = {"loss": lambda y: y.square().mean(), "capacity": "A100-80GB"}
    found = torchprof.estimate(nn.Linear(64, 768), (8192, 64), steps=1, **squares)
    assert 50_331_648 + 4 * 6 in found.memory.allocations["bytes"].tolist()


def test_a_sum_along_rows_or_of_all_takes_none() -> None:
    class Along(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(-1)

    x = torch.empty(8192, 768, device="meta")
    found = torchprof.estimate(Along(), x, capacity="A100-80GB", step=lambda model, _, x: model(x), steps=1)
    assert found.memory.allocations["bytes"].tolist() == [8192 * 768 * 4, 8192 * 4]
