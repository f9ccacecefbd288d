"""What collectives bring where all ranks have the same values, as where they route alike: how many tokens come from each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
import torch.distributed as dist

from torchprof.estimation.sharding.communication import NAMESPACES as COLLECTIVES
from torchprof.estimation.sharding.communication import group_of
from torchprof.estimation.torch_private import ESTIMATE
from torchprof.record.nested import find_tensors

__all__ = ["COLLECTIVES", "received"]

Known = tuple[Any, torch.Tensor | None]
WAITS: Final = "_c10d_functional::wait_tensor"


def received(func: Any, args: Any, kwargs: Any, returned: Any, factor: float) -> Iterator[Known]:
    """The tensors that a collective fills, and their values; None: these are not known.

    Args:
        func, args, kwargs, returned: the op, what it was given, and what it returned.
        factor: how much more than others this rank is sent.
    """
    name = func._schema.name
    if name == WAITS:
        return
    named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | dict(kwargs)
    outputs = _outputs(func, named, returned)
    group = group_of(named)
    brings = BRINGS.get(name)
    given = _given(named)
    values = [getattr(tensor, "constant", None) for tensor in given]
    if brings is None or group is None or not values or any(value is None for value in values):
        yield from ((output, None) for output in outputs)
        return
    with ESTIMATE.disable_modes():
        for output, value in zip(outputs, brings(values, named, group, factor), strict=False):
            known = value if value is not None and value.numel() == output.numel() else None
            yield output, None if known is None else known.clone().reshape(output.shape).to(output.dtype)


def _outputs(func: Any, named: dict[str, Any], returned: Any) -> list[torch.Tensor]:
    names = ("output", "output_tensor", "output_tensors", *(("tensors",) if func.namespace == "c10d" else ()))
    return find_tensors([named[name] for name in names if name in named]) or find_tensors(returned)


def _given(named: dict[str, Any]) -> list[torch.Tensor]:
    names = ("input", "input_tensor", "input_tensors", "tensors")
    return find_tensors([named[name] for name in names if name in named])


def _exchanged(values: list[torch.Tensor], named: dict[str, Any], group: Any, factor: float) -> list[torch.Tensor | None]:
    """What each other rank has for this one is what this one has for itself."""
    (value,) = values
    ranks, mine = group.size(), dist.get_rank(group)
    sent = list(named.get("input_split_sizes") or ())
    comes = list(named.get("output_split_sizes") or ())
    if not sent and not comes:
        if len(value) % ranks:
            return [None]
        part = value.chunk(ranks)[mine]
        return [_more(part, factor).repeat(ranks, *([1] * (value.dim() - 1)))]
    sent = sent or [len(value) // ranks] * ranks
    part = torch.split(value, sent)[mine]
    if not len(part):
        return [value.new_zeros(0, *value.shape[1:]) if not sum(comes) else None]
    comes = comes or [len(part)] * ranks
    return [torch.cat([_as_many(part, count) for count in comes])]


def _more(counts: torch.Tensor, factor: float) -> torch.Tensor:
    return counts if factor == 1.0 else torch.ceil(counts.double() * factor).to(counts.dtype)


def _as_many(part: torch.Tensor, count: int) -> torch.Tensor:
    """So many rows, which are spread as those of a part are."""
    return part[torch.arange(count) * len(part) // max(count, 1)]


def _gathered(values: list[torch.Tensor], named: dict[str, Any], group: Any, factor: float) -> list[torch.Tensor | None]:
    (value,) = values
    return [torch.cat([value] * group.size()) if value.dim() else value.repeat(group.size())]


def _listed(values: list[torch.Tensor], named: dict[str, Any], group: Any, factor: float) -> list[torch.Tensor | None]:
    return [*values] * group.size()


def _sent_one_by_one(values: list[torch.Tensor], named: dict[str, Any], group: Any, factor: float) -> list[torch.Tensor | None]:
    return [_more(values[dist.get_rank(group)], factor)] * group.size()


def _same(values: list[torch.Tensor], named: dict[str, Any], group: Any, factor: float) -> list[torch.Tensor | None]:
    return [*values]


def _reduced(values: list[torch.Tensor], named: dict[str, Any], group: Any, factor: float) -> list[torch.Tensor | None]:
    operation = named["reduce_op"]
    if operation == "sum":
        return [each * group.size() for each in values]
    return [*values] if operation in ("avg", "max", "min") else [None] * len(values)


BRINGS: Final[dict[str, Callable[..., list[torch.Tensor | None]]]] = {
    "c10d::alltoall_base_": _exchanged,
    "_c10d_functional::all_to_all_single": _exchanged,
    "_c10d_functional_autograd::all_to_all_single": _exchanged,
    "c10d::_allgather_base_": _gathered,
    "_c10d_functional::all_gather_into_tensor": _gathered,
    "c10d::allgather_": _listed,
    "c10d::alltoall_": _sent_one_by_one,
    "_c10d_functional::all_reduce": _reduced,
    "c10d::broadcast_": _same,
    "_c10d_functional::broadcast": _same,
}
"""What collectives bring: from the values that this rank gives, what it was called with, its group, and the factor."""
