"""How much a collective sends, and how fast, as nccl-tests count it.

Sizes and factors are those of https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md: the algorithm bandwidth is
the size by the time; the bus bandwidth is that by a factor which makes it comparable with the speed of the links, whatever the
number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["bus_factor", "group_size_told", "size_of"]

OF_PARTS = ("all-gather", "reduce-scatter", "all-to-all", "gather", "scatter")
"""Kinds in which every rank has a part of the whole."""
WHOLES_AND_PARTS = ("c10d::allgather_into_tensor_coalesced_", "c10d::reduce_scatter_tensor_coalesced_")
"""Ops that are given a list of either."""

GIVEN_WHOLES = ("_c10d_functional::reduce_scatter", "_c10d_functional_autograd::reduce_scatter")
"""How the names of ops begin that are given the whole, and return a part."""


def bus_factor(kind: str, ranks: int) -> float | None:
    """The bus bandwidth for each unit of algorithm bandwidth; None for what has none, such as a barrier.

    Example:
        >>> bus_factor("all-reduce", 8), bus_factor("all-gather", 8), bus_factor("broadcast", 8)
        (1.75, 0.875, 1.0)
    """
    if kind == "all-reduce":
        return 2 * (ranks - 1) / ranks
    if kind in OF_PARTS:
        return (ranks - 1) / ranks
    return 1.0 if kind in ("broadcast", "reduce", "send", "receive") else None


def group_size_told(name: str, inputs: Sequence[int]) -> int | None:
    """How many ranks took part, as the sizes of the tensors of an op say that has whole and part; None: they do not say.

    Args:
        name: of the op.
        inputs: bytes of the tensors that it was given.
    """
    if name in ("c10d::_allgather_base_", "c10d::_reduce_scatter_base_") and len(inputs) == 2:
        part, whole = sorted(inputs)
        return whole // part if part and whole % part == 0 else None
    return None


def size_of(kind: str, name: str, inputs: Sequence[int], ranks: int | None) -> int | None:
    """The bytes of a collective: of the whole that is reduced, gathered, scattered or exchanged; None: not known.

    Args:
        kind: as `kind_of` says.
        name: of the op.
        inputs: bytes of the tensors that it was given. Lists of lists of tensors are not among them.
        ranks: how many take part; None: not known.
    """
    if kind == "barrier":
        return 0
    if not inputs or min(inputs) < 0:
        return None
    if kind not in OF_PARTS:
        return sum(inputs)
    if name in ("c10d::_allgather_base_", "c10d::_reduce_scatter_base_"):
        return max(inputs)
    if kind == "all-to-all":  # what is received comes before what is sent
        return sum(inputs[len(inputs) // 2 :])
    if name.startswith(GIVEN_WHOLES):
        return sum(inputs)
    if ranks is None:
        return None
    if name in WHOLES_AND_PARTS:
        return sum(inputs) * ranks // (ranks + 1)
    return sum(inputs) * ranks
