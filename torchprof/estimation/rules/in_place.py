"""What autograd does in place, but not for fake tensors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

from torchprof import _native
from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.torch_private import ESTIMATE

aten = torch.ops.aten

HELD_BY_ENGINE_ALONE: Final = 2
"""Uses of the storage of a gradient that only autograd's engine holds: its own, and that of the fake tensor around it."""

_attention = threading.local()


@contextmanager
def masks_in_place() -> Iterator[None]:
    """What is added is a mask, to scores that attention has just made, until the block ends."""
    _attention.adds_masks = True
    try:
        yield
    finally:
        _attention.adds_masks = False


SCATTERS: Final = {
    aten.scatter_add.default: aten.scatter_add_.default,
    aten.scatter.src: aten.scatter_.src,
    aten.scatter.value: aten.scatter_.value,
    aten.index_add.default: aten.index_add_.default,
    aten.index_put.default: aten.index_put_.default,
}


@rule(
    Kind.IN_PLACE,
    "aten::add.Tensor",
    on=("cpu", "cuda"),
    when="autograd adds up gradients, and nothing but its engine holds the first, which is dense; attention adds a mask",
    source="can_accumulate_inplace in torch/csrc/autograd/input_buffer.cpp; _scaled_dot_product_attention_math in "
    "aten/src/ATen/native/transformers/attention.cpp, which does so unless one is of a subclass; histories of an H200",
)
def accumulated_gradients(op: Any, args: Any) -> Any:
    if getattr(_attention, "adds_masks", False):
        return aten.add_.Tensor
    if not _native.adds_gradients() or _native.use_counts(args[0])[1] > HELD_BY_ENGINE_ALONE:
        return None
    return aten.add_.Tensor if ESTIMATE.is_dense(args[0]) else None


@rule(
    Kind.IN_PLACE,
    "aten::scatter_add",
    "aten::scatter.src",
    "aten::scatter.value",
    "aten::index_add",
    "aten::index_put",
    on=("cpu", "cuda"),
    when="in a formula of backward without a graph of its own: it writes to zeros that it has just made",
    source="isTensorSubclassLike in torch/csrc/autograd/FunctionsManual.cpp: out of place only for subclasses",
)
def scattered_gradients(op: Any, args: Any) -> Any:
    in_formula = ESTIMATE.current_autograd_node() is not None and not torch.is_grad_enabled()
    return SCATTERS[op] if in_formula else None
