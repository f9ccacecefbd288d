"""Grouped matrix products, as experts of a mixture use them, in dtypes that PyTorch's fake kernel refuses."""

from __future__ import annotations

from typing import Any

import torch

from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.torch_private import GROUPED_MM_RULE


@rule(
    Kind.FAKE_KERNEL,
    "aten::_grouped_mm",
    on=("cpu", "cuda"),
    when="any dtype: that of float32 and float16 is the same tensor as that of bfloat16",
    source="_grouped_mm_fallback in aten/src/ATen/native/GroupedMMUtils.h",
)
def grouped_mm(mat_a: Any, mat_b: Any, offs: Any = None, bias: Any = None, out_dtype: Any = None) -> torch.Tensor:
    made: torch.Tensor = GROUPED_MM_RULE.output_of_grouped_mm(mat_a, mat_b, offs, out_dtype)
    return made
