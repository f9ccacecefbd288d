"""Gradients of lookups on CUDA, for which indices are sorted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import torchprof


def blocks(step: Callable[..., Any], *inputs: Tensor) -> list[int]:
    """Bytes of all blocks but those of the inputs, in order."""
    found = torchprof.estimate(nn.Identity(), inputs, step=lambda model, optimizer, *given: step(*given), steps=1)
    sizes: list[int] = found.memory.allocations["bytes"].tolist()
    return sizes[len(inputs) :]


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device="meta")


IDS = torch.int64


def accumulate(x: Tensor, ids: Tensor, values: Tensor) -> None:
    x.index_put_((ids,), values, accumulate=True)


def test_indices_are_copied_four_times_as_in_a_real_gradient_of_an_embedding() -> None:
    """In a real step of 2,048 words, five blocks of 16,384 bytes, the first of which is freed first, and one of 1 byte."""
    sizes = blocks(accumulate, zeros(10_000, 64), zeros(4, 512, dtype=IDS), zeros(4, 512, 64))
    assert sizes == [4 * 16_384 + 1]


def test_many_indices_are_sorted_in_a_second_copy() -> None:
    count = 16 * 512
    assert blocks(accumulate, zeros(10_000, 64), zeros(16, 512, dtype=IDS), zeros(16, 512, 64)) == [(4 + 2) * 8 * count]
    assert blocks(accumulate, zeros(10_000, 64), zeros(16, 512, dtype=torch.int32), zeros(16, 512, 64)) == [(5 + 2) * 8 * count]


def test_what_is_put_is_copied_where_one_value_stands_for_many() -> None:
    assert blocks(accumulate, zeros(10_000, 64), zeros(512, dtype=IDS), zeros(64)) == [4 * 4096 + 1 + 512 * 64 * 4]
    turned = blocks(lambda x, ids, values: accumulate(x.T, ids, values), zeros(64, 1000), zeros(512, dtype=IDS), zeros(512, 64))
    assert turned == [4 * 4096 + 1 + 64 * 1000 * 4]


def test_several_indices_are_one_into_all_of_the_memory() -> None:
    def put(x: Tensor, rows: Tensor, columns: Tensor, values: Tensor) -> None:
        x.index_put_((rows, columns), values, accumulate=True)

    assert blocks(put, zeros(100, 100), zeros(32, 1, dtype=IDS), zeros(16, dtype=IDS), zeros(32, 16)) == [4 * 8 * 512 + 1]


def test_what_is_put_without_being_added_takes_nothing() -> None:
    assert blocks(lambda x, ids: x.index_put_((ids,), x[:512]), zeros(1000, 64), zeros(512, dtype=IDS)) == []
    torch.use_deterministic_algorithms(True)
    try:
        sizes = blocks(lambda x, ids: x.index_put_((ids,), x[:512]), zeros(1000, 64), zeros(512, dtype=IDS))
    finally:
        torch.use_deterministic_algorithms(False)
    assert sizes == [4 * 4096 + 1]


def gradient(words: int, width: int, count: int, dtype: torch.dtype = torch.float32, **options: Any) -> int:
    """Bytes beside the gradient of an embedding."""

    def step(gradient: Tensor, ids: Tensor) -> None:
        torch.ops.aten.embedding_dense_backward(gradient, ids, words, -1, options.get("by_frequency", False))

    sizes = blocks(step, zeros(count, width, dtype=dtype), zeros(count, dtype=IDS))
    assert sizes[0] == words * width * dtype.itemsize
    return sum(sizes[1:])


def test_few_words_are_added_up_as_they_come() -> None:
    assert gradient(50_257, 768, 3072) == 0


def test_of_many_words_sums_of_ten_are_made_first() -> None:
    parts = 8192 // 10 + 8192
    orders = 8 * (3 * 8192 + 2 * 8192 + parts + 2)
    assert gradient(50_257, 768, 8192) == orders + parts * 768 * 4
    assert gradient(50_257, 768, 8192, torch.bfloat16) == orders + parts * 768 * 4
    assert gradient(50_257, 768, 3072, by_frequency=True) == 8 * (6 * 3072 + 3379 + 2) + 3379 * 768 * 4


def test_of_few_kinds_of_words_sums_are_added_in_place() -> None:
    parts = 8192 // 10 + 2
    orders = 8 * (3 * 8192 + 2 * 2 + 2 * parts + 2)
    assert gradient(2, 768, 8192) == orders
    assert gradient(2, 768, 8192, torch.bfloat16) == orders + 2 * 768 * 4
