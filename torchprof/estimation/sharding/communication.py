"""What a rank sends in a step: how often and how much, by collective and dimension of the mesh. Counted, not timed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.distributed as dist

from torchprof.analysis.distributed.bandwidth import size_of
from torchprof.analysis.distributed.collective_names import kind_of
from torchprof.analysis.distributed.groups import NOT_DESCRIBED
from torchprof.analysis.records import Record
from torchprof.estimation.torch_private import SHARDING
from torchprof.trace.ranks import listed

__all__ = ["DEFAULT_GROUP", "MESH", "NAMESPACES", "Communication", "Sent", "dimension_of", "group_of", "sent_records"]

NAMESPACES: Final = frozenset({"c10d", "_c10d_functional", "_c10d_functional_autograd"})
"""Of ops that are collectives."""
DEFAULT_GROUP: Final = "default_pg"
MESH: Final = "mesh_"
"""What the description of a process group of a mesh begins with; the name of the dimension follows."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The collectives of one kind along one dimension of the mesh, in one step.

    Attributes:
        collective: ``"all-gather"``, ``"reduce-scatter"``, ...
        dimension: of the mesh, by its name; ``"world"`` for all ranks; ``"ranks 0, 2"`` of a group without a name.
        ranks: how many take part.
        calls: how often.
        bytes: of the wholes that are gathered, reduced, scattered or exchanged, as `torchprof.by_collective` counts them.
        group: the name of the process group; of several of the same ranks, of the first.
        module: that it is for; empty where it is for none; None: for all of them.
    """

    collective: str
    dimension: str
    ranks: int
    calls: int
    bytes: int
    group: str
    module: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        names = ("collective", "dimension", "ranks", "calls", "bytes", *(["module"] if self.module is not None else []))
        return {name: getattr(self, name) for name in names}


class Communication:
    """Counts the collectives of the step that runs."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], list[int]] = {}
        self._groups: dict[str, tuple[str, int]] = {}
        self._first: dict[str, str] = {}
        self._of_ranks: dict[tuple[str, tuple[int, ...]], str] = {}

    def begin_step(self) -> None:
        """Count anew."""
        self._sums.clear()

    def meet(self, func: Any, args: Any, kwargs: Any) -> None:
        """To be called with every op of `NAMESPACES` and its arguments."""
        kind = kind_of(func._schema.name)
        if not kind:
            return
        named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | dict(kwargs)
        group = group_of(named)
        if group is None or group.size() == 1:
            return
        name = self._first_like(group)
        self._groups[name] = dimension_of(group), group.size()
        sums = self._sums.setdefault((kind, name), [0, 0])
        sums[0] += 1
        sums[1] += size_of(kind, func._schema.name, [*map(_bytes, _tensors(named.values()))], group.size()) or 0

    def _first_like(self, group: Any) -> str:
        """The name of the first group of the same ranks along the same dimension: FSDP2 makes one for each module whose
        parameters it keeps on fewer ranks after forward."""
        name = str(group.group_name)
        if name not in self._first:
            ranks = tuple(dist.get_process_group_ranks(group))
            self._first[name] = self._of_ranks.setdefault((dimension_of(group), ranks), name)
        return self._first[name]

    @property
    def groups(self) -> int:
        """How many process groups were used so far, each of which NCCL has buffers for."""
        return len(self._first)

    def sent(self) -> tuple[Sent, ...]:
        """What was sent in the step, what is most first."""
        found = [Sent(kind, *self._groups[group], calls, size, group) for (kind, group), (calls, size) in self._sums.items()]
        return tuple(sorted(found, key=lambda each: -each.bytes))


def group_of(named: dict[str, Any]) -> Any:
    """The process group in which an op with these arguments sends; None where it has none."""
    if (name := named.get("group_name")) is not None:
        return SHARDING.world._resolve_process_group(name)
    boxed = named.get("process_group")
    return dist.ProcessGroup.unbox(boxed) if boxed is not None else None


def dimension_of(group: Any) -> str:
    """The dimension of the mesh that a process group is, by its name: ``"world"`` for all ranks; of one without, its ranks."""
    described = str(group.group_desc)
    if described in NOT_DESCRIBED:
        return f"ranks {listed(dist.get_process_group_ranks(group))}"
    return "world" if described == DEFAULT_GROUP else described.removeprefix(MESH)


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """The tensors that a recorder sees of these arguments: those in lists of lists are not among them."""
    for value in values:
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, torch.Tensor):
                yield each


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.itemsize


def sent_records(sent: Sequence[Sent]) -> list[Record]:
    """One record for each, for a table: ``name``, the collective, ``group``, the dimension, ``group_size module calls
    bytes``."""
    return [
        {
            "name": each.collective,
            "group": each.dimension,
            "group_size": each.ranks,
            "module": each.module,
            "calls": each.calls,
            "bytes": each.bytes,
        }
        for each in sent
    ]
