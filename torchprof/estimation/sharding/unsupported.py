"""What torch.distributed has and an estimate does not know: an error that names it, and no figure."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Final

import torch

from torchprof.errors import EstimateError
from torchprof.estimation.fake.callers import replaced
from torchprof.estimation.torch_private import CONTEXT_PARALLEL, SHARDING

__all__ = ["unsupported_refused"]

FSDP1: Final = "FullyShardedDataParallel cannot be estimated: use torch.distributed.fsdp.fully_shard, which needs about as much"
SPLIT_ATTENTION: Final = (
    "attention on tensors that are split between ranks, as context_parallel makes them, cannot be estimated for device='cpu': "
    "PyTorch cannot split its kernel of the CPU. Estimate for device='cuda', give it local tensors (use_local_output=True), or "
    "leave it out with a step= of your own"
)
UNSPLIT: Final = frozenset(
    {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
    }
)
"""Ops for which DTensor looks through all ways to split what they are made of, which takes longer than anybody waits."""
SPLIT_BY_SEQUENCE: Final = frozenset(
    getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}_attention").default for kernel in ("flash", "efficient", "cudnn")
)
OBJECTS: Final = (
    "the program calls torch.distributed.{}, which returns objects of other ranks, and these are not there: use what this "
    "rank knows itself, or leave it out"
)
SEQUENCE: Final = 2
"""The dimension of queries, keys and values that context parallelism splits."""


@contextmanager
def unsupported_refused() -> Iterator[None]:
    """Raise EstimateError where the program makes one of these, until the block ends."""
    with ExitStack() as stack:
        stack.enter_context(replaced(SHARDING.FSDP1, "__init__", _refusing(FSDP1)))
        for name, asks in _ASKING.items():
            for owner in (torch.distributed, SHARDING.world):
                stack.enter_context(replaced(owner, name, _of_others(getattr(owner, name), asks)))
        propagator, name = SHARDING.ShardingPropagator, "propagate_op_sharding_non_cached"
        stack.enter_context(replaced(propagator, name, _splitting_no_attention(getattr(propagator, name))))
        yield


def _refusing(said: str) -> Callable[..., None]:
    def init(self: Any, *args: Any, **options: Any) -> None:
        raise EstimateError(said)

    return init


def _asks_others(given: dict[str, Any]) -> bool:
    """Whether there are other ranks in the group."""
    return bool(torch.distributed.get_world_size(given.get("group")) > 1)


def _asks_source(given: dict[str, Any]) -> bool:
    """Whether another rank than this is the source."""
    if given.get("group_src") is not None:
        return bool(given["group_src"] != torch.distributed.get_rank(given.get("group")))
    return (given.get("src") or 0) != torch.distributed.get_rank()


_ASKING: Final = {
    "all_gather_object": _asks_others,
    "gather_object": _asks_others,
    "broadcast_object_list": _asks_source,
    "scatter_object_list": _asks_source,
}
"""Functions that return objects, and whether these are those of other ranks."""


def _of_others(function: Callable[..., Any], asks: Callable[[dict[str, Any]], bool]) -> Callable[..., Any]:
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if asks(signature.bind(*args, **options).arguments):
            raise EstimateError(OBJECTS.format(function.__name__))
        return None if function.__name__ == "broadcast_object_list" else function(*args, **options)

    return call


def _splitting_no_attention(propagate: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(propagate)
    def propagated(self: Any, op_schema: Any) -> Any:
        if op_schema.op in UNSPLIT:
            raise EstimateError(SPLIT_ATTENTION)
        if op_schema.op in SPLIT_BY_SEQUENCE and any(part.is_shard(SEQUENCE) for part in op_schema.args_schema[0].placements):
            CONTEXT_PARALLEL.require()
        return propagate(self, op_schema)

    return propagated
