"""Which ops, ranges and kernels are collectives, by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = [
    "RANGES",
    "is_collective_kernel",
    "is_collective_op",
    "is_collective_range",
    "is_message_kernel",
    "kind_of",
    "kind_of_short",
]

KERNELS: Final = ("nccl",)
"""Of NCCL and RCCL: ``ncclKernel_AllReduce``, since 2.19 ``ncclDevKernel_AllReduce``."""
OPS: Final = ("c10d::", "_c10d_functional::", "_c10d_functional_autograd::", "c10d_functional::")
NO_COLLECTIVES: Final = ("wait_tensor", "_wrap_tensor_autograd", "check_for_nan")
KINDS: Final = (
    ("monitored_barrier", "barrier"),
    ("barrier", "barrier"),
    ("allreduce", "all-reduce"),
    ("all_reduce", "all-reduce"),
    ("allgather", "all-gather"),
    ("all_gather", "all-gather"),
    ("reduce_scatter", "reduce-scatter"),
    ("alltoall", "all-to-all"),
    ("all_to_all", "all-to-all"),
    ("broadcast", "broadcast"),
    ("reduce", "reduce"),
    ("gather", "gather"),
    ("scatter", "scatter"),
    ("send", "send"),
    ("isend", "send"),
    ("recv", "receive"),
    ("irecv", "receive"),
    ("batch_p2p_ops", "send and receive"),
)
"""How the name of an op begins, without its namespace, and what it is. The first that fits."""
RANGES: Final[Mapping[str, tuple[str, ...]]] = {
    "gloo:all_reduce": ("all-reduce", "reduce-scatter"),  # gloo reduces all, and keeps a part
    "gloo:reduce_scatter": ("reduce-scatter",),
    "gloo:all_gather": ("all-gather",),
    "gloo:all_to_all": ("all-to-all",),
    "gloo:broadcast": ("broadcast",),
    "gloo:reduce": ("reduce",),
    "gloo:gather": ("gather",),
    "gloo:scatter": ("scatter",),
    "gloo:send": ("send",),
    "gloo:recv": ("receive",),
    "gloo:barrier": ("barrier",),
}
"""The ranges that threads of gloo open while a collective runs, and which kinds of collectives run in each."""


def kind_of(name: str) -> str:
    """What an op of this name, with its namespace, asks for: ``"all-reduce"``; empty where it is no collective.

    Example:
        >>> kind_of("c10d::_allgather_base_"), kind_of("_c10d_functional::wait_tensor"), kind_of("aten::gather")
        ('all-gather', '', '')
    """
    if not name.startswith(OPS):
        return ""
    short = name.partition("::")[2]
    return "" if short in NO_COLLECTIVES else kind_of_short(short)


def kind_of_short(name: str) -> str:
    """The same of a name without a namespace, as files of torch.profiler have them: ``"_allgather_base"``."""
    plain = name.lstrip("_").lower()
    return next((kind for beginning, kind in KINDS if plain.startswith(beginning)), "")


def is_collective_kernel(name: str) -> bool:
    """Whether a kernel of this name sends between devices."""
    return name.startswith(KERNELS)


def is_message_kernel(name: str) -> bool:
    """Whether a kernel of this name sends to single ranks, and receives from them: ``ncclDevKernel_SendRecv``."""
    return is_collective_kernel(name) and "SendRecv" in name


def is_collective_op(name: str) -> bool:
    """Whether an op of this name asks for a collective, or waits for one."""
    return name.startswith(OPS)


def is_collective_range(name: str) -> bool:
    """Whether a range of this name is open while a collective runs."""
    return name in RANGES
