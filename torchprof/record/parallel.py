"""How the models of a rank are parallel: the process groups that their wrappers send in, and the stages of pipelines.

Nothing is sent, and nothing is imported that the program has not imported.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import compress
from typing import Any, Final

from torchprof.errors import UnsupportedTorchError

__all__ = ["parallel_facts"]

CANNOT_TELL: Final = (AttributeError, KeyError, RuntimeError, TypeError, ValueError, UnsupportedTorchError)
"""What is raised where PyTorch has other names, or where process groups were destroyed meanwhile."""


def parallel_facts(models: Any, *, stages: bool = True) -> dict[str, Any]:
    """The facts ``groups_of_wrappers`` and ``pipelines``, each where there are any. ``torch.distributed`` is initialized.

    Args:
        models: a module or a dict of modules; None: stages of all models are told, and no wrappers.
        stages: whether to look for pipelines.
    """
    modules = list(_modules(models))
    groups = [
        {"by": by, "kinds": [kind], "group": group, "modules": fqns}
        for (by, kind), of_groups in _sent_in(modules).items()
        for group, fqns in _where_they_differ(of_groups).items()
    ]
    pipelines = _pipelines(set(_ids(modules)) if models is not None else None) if stages else []
    return {**({"groups_of_wrappers": groups} if groups else {}), **({"pipelines": pipelines} if pipelines else {})}


def _modules(models: Any) -> Iterator[Any]:
    for model in models.values() if isinstance(models, Mapping) else (models,) if models is not None else ():
        yield from model.modules()


def _ids(modules: Iterable[Any]) -> Iterator[int]:
    """Of modules and of their own parameters, which a part that was split off a model shares with it."""
    for module in modules:
        yield id(module)
        yield from (id(parameter) for parameter in module._parameters.values() if parameter is not None)


def _sent_in(modules: list[Any]) -> dict[tuple[str, str], dict[str, list[str]]]:
    """By wrapper and kind of collective, the names of the groups, and for which modules each is."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for module in modules:
        for by, kind, group, fqn in (*_of_ddp(module), *_of_fsdp(module)):
            if group is not None:
                found.setdefault((by, kind), {}).setdefault(str(group.group_name), []).append(fqn)
    return found


def _where_they_differ(of_groups: dict[str, list[str]]) -> dict[str, list[str]]:
    """No modules where one group is of all."""
    return of_groups if len(of_groups) > 1 else {group: [] for group in of_groups}


def _of_ddp(module: Any) -> Iterator[tuple[str, str, Any, str]]:
    parallel = sys.modules.get("torch.nn.parallel.distributed")
    if parallel is not None and isinstance(module, parallel.DistributedDataParallel):
        for kind in ("all-reduce", "broadcast"):
            yield "DDP", kind, getattr(module, "process_group", None), ""


def _of_fsdp(module: Any) -> Iterator[tuple[str, str, Any, str]]:
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None or not isinstance(module, fsdp.FSDPModule):
        return
    from torchprof.record import torch_private

    try:
        for fqn, of_kinds in torch_private.groups_of_fsdp(module):
            yield from (("FSDP", kind, group, fqn) for kind, group in of_kinds.items())
    except CANNOT_TELL:
        return


def _objects_of(*classes: type) -> list[list[Any]]:
    """All objects of each of these classes, and of those that derive from it.

    An object is not asked what it is: it may compute that. Nor is an abstract class, which would remember every class.
    """
    objects = gc.get_objects()
    kinds = list(map(type, objects))
    numbers = list(map(id, kinds))
    each_once = dict(zip(numbers, kinds, strict=True))
    found = []
    for of in classes:
        derived = {number for number, kind in each_once.items() if of in type.__dict__["__mro__"].__get__(kind)}
        found.append(list(compress(objects, map(derived.__contains__, numbers))) if derived else [])  # there are a million
    return found


def _pipelines(known: set[int] | None) -> list[dict[str, Any]]:
    """The pipelines in which this rank has stages of what is known: modules and parameters, by id.

    Who has the stages is written nowhere, so all objects are looked through.
    """
    if "torch.distributed.pipelining.stage" not in sys.modules:
        return []
    from torchprof.record import torch_private

    found: dict[tuple[int, ...], dict[str, Any]] = {}
    try:
        stages, schedules = _objects_of(*torch_private.pipeline_classes())
        for stage in stages:
            if known is not None and known.isdisjoint(_ids(stage.submod.modules())):
                continue
            ranks = torch_private.ranks_of_stages(stage)
            pipeline = found.setdefault(tuple(ranks), {"ranks": ranks, "stages": [], "schedule": None, "microbatches": None})
            pipeline["stages"] = sorted({*pipeline["stages"], int(stage.stage_index)})
            for schedule in schedules:
                if torch_private.is_of_schedule(stage, schedule):
                    pipeline["schedule"] = type(schedule).__name__
                    pipeline["microbatches"] = torch_private.microbatches_of(schedule)
    except CANNOT_TELL:
        return []
    return [found[ranks] for ranks in sorted(found)]
