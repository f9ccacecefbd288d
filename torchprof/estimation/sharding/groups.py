"""What process groups of real backends do, and those of the world that is not there do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Final

import torch
import torch.distributed as dist

from torchprof.errors import EstimateError
from torchprof.estimation.fake.callers import called_instead, replaced, with_code_of
from torchprof.estimation.torch_private import SHARDING
from torchprof.wording import shown

__all__ = ["groups_as_real_ones"]

COALESCED: Final = (
    "allreduce_coalesced_",
    "allgather_coalesced_",
    "allgather_into_tensor_coalesced_",
    "reduce_scatter_tensor_coalesced_",
)
"""Ops that PyTorch has no kernel of for tensors on ``meta``, and of the others it has one."""


@contextmanager
def groups_as_real_ones() -> Iterator[None]:
    """Groups can be split, take several tensors at once and have monitored barriers, until the block ends."""
    with ExitStack() as stack:
        stack.enter_context(_coalesced_on_meta())
        stack.enter_context(called_instead(dist.split_group, _split_group))
        stack.enter_context(with_code_of(dist.monitored_barrier, _monitored_barrier))
        for name in ("_start_coalescing", "_end_coalescing"):
            stack.enter_context(replaced(dist.ProcessGroup, name, _on_the_cpu(getattr(dist.ProcessGroup, name))))
        yield


@contextmanager
def _coalesced_on_meta() -> Iterator[None]:
    make: Any = torch.library.Library
    library = make("c10d", "IMPL")
    try:
        for name in COALESCED:
            if not SHARDING.has_kernel(f"c10d::{name}", "Meta"):
                library.impl(name, _done, "Meta")
        yield
    finally:
        library._destroy()


def _done(*args: Any) -> Any:
    """The work of a collective that is over."""
    return SHARDING.FakeWork().boxed()


def _on_the_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """A build that takes the device of a tensor takes ``meta``, for which groups have no backend."""

    @wraps(function)
    def call(self: Any, device: Any) -> Any:
        return function(self, torch.device("cpu") if torch.device(device).type == "meta" else device)

    return call


def _split_group(
    parent_pg: Any = None,
    split_ranks: Sequence[Sequence[int]] | None = None,
    timeout: Any = None,
    pg_options: Any = None,
    group_desc: str | None = None,
    backend: Any = None,
) -> Any:
    """The part that this rank is in; None where it is in none."""
    ranks = dist.get_process_group_ranks(parent_pg)
    named = [rank for part in split_ranks or () for rank in part]
    if not named or len({*named}) < len(named) or not {*named} <= {*range(len(ranks))}:
        raise EstimateError(
            f"the program calls split_group(split_ranks={shown(split_ranks)}), which must be lists of ranks of the group, "
            f"numbers from 0 to {len(ranks) - 1}, each of which is in one list at most"
        )
    mine = next((part for part in split_ranks or () if dist.get_rank(parent_pg) in part), None)
    if mine is None:
        return None
    return dist.new_group([ranks[rank] for rank in mine], timeout=timeout, group_desc=group_desc)


def _monitored_barrier(group: Any = None, timeout: Any = None, wait_all_ranks: bool = False) -> None:
    """Nobody is waited for."""
