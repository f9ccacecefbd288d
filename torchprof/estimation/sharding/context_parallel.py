"""Context parallelism: what PyTorch keeps of it for the process is put back, and sequences that do not divide are named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Final

import torch

from torchprof.errors import EstimateError
from torchprof.estimation.fake.callers import replaced
from torchprof.estimation.torch_private import CONTEXT_PARALLEL, SHARDING

__all__ = ["checked_context_parallel", "lengths_put_back"]

HALVES: Final = 2
"""With load balancing a rank has two parts of the sequence: one from its beginning, one from its end."""


@contextmanager
def checked_context_parallel() -> Iterator[None]:
    """``context_parallel`` splits only what divides, and leaves nothing behind, until the block ends.

    Nothing is done where PyTorch has another one: attention on what it splits is an error then (`torchprof.estimation.
    sharding.unsupported`).
    """
    try:
        CONTEXT_PARALLEL.require()
    except EstimateError:
        yield
        return
    place = CONTEXT_PARALLEL.attention
    name = "_context_parallel_buffers"
    with ExitStack() as stack:
        stack.enter_context(_put_back())
        stack.enter_context(replaced(place, name, _dividing(getattr(place, name))))
        yield


def _dividing(split: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(split)
    def dividing(mesh: Any, buffers: Any, seq_dims: Any, load_balancer: Any = None) -> Any:
        parts = mesh.size() * (HALVES if load_balancer is not None else 1)
        for buffer, dim in zip(buffers, seq_dims, strict=False):
            if isinstance(buffer, torch.Tensor) and (length := buffer.shape[dim]) % parts:
                balanced = f", and with load balancing into {HALVES} parts for each" if load_balancer is not None else ""
                raise EstimateError(
                    f"context_parallel cannot split dimension {dim} of a buffer of shape {list(buffer.shape)} between "
                    f"{mesh.size()} ranks{balanced}: {length} is no multiple of {parts}. Pad the sequence, or use fewer ranks"
                )
        return split(mesh, buffers, seq_dims, load_balancer)

    return dividing


@contextmanager
def _put_back() -> Iterator[None]:
    """Options that the program sets, functions that it puts in place of others, and how ops are split are as before."""
    place, rules, functional = CONTEXT_PARALLEL.attention, CONTEXT_PARALLEL.rules, torch.nn.functional
    options, mode, patched = dict(vars(place._cp_options)), place._dispatch_mode, dict(place._replaced_functions)
    dispatcher = SHARDING.DTensor._op_dispatcher
    handlers, attention = dispatcher._custom_op_handlers, functional.scaled_dot_product_attention
    had_rules = bool(rules._cp_strategy_contexts)
    try:
        yield
    finally:
        if bool(rules._cp_strategy_contexts) is not had_rules:  # the world clears what is remembered of them
            rules.register_cp_sharding_rules() if had_rules else rules.unregister_cp_sharding_rules(clear_the_cache=False)
        functional.scaled_dot_product_attention = attention
        dispatcher._custom_op_handlers = handlers
        vars(place._cp_options).update(options)
        place._dispatch_mode = mode
        place._replaced_functions.clear()
        place._replaced_functions.update(patched)


@contextmanager
def lengths_put_back(tensors: list[torch.Tensor]) -> Iterator[None]:
    """These tensors are as large as before once the block ends: ``context_parallel`` cuts its buffers, here a batch, in place.

    A program gets a new batch for every step; an estimate has one.
    """
    shapes = [tensor.shape for tensor in tensors]
    try:
        yield
    finally:
        for tensor, shape in zip(tensors, shapes, strict=True):
            if tensor.shape != shape:
                with torch.no_grad():
                    tensor.resize_(shape)
