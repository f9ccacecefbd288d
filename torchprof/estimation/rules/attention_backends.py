"""Which of PyTorch's attention kernels a GPU can run for a call, and which of them PyTorch takes.

Checked against PyTorch 2.13: ``can_use_*`` and ``priority_order`` in aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, with
the checks of aten/src/ATen/native/transformers/sdp_utils_cpp.h.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import IntEnum
from typing import Final, NamedTuple

import torch
from torch import Tensor

from torchprof.estimation.torch_private import ATTENTION_RULE

__all__ = ["Backend", "Call", "NoBackendError", "chosen"]

Capability = tuple[int, int]

HALF: Final = (torch.float16, torch.bfloat16)
NEWEST: Final = (12, 1)
"""The newest compute capability that the fused kernels are built for."""
CUDNN_IS_FAST: Final = 9_15_00
"""The version of cuDNN beyond which its attention comes first, as ``torch.backends.cudnn.version`` gives it."""


class Backend(IntEnum):
    """The kernels, as ``torch.nn.attention.SDPBackend`` numbers them."""

    MATH = 0
    FLASH_ATTENTION = 1
    EFFICIENT_ATTENTION = 2
    CUDNN_ATTENTION = 3


DEFAULT_ORDER: Final = (Backend.FLASH_ATTENTION, Backend.EFFICIENT_ATTENTION, Backend.MATH, Backend.CUDNN_ATTENTION)
CUDNN_FIRST: Final = (Backend.CUDNN_ATTENTION, Backend.FLASH_ATTENTION, Backend.EFFICIENT_ATTENTION, Backend.MATH)


class NoBackendError(RuntimeError):
    """The program allows no kernel that the GPU can run: what PyTorch raises there is a `RuntimeError` too."""


class Call(NamedTuple):
    """The arguments of ``scaled_dot_product_attention`` that decide."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    dropout: float
    causal: bool
    grouped: bool

    @property
    def needs_gradient(self) -> bool:
        return torch.is_grad_enabled() and any(part.requires_grad for part in (self.query, self.key, self.value))

    @property
    def heads(self) -> tuple[int, int, int]:
        return self.query.shape[1], self.key.shape[1], self.value.shape[1]

    @property
    def head_dims(self) -> tuple[int, int, int]:
        return self.query.shape[-1], self.key.shape[-1], self.value.shape[-1]


def chosen(call: Call, capability: Capability) -> Backend:
    """The kernel that PyTorch takes: the first in order that the program allows and the GPU can run.

    Raises:
        NoBackendError: there is none.
    """
    reasons = []
    for backend in _order(capability):
        why_not = "it is switched off" if not _is_allowed(backend) else WHY_NOT[backend](call, capability)
        if not why_not:
            return backend
        reasons.append(f"{backend.name}: {why_not}")
    major, minor = capability
    raise NoBackendError(
        f"no kernel for scaled_dot_product_attention on compute capability {major}.{minor}: {'; '.join(reasons)}"
    )


def _order(capability: Capability) -> tuple[Backend, ...]:
    """The user's order, as ``sdpa_kernel(..., set_priority=True)`` sets it, or the default one of the GPU."""
    known = {int(backend): backend for backend in Backend}
    order = tuple(known[number] for number in ATTENTION_RULE.priority_order() if number in known)
    if order not in (DEFAULT_ORDER, CUDNN_FIRST):
        return order
    return CUDNN_FIRST if _prefers_cudnn(capability) else DEFAULT_ORDER


def _prefers_cudnn(capability: Capability) -> bool:
    version = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None  # type: ignore[no-untyped-call]
    is_off = os.environ.get("TORCH_CUDNN_SDPA_DEPRIORITIZED") == "1"
    return capability[0] in (9, 10) and not is_off and (version is None or version > CUDNN_IS_FAST)


def _is_allowed(backend: Backend) -> bool:
    flags = torch.backends.cuda
    enabled: dict[Backend, Callable[[], bool]] = {
        Backend.MATH: flags.math_sdp_enabled,
        Backend.FLASH_ATTENTION: flags.flash_sdp_enabled,
        Backend.EFFICIENT_ATTENTION: flags.mem_efficient_sdp_enabled,
        Backend.CUDNN_ATTENTION: flags.cudnn_sdp_enabled,
    }
    return enabled[backend]()


def _not_fused(call: Call) -> str:
    """Why no fused kernel takes a call; empty where one may."""
    parts = (call.query, call.key, call.value)
    if any(part.dim() != 4 for part in parts):
        return "query, key and value have four dimensions"
    if call.query.shape[-2] == 0 or call.key.shape[-2] == 0:
        return "a sequence is empty"
    if len({part.shape[0] for part in parts}) > 1:
        return "the batch sizes differ"
    if call.mask is not None and call.mask.stride(-1) != 1:
        return "the mask has gaps in its last dimension"
    return ""


def _gaps(call: Call, *, single_counts: bool) -> str:
    """Why a kernel cannot read the heads; a stride means nothing to some where a head has one element."""
    apart = any(part.stride(-1) != 1 for part in (call.query, call.key, call.value))
    return "heads have gaps" if apart and (single_counts or call.query.shape[-1] != 1) else ""


def _dtype(call: Call, dtypes: tuple[torch.dtype, ...]) -> str:
    parts = (call.query, call.key, call.value)
    fits = call.query.dtype in dtypes and all(part.dtype == call.query.dtype for part in parts)
    return "" if fits else f"dtype {call.query.dtype}".replace("torch.", "")


def _half(capability: Capability) -> tuple[torch.dtype, ...]:
    return HALF if capability[0] >= 8 else (torch.float16,)


def _not_math(call: Call, capability: Capability) -> str:
    return ""


def _not_flash(call: Call, capability: Capability) -> str:
    if why_not := _not_fused(call) or _gaps(call, single_counts=False) or _dtype(call, _half(capability)):
        return why_not
    if not (8, 0) <= capability <= NEWEST:
        return "it needs compute capability 8.0"
    if call.mask is not None:
        return "it takes no mask"
    head = call.query.shape[-1]
    if len(set(call.head_dims)) > 1 or head > 256:
        return f"head sizes {call.head_dims}: equal ones up to 256"
    small = (8, 6) <= capability <= (8, 9) or capability >= (12, 0)
    if call.needs_gradient and small and head > 192 and (head <= 224 or call.dropout > 0):
        return f"no gradient of heads of {head} on this GPU"
    if call.causal and call.query.shape[-2] != call.key.shape[-2]:
        return "is_causal with sequences of unequal length"
    query_heads, key_heads, value_heads = call.heads
    if key_heads != value_heads or (query_heads % key_heads if call.grouped else query_heads != key_heads):
        return f"{query_heads}, {key_heads} and {value_heads} heads"
    return ""


def _not_efficient(call: Call, capability: Capability) -> str:
    dtypes = (*_half(capability), torch.float32)
    if why_not := _not_fused(call) or _gaps(call, single_counts=True) or _dtype(call, dtypes):
        return why_not
    if not (5, 0) <= capability <= NEWEST:
        return "it is not built for this GPU"
    if len(set(call.heads)) > 1:
        return "it takes no grouped heads"
    query_dim, key_dim, value_dim = call.head_dims
    multiple = _gemm_alignment(call.query.dtype, capability)
    if query_dim != key_dim or query_dim % multiple or value_dim % multiple or not query_dim or not value_dim:
        return f"head sizes {call.head_dims}: multiples of {multiple}"
    return ""


def _gemm_alignment(dtype: torch.dtype, capability: Capability) -> int:
    """Elements that a head has to be a multiple of: what tensor cores load at once, or four of a plain product."""
    if capability[0] >= 8:
        return 8 if dtype in HALF else 4
    return 8 if capability[0] == 7 and dtype in HALF else 1


def _not_cudnn(call: Call, capability: Capability) -> str:
    if why_not := _not_fused(call) or _gaps(call, single_counts=False) or _dtype(call, _half(capability)):
        return why_not
    if not (8, 0) <= capability <= NEWEST:
        return "it needs compute capability 8.0"
    if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
        return "it is not deterministic"
    if call.mask is not None and not _is_cudnn_mask(call.mask, call):
        return f"a mask of shape {tuple(call.mask.shape)}, or one that needs a gradient"
    query_heads, key_heads, value_heads = call.heads
    if query_heads % key_heads or query_heads % value_heads if call.grouped else len(set(call.heads)) > 1:
        return f"{query_heads}, {key_heads} and {value_heads} heads"
    query_dim, _, value_dim = call.head_dims
    largest = 256 if capability == (9, 0) else 128
    if capability[0] == 10 and (query_dim, value_dim) == (192, 128):
        largest = 192
    if max(query_dim, value_dim) > largest or query_dim % 8 or value_dim % 8:
        return f"head sizes {call.head_dims}: multiples of 8 up to {largest}"
    if call.key.shape[-2] == 1 or (call.query.shape[-2] == 1 and call.dropout):
        return "a sequence of length 1"
    return ""


def _is_cudnn_mask(mask: Tensor, call: Call) -> bool:
    if mask.requires_grad or mask.dim() not in (2, 4):
        return False
    whole = (call.query.shape[0], call.query.shape[1], call.query.shape[2], call.key.shape[2])
    return all(size in (1, full) for size, full in zip(mask.shape, whole[-mask.dim() :], strict=True))


WHY_NOT: Final[dict[Backend, Callable[[Call, Capability], str]]] = {
    Backend.MATH: _not_math,
    Backend.FLASH_ATTENTION: _not_flash,
    Backend.EFFICIENT_ATTENTION: _not_efficient,
    Backend.CUDNN_ATTENTION: _not_cudnn,
}
"""Why a kernel does not run for a call, in words; empty where it does."""
