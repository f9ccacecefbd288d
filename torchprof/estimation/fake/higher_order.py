"""Operators that call others, as eager PyTorch runs them: by the Python that it has for devices without kernels for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from torchprof.estimation.torch_private import HIGHER_ORDER

__all__ = ["eager"]


def eager(name: str) -> Callable[..., Any] | None:
    """What an operator of ``torch.ops.higher_order`` runs, all of it ops that are estimated; None: it is not known."""
    if name in ("flex_attention", "flex_attention_backward", "associative_scan", "map_impl"):
        # Scores are made whole, and elements gone through one by one, on any device.
        found: Callable[..., Any] = getattr(torch.ops.higher_order, name).py_kernels[HIGHER_ORDER.DispatchKey.CompositeExplicitAutograd]
        return found
    return {"cond": _chosen, "scan": _scanned}.get(name)


def _chosen(pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], operands: Any) -> Any:
    """As ``cond_op_dense`` in torch/_higher_order_ops/cond.py, which wants no mode to be active."""
    return true_fn(*operands) if pred else false_fn(*operands)


def _scanned(combine_fn: Callable[..., Any], init: Any, xs: Any, additional_inputs: Any) -> Any:
    """As ``scan_op_dense`` in torch/_higher_order_ops/scan.py, which wants no mode to be active."""
    return HIGHER_ORDER.generic_scan(combine_fn, init, xs, additional_inputs=additional_inputs)
