"""What facts of a trace are, by name. A file may have others, which nothing reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypedDict

from torchprof.trace.kinds import is_of_kind

__all__ = ["wrong_fact"]

Size = int | str | None


class Failure(TypedDict):
    """Of an exception that ended a run."""

    error: str
    phase: str
    module: str | None
    type: str | None


class ProcessGroup(TypedDict):
    """Ranks that run collectives together, of which this is one."""

    name: str
    description: str
    backend: str
    ranks: list[int]


class Mesh(TypedDict):
    """How ranks are arranged, and where this one is."""

    dimensions: list[str]
    shape: list[int]
    coordinate: list[int] | None


class GroupOfWrapper(TypedDict):
    """In which process group a wrapper of modules, ``"FSDP"`` or ``"DDP"``, asks for which kinds of collectives.

    Where it uses several, ``modules`` are those that this one is for, by the names that FSDP has for them.
    """

    by: str
    kinds: list[str]
    group: str
    modules: list[str]


class Pipeline(TypedDict):
    """A pipeline in which this rank has stages: the rank of every stage, which ones this rank has, and their schedule."""

    ranks: list[int]
    stages: list[int]
    schedule: str | None
    microbatches: int | None


class ShardedParameter(TypedDict):
    """What a rank has of a DTensor: shape, elements and bytes of its part, bytes of all parts once, one placement for each
    dimension of the mesh, and the name (empty where it has none) and size of each of these.
    """

    shape: list[int]
    numel: int
    bytes: int
    whole_bytes: int
    placements: list[str]
    mesh: list[tuple[str, int]]


class Attributes(TypedDict):
    """What torchsummary reads of a module: elements and ``requires_grad``, and the modules that were called meanwhile."""

    type: str
    weight: tuple[int, bool] | None
    bias: tuple[int, bool] | None
    weight_calls: list[tuple[str, list[list[Size]], bool]]
    bias_calls: list[tuple[str, list[list[Size]], bool]]


FACTS: Final[Mapping[str, Any]] = {
    # Of the recording
    **dict.fromkeys(
        ("duration_ns", "origin_unix_ns", "gpu_clock_error_ns", "shapes_kept", "compiled_outside_calls", "budget"), int
    ),
    **dict.fromkeys(("ops", "shapes", "memory", "modules", "aggregate", "compiled", "counts_flops"), bool),
    **dict.fromkeys(("torch", "python", "gpu", "gpu_note", "flops_note", "memory_note", "ended_by", "memory_missing"), str),
    "losses": dict[str, int],
    "run_notes": list[str],
    "unobserved_classes": list[str],
    "unread_modules": list[int] | None,
    "phase_ns": tuple[int, int, int, int, int, int],  # of each Phase
    "stacks": bool | str,
    "devices": list[str],
    # Of a rank
    **dict.fromkeys(("rank", "world_size", "local_rank"), int),
    **dict.fromkeys(("host", "run"), str),
    "process_groups": list[ProcessGroup],
    "meshes": list[Mesh],
    "groups_of_wrappers": list[GroupOfWrapper],
    "pipelines": list[Pipeline],
    "sharded_parameters": dict[str, dict[str, ShardedParameter]],  # by path of the module, and name
    # Of a summary
    **dict.fromkeys(("inputs_on_meta", "made_from_sizes"), bool),
    **dict.fromkeys(("saved_unknown_because", "memory_unknown_because", "counted_as", "counted_on", "batch_found"), str),
    "saved_input_bytes": int,
    "input_bytes": int | None,
    "batch_size": int | None,
    "input_sizes": list[list[Size]],
    "batch_dimensions": list[tuple[int, int]],
    "failure": Failure,
    "weights_and_biases": dict[str, Attributes],
    # Of a file of another tool
    "source": str,
    "notes": list[str],
    **dict.fromkeys(("outputs", "addresses", "parameters"), bool),
    "collectives": list[dict[str, Any]],
}


def wrong_fact(facts: Any) -> str:
    """The name of a fact that is of another kind than it should be, with what it is; empty where none is."""
    if not isinstance(facts, dict):
        return f"facts are {type(facts).__name__}"
    for name, kind in FACTS.items():
        if name in facts and not is_of_kind(facts[name], kind):
            return f"facts[{name!r}] is {facts[name]!r:.60}"
    return ""
