"""Which rank this process is, and what it has in common with others: told by PyTorch, or by what started it.

Nothing is sent, and nothing is imported that the program has not imported.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from torchprof.errors import UnsupportedTorchError
from torchprof.record.parallel import parallel_facts
from torchprof.trace.rank import Rank

__all__ = ["RankSeen", "current_rank", "own_rank", "rank_facts"]

VARIABLES: Final = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun, accelerate, deepspeed
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
)
OF_A_RUN: Final = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "SLURM_JOB_ID", "SLURM_STEP_ID", "MASTER_PORT")
"""What all ranks of a run have in common, and two runs most often have not."""


def own_rank() -> Rank | None:
    """Of this process, from its environment; None where it is no rank, or the only one."""
    for names in VARIABLES:
        number, size, local = (int(text) if text.isdecimal() else None for text in (os.environ.get(name, "") for name in names))
        if number is not None and size is not None:
            return Rank(number, size, local) if size > 1 else None
    return None


def current_rank() -> Rank | None:
    """Of this process: what its process group of ``torch.distributed`` says, if there is one, or else its environment."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        size = int(distributed.get_world_size())
        return Rank(int(distributed.get_rank()), size) if size > 1 else None
    return own_rank()


def rank_facts(models: Any, *, stages: bool = True) -> dict[str, Any]:
    """The facts of a trace that tell its rank; none where this process is of no distributed program.

    Args:
        models: a module or a dict of modules, whose parameters tell the device mesh; or None.
        stages: whether to look for the stages of pipelines.
    """
    told = own_rank()
    of_torch = _from_torch()
    rank = of_torch.pop("rank", told)
    if rank is None:
        return {}
    if told is not None and told.number == rank.number:
        rank = Rank(rank.number, rank.size, told.local)
    facts = {"rank": rank.number, "world_size": rank.size, "local_rank": rank.local, "host": socket.gethostname()}
    if run := " ".join(f"{name}={os.environ[name]}" for name in OF_A_RUN if os.environ.get(name)):
        facts["run"] = run
    if meshes := [_mesh(mesh) for mesh in _meshes(models)]:
        facts["meshes"] = meshes
    of_models = parallel_facts(models, stages=stages) if "process_groups" in of_torch else {}
    return {**{name: value for name, value in facts.items() if value is not None}, **of_torch, **of_models}


class RankSeen:
    """What this rank was whenever it was looked: groups that were destroyed since have collectives in the trace.

    Attributes:
        facts: as `rank_facts` says them of no models, when the process groups last changed.
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.facts: dict[str, Any] = {}
        self._groups: list[dict[str, Any]] = [*facts.get("process_groups", ())]
        self._latest: set[tuple[int, str]] = set()

    def look(self) -> None:
        """Look for groups that are new. It takes a microsecond where none is."""
        distributed = sys.modules.get("torch.distributed")
        if distributed is None or not distributed.is_available() or not distributed.is_initialized():
            return
        from torchprof.record import torch_private

        try:
            now = {
                (id(group), name) for group, name in torch_private.process_groups().items()
            }  # none is held: it would live on
        except (RuntimeError, UnsupportedTorchError):  # another thread changes them, or their names are not known
            return
        if now != self._latest:
            self._latest, self.facts = now, rank_facts(None, stages=False)
            self.groups_with(self.facts.get("process_groups", ()))

    def groups_with(self, groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those that were seen, and these."""
        self._groups += [group for group in groups if group not in self._groups]
        return self._groups


def _from_torch() -> dict[str, Any]:
    """The rank and the process groups, where ``torch.distributed`` is initialized."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return {}
    from torchprof.record import torch_private

    try:
        facts: dict[str, Any] = {"rank": Rank(distributed.get_rank(), distributed.get_world_size())}
        groups = [_group(distributed, group) for group in torch_private.process_groups()]
    except UnsupportedTorchError:  # the names of the groups are not known then
        return facts
    except (RuntimeError, ValueError):  # another thread has just destroyed them
        return {}
    return {**facts, "process_groups": groups}


def _group(distributed: Any, group: Any) -> dict[str, Any]:
    return {
        "name": str(group.group_name),
        "description": str(group.group_desc),
        "backend": str(distributed.get_backend(group)),
        "ranks": [int(rank) for rank in distributed.get_process_group_ranks(group)],
    }


def _meshes(models: Any) -> list[Any]:
    """The device meshes that parameters of the models are on, each once."""
    tensors = sys.modules.get("torch.distributed.tensor")
    if tensors is None or models is None:
        return []
    of_models = models.values() if isinstance(models, Mapping) else (models,)
    parameters = (parameter for model in of_models for parameter in _parameters(model))
    return list(dict.fromkeys(each.device_mesh for each in parameters if isinstance(each, tensors.DTensor)))


def _parameters(model: Any) -> Iterator[Any]:
    """The parameters of all modules below: as ``named_parameters``, which a class may have replaced."""
    for module in model.modules():
        yield from module._parameters.values()


def _mesh(mesh: Any) -> dict[str, Any]:
    names = mesh.mesh_dim_names or [f"dim_{dimension}" for dimension in range(mesh.ndim)]
    at = mesh.get_coordinate()
    return {
        "dimensions": [str(name) for name in names],
        "shape": [int(size) for size in mesh.shape],
        "coordinate": [int(each) for each in at] if at is not None else None,
    }
