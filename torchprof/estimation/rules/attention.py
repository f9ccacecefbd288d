"""Which attention kernel CUDA chooses: flash keeps its log-sum-exp, the plain products keep all scores."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from torchprof.estimation.rules.registry import Kind, rule

aten = torch.ops.aten

HALF: Final = (torch.float16, torch.bfloat16)
LARGEST_FLASH_HEAD: Final = 256
FLASH_HEAD_MULTIPLE: Final = 8
BIAS_ALIGNMENT: Final = 16
"""Elements that the rows of a mask are aligned to."""


@rule(
    Kind.KERNEL,
    "aten::scaled_dot_product_attention",
    on="cuda",
    when="flash in float16 and bfloat16 without a mask; memory-efficient with a mask or in float32, without grouped heads; "
    "otherwise the plain products",
    source="select_sdp_backend in aten/src/ATen/native/transformers/cuda/sdp_utils.cpp",
)
def attention(
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
    has_heads = query.dim() == 4 and query.numel() and key.numel()
    fits_flash = has_heads and query.dtype in HALF and query.shape[-1] <= LARGEST_FLASH_HEAD and attn_mask is None
    grouped = query.dim() == 4 and query.shape[1] != key.shape[1]
    if fits_flash and query.shape[-1] == value.shape[-1]:
        size = query.shape[-1]
        # The kernel wants heads of a multiple of 8; the frontend pads them and cuts the result.
        lacking = -size % FLASH_HEAD_MULTIPLE
        padded = [pad(part, (0, lacking)) if lacking else part for part in (query, key, value)]
        chosen = size**-0.5 if scale is None else scale
        flash: Tensor = aten._scaled_dot_product_flash_attention(*padded, dropout_p, is_causal, False, scale=chosen)[0]
        return flash[..., :size] if lacking else flash
    if has_heads and not grouped and query.dtype in (*HALF, torch.float32):
        keep = torch.is_grad_enabled() and any(part.requires_grad for part in (query, key, value))
        bias = _bias(attn_mask, query, key)
        efficient: Tensor = aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, keep, dropout_p, is_causal, scale=scale
        )[0]
        return efficient
    plain: Tensor = aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
    )[0]
    return plain


def _bias(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    """A mask as the memory-efficient kernel takes it: of the query's dtype, for every head, its rows aligned."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = aten.where(mask, aten.zeros_like(mask, dtype=query.dtype), float("-inf"))
    length = key.shape[-2]
    if length % BIAS_ALIGNMENT:
        mask = pad(mask, (0, -length % BIAS_ALIGNMENT))[..., :length]
    return mask.expand(query.shape[0], query.shape[1], query.shape[2], length)
