"""Formulas of backward that look for zeros among the values, and take a longer way for fake tensors, which have none.

Such a node of the autograd graph is counted as one kernel: not what its formula allocates for fake tensors, but the gradient it
returns, and what the real formula needs on its way where no value is zero.
"""

from __future__ import annotations

from typing import Any

import torch

from torchprof.estimation.rules.registry import Kind, rule


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.itemsize


@rule(
    Kind.BACKWARD_NODE,
    "ProdBackward0",
    on=("cpu", "cuda"),
    when="the product of all elements, none of which is zero",
    source="prod_backward in torch/csrc/autograd/FunctionsManual.cpp",
)
def prod_backward(node: Any) -> int:
    return _bytes(node._saved_self)  # result / input


@rule(
    Kind.BACKWARD_NODE,
    "ProdBackward1",
    on=("cpu", "cuda"),
    when="products along a dimension, without zeros",
    source="prod_backward in torch/csrc/autograd/FunctionsManual.cpp",
)
def prod_backward_along_dimension(node: Any) -> int:
    given = node._saved_self
    which_are_zero: int = given.numel()
    as_integers: int = torch.long.itemsize * given.numel()  # to count them
    result_over_input = _bytes(given)
    return which_are_zero + max(as_integers - _bytes(given), result_over_input)


@rule(
    Kind.BACKWARD_NODE,
    "CumprodBackward0",
    on=("cpu", "cuda"),
    when="without zeros",
    source="cumprod_backward in torch/csrc/autograd/FunctionsManual.cpp",
)
def cumprod_backward(node: Any) -> int:
    given = node._saved_self
    # grad * output, which are zero, and sums from the end: flipped, summed and flipped back
    return 3 * _bytes(given) + int(given.numel())
