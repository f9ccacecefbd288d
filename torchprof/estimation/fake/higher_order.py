"""Operators that call others, as eager PyTorch runs them: by the Python that it has for devices without kernels for them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from torchprof.estimation.fake.callers import Stage, by_program, replaced, stage
from torchprof.estimation.fake.dynamo import undone
from torchprof.estimation.fake.stance import compiling_with
from torchprof.estimation.torch_private import COMPILE, HIGHER_ORDER

__all__ = ["eager", "read_by_dynamo"]


def eager(name: str) -> Callable[..., Any] | None:
    """What an operator of ``torch.ops.higher_order`` runs, all of it ops that are estimated; None: it is not known."""
    if name in ("flex_attention", "flex_attention_backward", "associative_scan", "map_impl"):
        # Scores are made whole, and elements gone through one by one, on any device.
        found: Callable[..., Any] = getattr(torch.ops.higher_order, name).py_kernels[
            HIGHER_ORDER.DispatchKey.CompositeExplicitAutograd
        ]
        return found
    return {"cond": _chosen, "scan": _scanned}.get(name)


def _chosen(pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], operands: Any) -> Any:
    """As ``cond_op_dense`` in torch/_higher_order_ops/cond.py, which wants no mode to be active."""
    return true_fn(*operands) if pred else false_fn(*operands)


def _scanned(combine_fn: Callable[..., Any], init: Any, xs: Any, additional_inputs: Any) -> Any:
    """As ``scan_op_dense`` in torch/_higher_order_ops/scan.py, which wants no mode to be active."""
    return HIGHER_ORDER.generic_scan(combine_fn, init, xs, additional_inputs=additional_inputs)


@contextmanager
def read_by_dynamo() -> Iterator[None]:
    """Dynamo reads the functions that operators are given, as in eager PyTorch, until the block ends.

    It finds the tensors that they take from around them, such as parameters, which are differentiated as well.
    """
    original = HIGHER_ORDER.setup_compilation_env
    places = [HIGHER_ORDER.operators, *filter(None, [sys.modules.get("torch.nn.attention.flex_attention")])]
    with ExitStack() as stack:
        is_undone = False

        @contextmanager
        def setup_compilation_env() -> Iterator[Any]:
            nonlocal is_undone
            with original() as backend:
                if not by_program():
                    yield backend
                    return
                if not is_undone:
                    COMPILE.require()
                    stack.enter_context(undone(backend))
                    is_undone = True
                with stage(Stage.DYNAMO), compiling_with():
                    yield backend

        for place in places:
            stack.enter_context(replaced(place, "setup_compilation_env", setup_compilation_env))
        yield
