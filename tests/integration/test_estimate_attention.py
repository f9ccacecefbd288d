"""Attention on CUDA: which kernel a GPU takes, and what that needs, in bytes worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import torchprof
from torchprof import Estimate

Attention = Callable[[Tensor], Tensor]

HALF, FLOAT = torch.bfloat16, torch.float32
KERNELS = ("cudnn", "flash", "efficient", "math")
ROW, TWO_SEEDS, STATE_OF_FLASH = 4, 16, 24
"""Bytes of a row's log-sum-exp, and of what seeds the dropout."""


class Attends(nn.Module):
    def __init__(self, function: Attention, dtype: torch.dtype) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=dtype))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x * self.scale)


def without_gradient(model: nn.Module, optimizer: object, x: Tensor) -> None:
    with torch.no_grad():
        model(x)


def of(
    function: Attention,
    shape: tuple[int, ...] = (2, 8, 64, 64),
    dtype: torch.dtype = HALF,
    gpu: str | int | None = "A100-80GB",
    gradient: bool = False,
) -> Estimate:
    step: Any = None if gradient else without_gradient
    x = torch.empty(shape, dtype=dtype, device="meta")
    return torchprof.estimate(Attends(function, dtype), x, capacity=gpu, step=step, steps=1)


def kernel(found: Estimate) -> str:
    names = {found.trace.strings[row] for row in set(found.trace.op_names.tolist())}
    ran = [kind for kind in KERNELS if any(name.startswith("aten::_scaled_dot_product_" + kind) for name in names)]
    ran += ["math"] if "aten::_scaled_dot_product_attention_math" in names else []
    (only,) = ran
    return only


def itself(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x)


def causal_of_unequal_lengths(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x[:, :, :32], x[:, :, :32], is_causal=True)


def grouped(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x[:, :2], x[:, :2], enable_gqa=True)


def masked(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x, torch.ones(x.shape[2], x.shape[2], dtype=torch.bool))


def masked_with_a_gradient(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x, torch.zeros(64, 64, dtype=x.dtype, requires_grad=True))


def masked_by_one_column(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x, torch.ones(64, 1, dtype=torch.bool).expand(64, 64))


def of_one_key(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x[:, :, :1], x[:, :, :1])


def transposed_heads(x: Tensor) -> Tensor:
    y = x.transpose(-1, -2)
    return F.scaled_dot_product_attention(y, y, y)


def dropping(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x, dropout_p=0.5)


def narrow_values(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x[..., :32])


def in_three_dimensions(x: Tensor) -> Tensor:
    return itself(x.flatten(0, 1))


@pytest.mark.parametrize(
    ("gpu", "dtype", "expected"),
    [
        ("T4", HALF, "math"),
        ("T4", torch.float16, "efficient"),
        ("T4", FLOAT, "efficient"),
        ("V100-32GB", HALF, "math"),
        ("V100-32GB", torch.float16, "efficient"),
        ("A100-80GB", HALF, "flash"),
        ("A100-80GB", FLOAT, "efficient"),
        ("A100-80GB", torch.float64, "math"),
        ("RTX 4090", torch.float16, "flash"),
        ("H100-80GB", HALF, "cudnn"),
        ("H100-80GB", FLOAT, "efficient"),
        ("B200", torch.float16, "cudnn"),
        (None, HALF, "flash"),
        (2**34, HALF, "flash"),
    ],
)
def test_the_kernel_is_that_of_the_gpu_and_the_dtype(gpu: Any, dtype: torch.dtype, expected: str) -> None:
    assert kernel(of(itself, dtype=dtype, gpu=gpu)) == expected


@pytest.mark.parametrize(
    ("function", "on_a100", "on_h100"),
    [
        (masked, "efficient", "cudnn"),
        (masked_with_a_gradient, "efficient", "efficient"),
        (masked_by_one_column, "math", "math"),
        (causal_of_unequal_lengths, "efficient", "cudnn"),
        (grouped, "flash", "cudnn"),
        (of_one_key, "flash", "flash"),
        (transposed_heads, "math", "math"),
        (dropping, "flash", "cudnn"),
        (narrow_values, "efficient", "cudnn"),
        (in_three_dimensions, "math", "math"),
    ],
)
def test_the_kernel_is_one_that_takes_the_arguments(function: Attention, on_a100: str, on_h100: str) -> None:
    assert kernel(of(function)) == on_a100
    assert kernel(of(function, gpu="H100-80GB")) == on_h100


@pytest.mark.parametrize(
    ("head", "dtype", "gpu", "expected"),
    [
        (10, FLOAT, "A100-80GB", "math"),
        (12, FLOAT, "A100-80GB", "efficient"),
        (10, FLOAT, "T4", "efficient"),
        (12, torch.float16, "T4", "math"),
        (10, HALF, "A100-80GB", "flash"),
        (10, HALF, "H100-80GB", "flash"),
        (256, HALF, "A100-80GB", "flash"),
        (264, HALF, "A100-80GB", "efficient"),
        (256, HALF, "H100-80GB", "cudnn"),
        (256, HALF, "B200", "flash"),
    ],
)
def test_heads_are_of_a_size_that_the_kernel_takes(head: int, dtype: torch.dtype, gpu: str, expected: str) -> None:
    assert kernel(of(itself, (2, 4, 64, head), dtype, gpu)) == expected


@pytest.mark.parametrize(
    ("head", "trains", "runs"), [(192, "flash", "flash"), (200, "efficient", "flash"), (256, "flash", "flash")]
)
def test_flash_has_no_gradient_of_some_large_heads_on_small_gpus(head: int, trains: str, runs: str) -> None:
    assert kernel(of(itself, (2, 4, 64, head), gpu="RTX 4090", gradient=True)) == trains
    assert kernel(of(itself, (2, 4, 64, head), gpu="RTX 4090")) == runs
    assert kernel(of(itself, (2, 4, 64, head), gpu="A100-80GB", gradient=True)) == "flash"


def among(*backends: SDPBackend, **options: Any) -> Attention:
    def attend(x: Tensor) -> Tensor:
        with sdpa_kernel(list(backends), **options):
            return itself(x)

    return attend


CUDNN, FLASH, EFFICIENT, MATH = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (among(MATH), "math"),
        (among(EFFICIENT, MATH), "efficient"),
        (among(EFFICIENT, CUDNN), "cudnn"),
        (among(EFFICIENT, CUDNN, set_priority=True), "efficient"),
        (among(FLASH, CUDNN, set_priority=True), "flash"),
        (among(FLASH, EFFICIENT), "flash"),
    ],
)
def test_the_program_may_choose_among_kernels(function: Attention, expected: str) -> None:
    assert kernel(of(function, gpu="H100-80GB")) == expected


def test_cudnn_may_be_switched_off() -> None:
    try:
        torch.backends.cuda.enable_cudnn_sdp(False)
        assert kernel(of(itself, gpu="H100-80GB")) == "flash"
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)
    assert kernel(of(itself, gpu="H100-80GB")) == "cudnn"


def test_cudnn_is_not_deterministic() -> None:
    try:
        torch.use_deterministic_algorithms(True)
        assert kernel(of(itself, gpu="H100-80GB")) == "flash"
        torch.use_deterministic_algorithms(True, warn_only=True)
        assert kernel(of(itself, gpu="H100-80GB")) == "cudnn"
    finally:
        torch.use_deterministic_algorithms(False)


def test_where_no_allowed_kernel_runs_the_program_raises_and_may_catch_it() -> None:
    with pytest.raises(RuntimeError, match=r"compute capability 7\.5: FLASH_ATTENTION: dtype bfloat16; .* it is switched off"):
        of(among(FLASH), gpu="T4")

    def falls_back(x: Tensor) -> Tensor:
        try:
            return among(FLASH)(x)
        except RuntimeError:
            return itself(x)

    assert kernel(of(falls_back, gpu="T4")) == "math"


def test_a_note_says_where_another_gpu_would_keep_all_scores() -> None:
    said = "\n".join(of(itself, gpu=None).notes)
    assert "no GPU is named, so an A100 is taken; a T4 or V100 keeps all scores" in said
    assert "so an A100 is taken" not in "\n".join(of(itself, gpu="A100-80GB").notes)
    assert "so an A100 is taken" not in "\n".join(of(itself, dtype=torch.float16, gpu=None).notes)


def test_the_plain_products_hold_the_scores_twice_and_a_byte_each() -> None:
    batch, heads, length, head = 2, 8, 2048, 64
    scores = batch * heads * length * length
    elements = batch * heads * length * head
    found = of(itself, (batch, heads, length, head), gpu="T4")
    inputs = 2 * elements + 2  # scaled by a parameter; the input itself is another
    in_float32 = 4 * (3 * elements + elements)  # query, key, value, and the scaled query
    rows = batch * heads * length
    softmax = 4 * scores + (scores + rows + 4)  # its result; where scores are minus infinity, which rows are, and a zero
    assert found.memory.peak.bytes == 2 * elements + inputs + in_float32 + 4 * scores + softmax


def test_flash_keeps_a_log_sum_exp_of_each_row() -> None:
    elements, rows = 2 * 8 * 2048 * 64, 2 * 8 * 2048
    found = of(itself, (2, 8, 2048, 64))
    assert found.memory.peak.bytes == 2 * 3 * elements + 2 + ROW * rows + STATE_OF_FLASH


def test_memory_efficient_attention_keeps_whole_blocks_of_rows_and_only_for_a_gradient() -> None:
    elements, blocks = 2 * 4 * 50 * 64, 2 * 4 * 64  # 50 rows are two blocks of 32
    saved = sum(of(itself, (2, 4, 50, 64), FLOAT, gradient=True).memory.saved_by_module.values())
    without = of(itself, (2, 4, 50, 64), FLOAT).memory.peak.bytes
    assert saved == 4 * elements * 2 + ROW * blocks  # what it is given, what it returns
    assert without == 4 * elements * 3 + 4


def test_cudnn_keeps_a_log_sum_exp_only_for_a_gradient() -> None:
    elements, rows = 2 * 4 * 50 * 64, 2 * 4 * 50
    saved = sum(of(itself, (2, 4, 50, 64), gpu="H100-80GB", gradient=True).memory.saved_by_module.values())
    without = of(itself, (2, 4, 50, 64), gpu="H100-80GB").memory.peak.bytes
    assert saved == 2 * elements * 2 + ROW * rows + TWO_SEEDS
    assert without == 2 * elements * 3 + 2 + TWO_SEEDS


@pytest.mark.parametrize(("length", "aligned"), [(2048, None), (2056, None), (2050, 2056)])
def test_masks_are_copied_where_their_rows_are_not_aligned_to_eight_elements(length: int, aligned: int | None) -> None:
    elements, places = 2 * length * 64, length * length
    found = of(masked, (1, 2, length, 64))
    copied = 2 * length * aligned if aligned else 0
    while_copied = 2 * elements * 2 + 2 + places + 2 * places + copied
    in_the_kernel = while_copied - (2 * places if aligned else 0) + 2 * elements
    assert found.memory.peak.bytes == max(while_copied, in_the_kernel)


def test_flash_adds_up_the_gradient_of_the_query_in_float32() -> None:
    found = of(itself, (2, 8, 200, 48), gradient=True)
    backward = [size for size in found.memory.allocations["bytes"].tolist() if size > 2**20]
    assert backward == [2 * 8 * 256 * 64 * 4 + 2 * 8 * 256 * 4]  # 200 rows are two blocks of 128, 48 columns two of 32


def test_flash_makes_gradients_of_grouped_keys_for_every_head() -> None:
    rows = 2 * 8 * 128
    found = of(grouped, (2, 8, 128, 64), gradient=True)
    assert max(found.memory.allocations["bytes"]) == rows * 64 * 4 + rows * 4 + 2 * (rows * 64 * 2)


def test_flash_keeps_its_sums_apart_where_they_are_to_be_deterministic() -> None:
    try:
        torch.use_deterministic_algorithms(True)
        found = of(itself, (2, 8, 128, 64), gradient=True)
    finally:
        torch.use_deterministic_algorithms(False)
    rows = 2 * 8 * 128
    assert max(found.memory.allocations["bytes"]) == 7 * rows * 64 * 4 + rows * 4  # 108 multiprocessors, 16 heads


@pytest.mark.parametrize(
    ("shape", "buffer"),
    [((4, 12, 512, 64), 6_297_600), ((16, 12, 128, 64), 6_297_600), ((8, 12, 197, 64), 6_297_600), ((8, 2, 10, 16), 262_400)],
)
def test_gradients_of_the_query_are_added_up_in_the_buffer_that_an_h200_was_seen_to_take(
    shape: tuple[int, int, int, int], buffer: int
) -> None:
    batch, heads, length, head = shape
    sizes = of(itself, shape, FLOAT, "H200", gradient=True).memory.allocations["bytes"].tolist()
    sums = batch * heads * length * ROW
    assert buffer in sizes or 4 * batch * heads * length * head + sums > buffer  # or what was there before it is more
    assert sums in sizes
