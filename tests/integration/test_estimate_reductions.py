"""Buffers of reductions on CUDA, against blocks that real histories of allocations show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import Of
from torch import Tensor, nn

import torchprof
from torchprof.allocator import gpus
from torchprof.estimation.rules.reduced_dimensions import ReducedDimensions

Reduce = Callable[[Tensor], Any]
HALF = torch.bfloat16
A100, H100 = "A100-80GB", "H100-80GB"


def blocks(reduce: Reduce, x: Tensor, gpu: str = A100) -> list[int]:
    """Bytes of all blocks but the input, in order."""

    def step(model: nn.Module, optimizer: Any, x: Tensor) -> None:
        model(x)

    found = torchprof.estimate(Of(reduce), x, capacity=gpu, step=step, steps=1)
    sizes: list[int] = found.memory.allocations["bytes"].tolist()
    return sizes[1:]


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def test_a_tensor_is_walked_over_as_it_lies() -> None:
    turned = meta(4, 2560, 128).mT
    assert ReducedDimensions.of(turned, {2}) == ReducedDimensions((2560, 128, 4), (0, 1, 128), (128, 1, 327680), 0)
    assert ReducedDimensions.of(meta(8, 1024, 768), {0, 1}) == ReducedDimensions((8192, 768), (0, 1), (768, 1), 0)
    assert ReducedDimensions.of(meta(8, 16, 32), {1}) == ReducedDimensions((16, 32, 8), (0, 1, 32), (32, 1, 512), 0)
    assert ReducedDimensions.of(meta(1, 5), {0}) == ReducedDimensions((5,), (1,), (1,), 0)
    assert ReducedDimensions.of(meta(6, 8)[:, 2:6], {0, 1}) == ReducedDimensions((4, 6), (0, 0), (1, 8), 2)
    assert ReducedDimensions.of(meta(3, 1).expand(3, 7), {1}) == ReducedDimensions((7, 3), (0, 1), (0, 1), 0)


@pytest.mark.parametrize(
    ("rows", "columns", "gpu", "buffer"),
    [
        (2560, 512, H100, 10_485_760),  # a transformer's norm scaled by 512 words of 2,560 numbers each
        (2560, 2048, H100, 41_943_040),
        (8192, 768, A100, 50_331_648),
        (512, 1024, A100, 0),
        (2048, 1024, A100, 16_777_216),
        (10_000, 512, H100, 41_156_608),  # probabilities of 10,000 words
    ],
)
def test_a_sum_takes_the_block_that_a_real_history_shows(rows: int, columns: int, gpu: str, buffer: int) -> None:
    counters = 4 * columns // 128 if buffer else 0
    assert blocks(lambda x: x.sum(0), meta(rows, columns), gpu) == [4 * columns, *([buffer + counters] if buffer else [])]


def test_a_sum_along_rows_that_lie_in_columns_takes_it_too() -> None:
    assert blocks(lambda x: x.sum(-1), meta(4, 2560, 128).mT, H100)[-1] == 4 * 512 * 40 * 128 + 4 * 4
    words = meta(2560, 512).T.unflatten(0, (4, 128))
    assert blocks(lambda x: x.sum(-1, keepdim=True), words, H100) == [2048, 10_485_760 + 16]
    assert blocks(lambda x: x.sum(-1), meta(8192, 768)) == [8192 * 4]


def test_a_maximum_and_its_place_take_four_times_that_of_a_sum() -> None:
    """As in a real loss of 512 words among 10,000: eight times the scores."""
    scores = meta(10_000, 512).T.unflatten(0, (4, 128))
    assert blocks(lambda x: x.max(-1), scores, H100) == [2048, 4096, 164_626_432 + 16]
    assert blocks(lambda x: x.argmax(-1), scores, H100) == [4096, 164_626_432 + 16]
    assert blocks(lambda x: x.amax(-1), scores, H100) == [2048, 41_156_608 + 16]


def test_a_reduction_of_all_takes_a_number_of_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a real step on a GPU of 48 multiprocessors, of 1,536 threads each."""
    monkeypatch.setattr("torchprof.estimation.target.MULTIPROCESSORS", {**gpus.MULTIPROCESSORS, "RTX 3090": 48})
    gradient = meta(1_966_080)
    assert blocks(torch.max, gradient, "RTX 3090") == [4, 576 + 4]
    assert blocks(torch.all, gradient.bool(), "RTX 3090") == [1, 144 + 4]
    assert blocks(lambda x: torch.all(x[:491_520]), gradient.bool(), "RTX 3090")[-1] == 60 + 4


@pytest.mark.parametrize(
    ("reduce", "bytes_of_one"),
    [
        (torch.sum, 4),
        (torch.nansum, 4),
        (torch.mean, 4),
        (torch.linalg.vector_norm, 4),
        (torch.std, 16),
        (torch.var_mean, 16),
        (torch.aminmax, 8),
        (torch.amin, 4),
        (torch.any, 1),
        (torch.argmin, 16),
    ],
)
def test_every_kind_of_reduction_has_an_accumulator_of_its_own(reduce: Reduce, bytes_of_one: int) -> None:
    parts = 8192 // 4 // 16
    buffer = blocks(lambda x: reduce(x, dim=0), meta(8192, 768))[-1]  # type: ignore[call-arg]
    assert buffer == bytes_of_one * 768 * parts * 128 + 4 * 6


def test_half_precision_is_added_up_in_float32_and_compared_as_it_is() -> None:
    assert blocks(lambda x: x.sum(0), meta(8192, 768, dtype=HALF))[-1] == 50_331_648 + 24
    assert blocks(lambda x: x.sum(0, dtype=torch.float32), meta(8192, 768, dtype=HALF))[-1] == 50_331_648 + 24
    assert blocks(lambda x: x.amax(0), meta(8192, 768, dtype=HALF))[-1] == 50_331_648 // 2 + 24


def test_booleans_are_counted_in_a_copy_of_64_bits() -> None:
    assert blocks(lambda x: x.sum(-1), meta(64, 64).bool()) == [512, 8 * 64 * 64]
    assert blocks(lambda x: x.any(-1), meta(64, 64).bool()) == [64]


def test_columns_that_are_not_aligned_are_not_loaded_together() -> None:
    odd = meta(8192, 772)[:, 1:769]
    columns = 768 // 32
    at_once = 108 * 2048 // 512
    assert blocks(lambda x: x.sum(0), odd)[-1] == 4 * 768 * (at_once // columns) * 32 + 4 * columns


def test_what_32_bits_cannot_count_is_reduced_in_halves() -> None:
    whole, half = meta(2**17, 2**13), meta(2**16, 2**13)  # of 4 and 2 GiB
    assert blocks(lambda x: x.sum(0), whole)[-1] == blocks(lambda x: x.sum(0), half)[-1] > 0
    best_so_far = 16 * 2**13
    assert blocks(lambda x: x.max(0), whole)[-1] == blocks(lambda x: x.max(0), half)[-1] + best_so_far


@pytest.mark.parametrize(
    ("loss", "tensors"),
    [
        (F.mse_loss, 1),
        (F.smooth_l1_loss, 1),
        (F.huber_loss, 1),
        (F.binary_cross_entropy, 1),
        (F.binary_cross_entropy_with_logits, 2),
    ],
)
def test_a_loss_is_there_for_every_element_before_it_is_reduced(loss: Any, tensors: int) -> None:
    x = meta(64, 1024)
    assert blocks(lambda x: loss(x, x, reduction="mean"), x) == [4, tensors * x.nbytes]
    assert blocks(lambda x: loss(x, x, reduction="sum"), x) == [4, tensors * x.nbytes]
    sizes = blocks(lambda x: loss(x, x, reduction="none"), x)
    assert sizes == [x.nbytes, *[(tensors - 1) * x.nbytes] * (tensors > 1)]


def test_exponentials_and_what_is_counted_are_there_before_they_are_added_up() -> None:
    assert blocks(lambda x: x.logsumexp(-1), meta(64, 1024)) == [256, 64 * 1024 * 4]
    assert blocks(lambda x: x.count_nonzero(-1), meta(64, 1024)) == [512, 64 * 1024 * (1 + 8)]


def test_a_gradient_of_a_bias_takes_it() -> None:
    squares = {"loss": lambda y: y.square().mean(), "capacity": A100}
    found = torchprof.estimate(nn.Linear(64, 768), (8192, 64), steps=1, **squares)
    assert 50_331_648 + 4 * 6 in found.memory.allocations["bytes"].tolist()


def test_nothing_is_taken_where_there_is_nothing_to_reduce() -> None:
    assert blocks(lambda x: x.sum(), meta()) == [4]
    assert blocks(lambda x: x.sum(1), meta(8, 1)) == [32]
