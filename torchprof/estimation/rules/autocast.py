"""Ops that autocast runs in float32 on CUDA, and leaves alone on the CPU.

Its other choices are the same on both, for matrix products and convolutions.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.torch_private import AUTOCAST_RULE, DISPATCHER_RULES, ESTIMATE

HALF: Final = (torch.float16, torch.bfloat16)
FLOAT32: Final = (
    "layer_norm group_norm softmax.int log_softmax.int cumsum prod sum exp log pow.Tensor_Scalar pow.Tensor_Tensor rsqrt "
    "nll_loss mse_loss l1_loss smooth_l1_loss kl_div binary_cross_entropy_with_logits cosine_similarity norm.Scalar"
).split()


@rule(
    Kind.AUTOCAST,
    *(f"aten::{name}" for name in FLOAT32),
    on="cuda",
    when="under autocast, for float16 and bfloat16 tensors",
    source="AT_FORALL_FP32 and AT_FORALL_FP32_SET_OPT_DTYPE in aten/src/ATen/autocast_mode.h",
)
def autocast_to_float32(op: Any, *args: Any, **kwargs: Any) -> Any:
    args, kwargs = ESTIMATE.tree_map(_to_float32, (args, kwargs))
    with AUTOCAST_RULE.ExcludeDispatchKeys(AUTOCAST_RULE.DispatchKeySet(AUTOCAST_RULE.DispatchKey.AutocastCPU)):
        return op(*args, **kwargs)


def _to_float32(value: Any) -> Any:
    is_fake = isinstance(value, (ESTIMATE.FakeTensor, DISPATCHER_RULES.FunctionalTensor))
    return value.float() if is_fake and value.dtype in HALF else value
