"""What PyTorch would do on CUDA, done to fake tensors that say they are on the CPU.

A machine without a GPU cannot dispatch to CUDA, not even for fake tensors. Where CUDA's choice changes memory, it is made here
instead, each rule with its source in PyTorch:

- Dropout keeps a mask of one byte per element (``native_dropout``): ``is_fused_kernel_acceptable`` in ATen/native/Dropout.cpp.
- Attention in half precision is flash and keeps its log-sum-exp; with a mask, or in float32, it is memory-efficient; where
  neither can be, it is the plain products: ``select_sdp_backend`` in ATen/native/transformers/cuda/sdp_utils.cpp.
- Autocast runs the ops of ``FLOAT32`` in float32, as in ``AT_FORALL_FP32`` and ``AT_FORALL_FP32_SET_OPT_DTYPE`` of
  ATen/autocast_mode.h; the other choices are those of autocast on the CPU, which are the same for matrix products and
  convolutions.
- Optimizers update all parameters at once (``foreach``) and need temporaries for all: ``_default_to_fused_or_foreach`` in
  torch/optim/optimizer.py.
- RNNs are those of cuDNN, and so are convolutions: what these need is in ``cudnn.py``.
- The first matrix product of a thread takes a cuBLAS workspace for good: ``getChosenWorkspaceSize`` in
  ATen/cuda/CublasHandlePool.cpp. This one is in ``overheads.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.utils._pytree import tree_map

from torchprof.estimation.rules import cudnn

__all__ = ["as_on_cuda", "use_foreach"]

aten = torch.ops.aten
PRETENDED: Final = (FakeTensor, FunctionalTensor)  # the latter while a compiler traces
AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)

LARGEST_FLASH_HEAD: Final = 256
HALF: Final = (torch.float16, torch.bfloat16)
FLOAT32: Final = (
    "layer_norm group_norm softmax.int log_softmax.int cumsum prod sum exp log pow.Tensor_Scalar pow.Tensor_Tensor rsqrt "
    "nll_loss mse_loss l1_loss smooth_l1_loss kl_div binary_cross_entropy_with_logits cosine_similarity norm.Scalar"
).split()


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """Ops whose choice of kernel changes memory choose as on CUDA, for tensors on the CPU, until the block ends."""
    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    try:
        for key in ("AutogradCPU", "CPU"):
            library.impl("dropout", _dropout, key)  # type: ignore[no-untyped-call]
            library.impl("scaled_dot_product_attention", _attention, key)  # type: ignore[no-untyped-call]
            for name, kernel in cudnn.LIBRARY.items():
                library.impl(name, _unless_real(name, kernel), key)  # type: ignore[no-untyped-call]
        for name in filter(_has_no_choice, FLOAT32):
            library.impl(name, _in_float32(name), "AutocastCPU")  # type: ignore[no-untyped-call]
        _forget_kernels()
        yield
    finally:
        library._destroy()  # type: ignore[no-untyped-call]
        _forget_kernels()


def _forget_kernels() -> None:
    """Compilers dispatch in Python, where it is remembered which kernel an op had."""
    for name in ("dropout", "scaled_dot_product_attention", *cudnn.LIBRARY, *FLOAT32):
        _overload(name)._dispatch_cache.clear()


def _unless_real(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    op = _overload(name)

    def run(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (kernel if isinstance(input, PRETENDED) else op.decompose)(input, *args, **kwargs)

    return run


def _overload(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(aten, packet), overload or "default")


def _has_no_choice(name: str) -> bool:
    """Whether autocast on the CPU leaves this op alone."""
    return not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "AutocastCPU")


def _in_float32(name: str) -> Callable[..., Any]:
    op = _overload(name)

    def run(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map(_float32, (args, kwargs))
        with torch._C._ExcludeDispatchKeyGuard(AUTOCAST):
            return op(*args, **kwargs)

    return run


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, PRETENDED) and value.dtype in HALF else value


def use_foreach(optimizer: torch.optim.Optimizer) -> None:
    """Where the optimizer was not told how to update parameters, have it update all at once, as it would on CUDA."""
    for group in (optimizer.defaults, *optimizer.param_groups):
        if "foreach" in group and group["foreach"] is None and not group.get("fused"):
            group["foreach"] = True


def _dropout(input: Tensor, p: float, train: bool) -> Tensor:
    if not isinstance(input, PRETENDED):  # another thread's
        real: Tensor = aten.dropout.default.decompose(input, p, train)
        return real
    if train and 0 < p < 1 and input.numel():
        dropped: Tensor = aten.native_dropout(input, p, True)[0]
        return dropped
    result: Tensor = aten.mul(input, 0) if train and p == 1 else aten.alias(input)
    return result


def _attention(
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
    if not isinstance(query, PRETENDED):
        real: Tensor = aten.scaled_dot_product_attention.default.decompose(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
        return real
    plain = query.dim() == 4 and query.numel() and key.numel()
    fits_flash = plain and query.dtype in HALF and query.shape[-1] <= LARGEST_FLASH_HEAD and attn_mask is None
    grouped = query.dim() == 4 and query.shape[1] != key.shape[1]
    if fits_flash and query.shape[-1] == value.shape[-1]:
        size = query.shape[-1]
        # The kernel wants heads of a multiple of 8; the frontend pads them and cuts the result.
        padded = [torch.nn.functional.pad(t, (0, -size % 8)) if size % 8 else t for t in (query, key, value)]
        chosen = size**-0.5 if scale is None else scale
        result: Tensor = aten._scaled_dot_product_flash_attention(*padded, dropout_p, is_causal, False, scale=chosen)[0]
        return result[..., :size] if size % 8 else result
    if plain and not grouped and query.dtype in (*HALF, torch.float32):
        keep = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
        bias = _bias(attn_mask, query, key)
        efficient: Tensor = aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, keep, dropout_p, is_causal, scale=scale
        )[0]
        return efficient
    math: Tensor = aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
    )[0]
    return math


def _bias(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    """A mask as the memory-efficient kernel takes it: of the query's dtype, for every head, its rows aligned to 16 elements."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = aten.where(mask, aten.zeros_like(mask, dtype=query.dtype), float("-inf"))
    length = key.shape[-2]
    if length % 16:
        mask = torch.nn.functional.pad(mask, (0, -length % 16))[..., :length]
    return mask.expand(query.shape[0], query.shape[1], query.shape[2], length)
