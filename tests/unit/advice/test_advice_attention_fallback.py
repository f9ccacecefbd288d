"""`attention_fallback`: attention of plain products where a fused kernel would do, and what forbids it."""

from __future__ import annotations

import pytest
from handwritten import FORWARD, trace
from launches import FLOAT16, FLOAT32, INT64, Launch, gpu_step

import torchprof
from torchprof.advice.rules.attention_fallback import attention_fallback

MATH = "aten::_scaled_dot_product_attention_math"
FLASH = "aten::_scaled_dot_product_flash_attention"
Shapes = tuple[tuple[int, ...], ...]


def heads(size: int, sequence: int = 512, batch: int = 8, count: int = 12) -> Shapes:
    """Of query, key and value."""
    return ((batch, count, sequence, size),) * 3


def attention(op: str, shapes: Shapes, dtype: int = FLOAT16, us: int = 600) -> torchprof.Trace:
    return gpu_step(Launch(op, "softmax", us, shapes, "attention", dtype=dtype), Launch("aten::mm", "gemm", 400))


def test_plain_products_where_flash_attention_would_do() -> None:
    (found,) = attention_fallback(attention(MATH, heads(64)))
    assert found.module == "attention"
    assert found.worth is not None
    assert (found.worth.low, found.worth.high, found.worth.whole) == (0, 400_000, 1_000_000)
    assert not found.worth.measured
    (detail,) = found.details
    assert "scores of 48.0 MiB" in detail  # 8 * 12 * 512 * 512 of 2 bytes
    assert "nothing in its inputs forbids" in detail


def test_a_fused_kernel() -> None:
    assert list(attention_fallback(attention(FLASH, heads(64)))) == []


def test_attention_that_takes_next_to_nothing() -> None:
    assert list(attention_fallback(attention(MATH, heads(64), us=10))) == []


MASK = (512, 512)


@pytest.mark.parametrize(
    ("shapes", "dtype", "why"),
    [
        (((96, 512, 64),) * 3, FLOAT16, "four dimensions"),
        (heads(64), INT64, "int64: they take float16"),
        ((*heads(60), MASK), FLOAT16, "flash: there is a mask; memory-efficient: heads of 60 are no multiple of 8"),
        (heads(63), FLOAT32, "flash: float32; memory-efficient: heads of 63 are no multiple of 4"),
        (
            ((8, 12, 512, 64), *heads(64, count=4)[1:], MASK),
            FLOAT16,
            "flash: there is a mask; memory-efficient: heads are grouped",
        ),
        (heads(260), FLOAT16, "flash: heads of 260: equal ones up to 256; memory-efficient: heads of 260"),
    ],
)
def test_what_forbids_fused_kernels(shapes: Shapes, dtype: int, why: str) -> None:
    (found,) = attention_fallback(attention(MATH, shapes, dtype))
    assert why in found.details[0]


@pytest.mark.parametrize(
    ("shapes", "dtype"), [((*heads(64), MASK), FLOAT16), (heads(64), FLOAT32), (heads(60), FLOAT16), ((), FLOAT16)]
)
def test_what_forbids_none_of_them(shapes: Shapes, dtype: int) -> None:
    (found,) = attention_fallback(attention(MATH, shapes, dtype))
    assert "nothing in its inputs forbids" in found.details[0]


def on_cpu(*, dropout: bool) -> torchprof.Trace:
    """600 ns of a step of 1000; with dropout, scores of ``[2, 4, 16, 16]`` are dropped out."""
    return trace(
        strings=[MATH, "aten::dropout"],
        shapes=[(2, 4, 16, 8), (2, 4, 16, 16)],
        tensors=[{"shape": 0, "dtype": FLOAT32, "storage": 1}, {"shape": 1, "dtype": FLOAT32, "storage": 2}],
        operands=[0, 0, 0, 1],
        signatures=[{"name": 0, "inputs": 0, "n_inputs": 3}, {"name": 1, "inputs": 3, "n_inputs": 1}],
        ops=[
            {"signature": 0, "start": 0, "end": 600, "flags": FORWARD, "inputs": 0, "n_inputs": 3},
            *(
                [{"signature": 1, "start": 5, "end": 50, "parent": 0, "flags": FORWARD, "inputs": 3, "n_inputs": 1}]
                if dropout
                else []
            ),
        ],
        steps=[{"start": 0, "end": 1000, "forward": 600}],
    )


def test_on_a_cpu_the_time_of_the_host_counts() -> None:
    (found,) = attention_fallback(on_cpu(dropout=False))
    assert found.worth is not None
    assert (found.worth.of, found.worth.high, found.worth.whole) == ("step time", 400, 1000)


def test_on_a_cpu_no_fused_kernel_has_dropout() -> None:
    assert list(attention_fallback(on_cpu(dropout=True))) == []
