"""Operators that call others, as eager PyTorch runs them: by the Python that it has for devices without kernels for them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch

from torchprof import _native
from torchprof.errors import EstimateError
from torchprof.estimation.fake.callers import Stage, by_program, remark, replaced, stage
from torchprof.estimation.fake.dynamo import undone
from torchprof.estimation.fake.stance import compiling_with
from torchprof.estimation.torch_private import DYNAMO, HIGHER_ORDER
from torchprof.record.nested import find_tensors

__all__ = ["FLEX_AS_WRITTEN", "check_compiled", "eager", "read_by_dynamo"]

FLEX_AS_WRITTEN: Final = "torchprof: flex_attention as it is written"
"""A remark, where it was run so."""
LOOPS: Final = ("map_impl", "scan", "while_loop", "while_loop_stack_output")


def eager(name: str) -> Callable[..., Any] | None:
    """What an operator of ``torch.ops.higher_order`` runs, all of it ops that are estimated; None: it is not known."""
    if name == "flex_attention":
        remark(FLEX_AS_WRITTEN)
    if name in ("flex_attention", "flex_attention_backward", "associative_scan", "map_impl"):
        # Scores are made whole, and elements gone through one by one, on any device.
        kernels = getattr(torch.ops.higher_order, name).py_kernels
        found: Callable[..., Any] = kernels[HIGHER_ORDER.DispatchKey.CompositeExplicitAutograd]
        return found
    return {"cond": _chosen, "scan": _scanned}.get(name)


def check_compiled(graph: Any) -> None:
    """Loops that end by the values of tensors cannot be compiled where there are none.

    Raises:
        EstimateError: a graph of Dynamo has one.
    """
    for module in graph.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            if (
                node.op == "call_function"
                and getattr(node.target, "namespace", "") == "higher_order"
                and node.target.name() in LOOPS
            ):
                raise EstimateError(
                    f"an estimate with compile=True cannot follow torch.ops.higher_order.{node.target.name()}, whose loop "
                    "Inductor ends by the values of tensors: estimate without compile=True, or leave it out with a step= "
                    "of your own"
                )


def _refusing_gradients(name: str, apply: Callable[..., Any]) -> Callable[..., Any]:
    """What is saved between forward and backward is not that of a plain run: 12 to 20% more, or the branches together."""

    def call(*args: Any) -> Any:
        runs = by_program() and DYNAMO.TracingContext.try_get() is None  # Dynamo calls it too, to find out what it returns
        if runs and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in find_tensors(args)):
            raise EstimateError(
                f"an estimate does not know what torch.{name} saves for backward: estimate with compile=True if it is "
                "torch.cond, use torch.no_grad() around it, or register an operator of your own around it "
                "(torch.library.custom_op)"
            )
        return apply(*args)

    return call


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
                    DYNAMO.require()
                    stack.enter_context(undone(backend))
                    is_undone = True
                with stage(Stage.DYNAMO), compiling_with():
                    yield backend

        trace = HIGHER_ORDER.Tracer.trace

        def trace_unrecorded(*args: Any, **options: Any) -> Any:
            """Of the functions, to differentiate them: on fake tensors of PyTorch's own, if they were not fake already."""
            if not by_program():
                return trace(*args, **options)
            try:
                _native.pause_recording()
                return trace(*args, **options)
            finally:
                _native.resume_recording([], 0)

        stack.enter_context(replaced(HIGHER_ORDER.Tracer, "trace", trace_unrecorded))
        for name, function in (("cond", "OfCond"), ("map", "OfMap"), ("scan", "OfScan")):
            node = getattr(HIGHER_ORDER, function)
            stack.enter_context(replaced(node, "apply", _refusing_gradients(name, node.apply)))
        for place in places:
            stack.enter_context(replaced(place, "setup_compilation_env", setup_compilation_env))
        yield
