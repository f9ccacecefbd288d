"""`plain_attention`: attention that is written as products and a softmax."""

from __future__ import annotations

import pytest
from handwritten import trace
from launches import Launch, gpu_step

import torchprof
from torchprof.advice.rules.plain_attention import plain_attention

QUERIES, KEYS, HEAD = 128, 96, 64


def attention(
    softmax_in: str = "attention", made: tuple[int, ...] = (8, QUERIES, KEYS), *more: Launch, us: int = 100
) -> torchprof.Trace:
    """Scores, softmax and values take so many, twice as many and so many us, of 1,000."""
    return gpu_step(
        Launch("aten::bmm", "gemm", us, ((8, QUERIES, HEAD), (8, HEAD, KEYS)), "attention"),
        Launch("aten::_softmax", "softmax", 2 * us, (made,), softmax_in),
        Launch("aten::bmm", "gemm", us, ((8, QUERIES, KEYS), (8, KEYS, HEAD)), "attention"),
        *more,
    )


def test_products_around_a_softmax() -> None:
    (found,) = plain_attention(attention())
    assert found.module == "attention"
    assert found.details == ("attention: 400 us",)
    assert found.worth is not None
    assert (found.worth.low, found.worth.high, found.worth.whole) == (0, 266_667, 1_000_000)
    assert not found.worth.measured


def test_heads_in_a_dimension_of_their_own() -> None:
    (found,) = plain_attention(attention("attention", (2, 4, QUERIES, KEYS)))
    assert found.details == ("attention: 400 us",)


@pytest.mark.parametrize(
    "trace",
    [
        attention("classifier"),
        attention("attention", (8, KEYS, QUERIES)),
        attention("attention", (QUERIES, KEYS)),
        attention(
            "attention", (8, QUERIES, KEYS), Launch("aten::_scaled_dot_product_attention_math", "gemm", 1, (), "attention")
        ),
        attention(us=2),
        gpu_step(Launch("aten::_softmax", "softmax", 900, ((8, QUERIES, KEYS),), "attention")),
        trace(),
    ],
    ids=["in another module", "of another shape", "of a matrix", "of scaled_dot_product_attention", "small", "alone", "empty"],
)
def test_a_softmax_that_is_not_of_attention(trace: torchprof.Trace) -> None:
    assert list(plain_attention(trace)) == []
