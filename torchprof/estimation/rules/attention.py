"""What attention needs on CUDA: fused kernels keep a log-sum-exp, the plain products keep all scores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from torchprof.estimation.rules.attention_backends import Backend, Call, NoBackendError, chosen
from torchprof.estimation.rules.in_place import masks_in_place
from torchprof.estimation.rules.registry import Kind, TargetKernel, Workspaces, rule

aten = torch.ops.aten

FLASH_HEAD_MULTIPLE: Final = 8
BIAS_ALIGNMENT: Final = 8
"""Elements that the rows of a mask are aligned to."""
FLASH_ROWS: Final = 128
FLASH_COLUMNS: Final = 32
"""Rows and columns that flash's sums are rounded up to."""
FLASH_WIDE: Final = 192
FLASH_WIDEST: Final = 256
"""Beyond the first, heads are rounded to the second."""
FLOAT32: Final = 4
OTHERS: Final = {(7, 5): "a T4 or V100", (9, 0): "an H100"}
"""Compute capabilities that may choose another kernel than an A100, which is taken where the GPU is not known."""


@rule(
    Kind.TARGET_KERNEL,
    "aten::scaled_dot_product_attention",
    on="cuda",
    when="always: cuDNN, flash, memory-efficient or the plain products, by the GPU, the arguments and what the program allows; "
    "as on an A100 where the GPU is not known",
    source="scaled_dot_product_attention in aten/src/ATen/native/transformers/attention.cpp; select_sdp_backend in "
    "aten/src/ATen/native/transformers/cuda/sdp_utils.cpp",
)
class attention(TargetKernel):
    _otherwise: tuple[str, str] | None = None

    def __call__(
        self,
        op: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        call = Call(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa)
        backend = chosen(call, self.target.capability)
        if not self.target.is_known and self._otherwise is None:
            self._compare(call, backend)
        parts = (query, key, value)
        result: Tensor
        if backend is Backend.FLASH_ATTENTION:
            size = query.shape[-1]
            # The kernel wants heads of a multiple of 8; the frontend pads them and cuts the result.
            lacking = -size % FLASH_HEAD_MULTIPLE
            padded = [pad(part, (0, lacking)) if lacking else part for part in parts]
            factor = size**-0.5 if scale is None else scale
            result = aten._scaled_dot_product_flash_attention(*padded, dropout_p, is_causal, False, scale=factor)[0]
            return result[..., :size] if lacking else result
        bias = _additive(attn_mask, query.dtype)
        if backend is Backend.CUDNN_ATTENTION:
            keep = call.needs_gradient
            return aten._scaled_dot_product_cudnn_attention(*parts, bias, keep, dropout_p, is_causal, False, scale=scale)[0]  # type: ignore[no-any-return]
        if backend is Backend.EFFICIENT_ATTENTION:
            bias = _aligned(bias, call)
            keep = call.needs_gradient
            return aten._scaled_dot_product_efficient_attention(*parts, bias, keep, dropout_p, is_causal, scale=scale)[0]  # type: ignore[no-any-return]
        with masks_in_place():
            result = aten._scaled_dot_product_attention_math(
                *parts, bias, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
            )[0]
        return result

    def _compare(self, call: Call, backend: Backend) -> None:
        """Notes a GPU on which all scores would be kept, or would not be."""
        for capability, name in OTHERS.items():
            try:
                other = chosen(call, capability)
            except NoBackendError:
                continue
            if (other is Backend.MATH) != (backend is Backend.MATH):
                self._otherwise = name, "all scores" if other is Backend.MATH else "no scores"

    def notes(self) -> Iterable[str]:
        if self._otherwise is not None:
            name, kept = self._otherwise
            yield f"what another GPU needs for attention: no GPU is named, so an A100 is taken; {name} keeps {kept}"


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask as kernels take it: added to the scores."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return aten.where(mask, 0.0, torch.scalar_tensor(float("-inf"), dtype=dtype, device=mask.device))  # type: ignore[no-any-return]


def _aligned(mask: Tensor | None, call: Call) -> Tensor | None:
    """A mask for the memory-efficient kernel: for every head, its rows aligned, or copied to be."""
    if mask is None:
        return None
    if mask.stride(-1) != 1 or any(stride % BIAS_ALIGNMENT for stride in mask.stride()[:-1]):
        size = mask.shape[-1]
        mask = pad(mask, (0, BIAS_ALIGNMENT - size % BIAS_ALIGNMENT))[..., :size]
    return mask.expand(*call.query.shape[:3], call.key.shape[2])


@rule(
    Kind.WORKSPACE,
    "aten::_safe_softmax",
    on="cuda",
    when="attention by the plain products: where the scores are minus infinity, a byte per score and one per row, and a zero",
    source="_safe_softmax in aten/src/ATen/native/transformers/attention.cpp; histories of an H200",
)
class safe_softmax(Workspaces):
    def bytes(self, op: Any, args: Any, kwargs: Any, results: list[Tensor]) -> int:
        whole: int = results[0].numel()
        rows: int = whole // max(1, args[0].shape[args[1]])
        return int(whole + rows + FLOAT32)


@rule(
    Kind.RESULT,
    "aten::_scaled_dot_product_cudnn_attention",
    on="cuda",
    when="without a gradient there is no log-sum-exp, which the fake kernel returns all the same",
    source="run_cudnn_SDP_fprop in aten/src/ATen/native/cudnn/MHA.cpp",
)
def cudnn_log_sum_exp(op: Any, args: Any, kwargs: Any, returned: Any) -> Any:
    keep = kwargs.get("compute_log_sumexp", args[4] if len(args) > 4 else True)
    return returned if keep else (returned[0], returned[1].new_empty(0), *returned[2:])


@rule(
    Kind.ORDER,
    "aten::_scaled_dot_product_cudnn_attention",
    on="cuda",
    when="always: what seeds the dropout is allocated before the result",
    source="_scaled_dot_product_cudnn_attention_cuda in aten/src/ATen/native/transformers/cuda/attention.cu; "
    "histories of an H200",
)
def seeds_before_result(results: list[Tensor]) -> list[Tensor]:
    return sorted(results, key=lambda result: result.numel() != 1)


@rule(
    Kind.WORKSPACE,
    "aten::_scaled_dot_product_flash_attention_backward",
    on="cuda",
    when="the gradient of the query is added up in float32, and those of grouped keys and values are made for every head; with "
    "deterministic algorithms, several sums are kept apart",
    source="mha_bwd in aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp",
)
class flash_gradients(Workspaces):
    def bytes(self, op: Any, args: Any, kwargs: Any, results: list[Tensor]) -> int:
        query, key = args[1], args[2]
        batch, heads, length, size = query.shape
        rows = batch * heads * _rounded(length, FLASH_ROWS)
        widened = _rounded(size, FLASH_COLUMNS) if size <= FLASH_WIDE else FLASH_WIDEST
        sums = -(-self.target.multiprocessors // (batch * heads)) if torch.are_deterministic_algorithms_enabled() else 1
        accumulated = rows * widened * FLOAT32 * sums
        row_sums = rows * FLOAT32
        ungrouped = 2 * batch * heads * key.shape[2] * size * query.itemsize if key.shape[1] != heads else 0
        return int(accumulated + row_sums + ungrouped)


def _rounded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
