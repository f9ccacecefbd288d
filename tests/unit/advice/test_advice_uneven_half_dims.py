"""`uneven_half_dims`: products of half precision whose sizes are no multiple of 8."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from handwritten import gpu_trace, trace
from launches import FLOAT32, Launch, gpu_step

import torchprof
from torchprof.advice.registry import NotTold
from torchprof.advice.rules.uneven_half_dims import uneven_half_dims
from torchprof.trace.schema import Phase

KERNEL = "ampere_fp16_s16816gemm_fp16_128x64_ldg8_f2f_tn"


def language_model(words: int, dtype: int = 5, us: int = 1000) -> torchprof.Trace:
    """768 wide, with a layer of products of even sizes, and a head of so many words: 300 us of forward, 400 us of backward."""
    tokens = 1001  # a number of rows costs nothing
    return gpu_step(
        Launch("aten::addmm", KERNEL, 200, ((3072,), (tokens, 768), (768, 3072)), "up", dtype=dtype),
        Launch("aten::mm", KERNEL, 300, ((tokens, 768), (768, words)), "head", dtype=dtype),
        Launch("aten::mm", KERNEL, 180, ((words, tokens), (tokens, 768)), "head", Phase.BACKWARD, dtype),
        Launch("aten::mm", KERNEL, 220, ((tokens, words), (words, 768)), "head", Phase.BACKWARD, dtype),
        Launch("aten::mm", KERNEL, 100, ((3072, tokens), (tokens, 768)), "up", Phase.BACKWARD, dtype),
        us=us,
    )


def test_a_vocabulary_of_50257_words() -> None:
    (found,) = uneven_half_dims(language_model(50257))
    assert found.module == "head"
    assert found.details == ("head: 50257, 700 us; 50304 would fit",)
    assert found.worth is not None
    assert (found.worth.low, found.worth.high, found.worth.whole) == (0, 350_000, 1_000_000)
    assert not found.worth.measured


@pytest.mark.parametrize("words", [50304, 50264])
def test_a_padded_vocabulary(words: int) -> None:
    assert list(uneven_half_dims(language_model(words))) == []


def test_float32_has_no_such_sizes() -> None:
    assert list(uneven_half_dims(language_model(50257, FLOAT32))) == []


def test_a_step_in_which_the_device_is_idle_gains_nothing() -> None:
    assert list(uneven_half_dims(language_model(50257, us=100_000))) == []


def test_the_sizes_of_batched_products() -> None:
    scores = gpu_step(Launch("aten::bmm", KERNEL, 500, ((12, 197, 64), (12, 64, 197)), "attention"))
    (found,) = uneven_half_dims(scores)
    assert found.details == ("attention: 197, 500 us; 256 would fit",)


def test_without_shapes_it_cannot_be_told() -> None:
    with pytest.raises(NotTold, match="shapes"):
        list(uneven_half_dims(gpu_step(Launch("aten::mm", KERNEL, 100), shapes=False)))
    with pytest.raises(NotTold, match="no kernels"):
        list(uneven_half_dims(trace()))


def test_odd_operands() -> None:
    """A product of a vector, or of one tensor, as a damaged file may have it."""
    odd = gpu_step(Launch("aten::mm", KERNEL, 500, ((7,), (7, 7))), Launch("aten::mm", KERNEL, 500, ((7, 7),)))
    assert list(uneven_half_dims(odd)) == []
    unknown = gpu_step(Launch("aten::mm", KERNEL, 500, ((8, 7), (7, 8))))
    assert list(uneven_half_dims(replace(unknown, dims=np.full_like(unknown.dims, -1)))) == []
    assert list(uneven_half_dims(gpu_trace())) == []
