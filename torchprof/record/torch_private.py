"""The private names of PyTorch that recording uses, by feature."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from torchprof._torch_private import private
from torchprof.errors import UnsupportedTorchError

__all__ = [
    "ahead_of_time_runs",
    "compile_callbacks",
    "engine",
    "evaluator_switch",
    "groups_of_fsdp",
    "is_fake_mode_active",
    "is_in_bad_fork",
    "is_of_schedule",
    "is_torch_profiler_active",
    "microbatches_of",
    "other_runtimes",
    "pipeline_classes",
    "process_groups",
    "profiler_switches",
    "ranks_of_stages",
    "reset_of_fsdp",
    "run_backward",
    "without_fake_mode",
    "without_modes",
]

FLOPS = "formulas of FLOPs of the user's own"
ENGINE = "telling what the autograd engine waits for from other time"
BACKWARD = "a backward pass from an output that is nested"
FAKE_TENSORS = "telling fake tensors from others"
COMPILED = "recording calls by module.__call__ (Python 3.11) and of compiled code"
CUPTI = "recording GPUs with CUPTI"
PROFILERS = "recording memory beside torch.profiler"
GROUPS = "telling the process groups of a rank"
STAGES = "telling the stages of a pipeline"


@contextmanager
def without_modes() -> Iterator[None]:
    """Inside the block, no dispatch mode, function mode or tensor subclass takes part in what is called.

    Raises:
        UnsupportedTorchError: a name is missing.
    """
    disabled = private("torch._C._DisableTorchDispatch", FLOPS)()
    try:
        with torch._C.DisableTorchFunction():
            yield
    finally:
        del disabled  # the guard ends with the object


def engine() -> Any:
    """The function by which ``backward()`` and ``autograd.grad`` run the engine.

    Raises:
        UnsupportedTorchError: a name is missing.
    """
    return private("torch.autograd.graph._engine_run_backward", ENGINE)


def run_backward(
    edges: Sequence[torch.autograd.graph.GradientEdge], seeds: Sequence[torch.Tensor], leaves: Sequence[torch.Tensor]
) -> tuple[torch.Tensor | None, ...]:
    """As ``torch.autograd.grad(edges, leaves, seeds, allow_unused=True)``, which takes no edge of a nested tensor.

    Raises:
        UnsupportedTorchError: a name is missing.
    """
    run = private("torch.autograd.graph._engine_run_backward", BACKWARD)
    gradients: tuple[torch.Tensor | None, ...] = run(
        tuple(edges), tuple(seeds), False, False, tuple(leaves), True, accumulate_grad=False
    )
    return gradients


def is_fake_mode_active() -> bool:
    """Whether tensors that are made now are fake. Where PyTorch lacks the names that tell, none are taken to be."""
    try:
        slot = private("torch._C._TorchDispatchModeKey.FAKE", FAKE_TENSORS)
        return private("torch._C._get_dispatch_mode", FAKE_TENSORS)(slot) is not None
    except UnsupportedTorchError:
        return False


@contextmanager
def without_fake_mode() -> Iterator[None]:
    """Tensors that are made inside the block are not fake.

    Raises:
        UnsupportedTorchError: a name is missing.
    """
    with private("torch._subclasses.fake_tensor.unset_fake_temporarily", FAKE_TENSORS)():
        yield


def is_in_bad_fork() -> bool:
    """Whether this process was forked from one that uses CUDA.

    Raises:
        UnsupportedTorchError: a name is missing.
    """
    return bool(private("torch.cuda._is_in_bad_fork", CUPTI)())


def is_torch_profiler_active() -> bool:
    """Whether torch.profiler is recording.

    Raises:
        UnsupportedTorchError: a name is missing.
    """
    return bool(private("torch.autograd.profiler._is_profiler_enabled", CUPTI))


def compile_callbacks() -> Any:
    """What runs ``with install_callbacks(trigger, id):`` around everything that Dynamo compiles; None: Dynamo is not loaded.

    Raises:
        UnsupportedTorchError: a name is missing.
    """
    if "torch._dynamo.callback" not in sys.modules:
        return None
    handler = private("torch._dynamo.callback.callback_handler", COMPILED)
    private("torch._dynamo.callback.CompilationCallbackHandler.install_callbacks", COMPILED)
    return handler


def evaluator_switch() -> Any:
    """The function by which Dynamo installs and removes its own evaluator of frames (PEP 523), around all compiled code.

    Raises:
        UnsupportedTorchError: a name is missing.
    """
    return private("torch._C._dynamo.eval_frame.set_eval_frame", COMPILED)


def ahead_of_time_runs() -> list[Any]:
    """The functions that run what AOTInductor compiled; none where this PyTorch is built without it."""
    kinds = [kind for kind in vars(getattr(torch._C, "_aoti", object)).values() if isinstance(kind, type)]
    return [function for kind in kinds for function in _built_in(kind, "run", "boxed_run")]


def other_runtimes() -> list[Any]:
    """The functions that run code by the runtime of mobile, or by the static one; none where this PyTorch is built without."""
    return [
        *_built_in(getattr(torch._C, "LiteScriptModule", None), "forward", "run_method"),
        *_built_in(getattr(torch._C, "StaticModule", None), "__call__", "benchmark", "benchmark_individual_ops", "runAsync"),
    ]


def _built_in(kind: type | None, *names: str) -> list[Any]:
    """Of these methods of a class, those that it has, as the functions that they are in C."""
    methods = [getattr(kind, name) for name in names if hasattr(kind, name)]
    return [getattr(method, "__func__", method) for method in methods]


def profiler_switches() -> list[Any]:
    """The functions by which PyTorch starts and ends its own profilers.

    Raises:
        UnsupportedTorchError: a name is missing.
    """
    names = ("_enable_profiler", "_disable_profiler", "_enable_profiler_legacy", "_disable_profiler_legacy")
    return [private(f"torch._C._autograd.{name}", PROFILERS) for name in names]


def process_groups() -> dict[Any, str]:
    """The process groups that this rank is in now, with their names. ``torch.distributed`` is imported.

    Raises:
        UnsupportedTorchError: a name is missing.
    """
    return dict(private("torch.distributed.distributed_c10d._world.pg_names", GROUPS))


def groups_of_fsdp(module: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of every group of parameters of an `FSDPModule`, its name, and the process group of each kind of collective.

    Raises:
        AttributeError: a name is missing.
    """
    for group in module._get_fsdp_state()._fsdp_param_groups:
        mesh = group.mesh_info
        shard = getattr(mesh, "shard_process_group", None)
        yield (
            str(group._module_fqn or ""),
            {
                "all-gather": shard,
                "reduce-scatter": getattr(mesh, "reduce_scatter_process_group", None) or shard,
                "all-reduce": getattr(mesh, "replicate_process_group", None),
            },
        )


def reset_of_fsdp(module: Any) -> Callable[[], None]:
    """A function that puts an `FSDPModule` back to how far it is in a step now, and shards again what is sharded now.

    Raises:
        AttributeError: a name is missing.
    """
    state = module._get_fsdp_state()
    training, root = state._training_state, state._state_ctx.iter_forward_root
    groups = [
        # Before the first forward, there is no order yet.
        (group, group.is_sharded, group._training_state, len(group._post_forward_indices), len(_order_of(group)))
        for group in state._fsdp_param_groups
    ]

    def reset() -> None:
        state._training_state, state._state_ctx.iter_forward_root = training, root
        for group, was_sharded, of_group, count, met in groups:
            if was_sharded and not group.is_sharded:
                group._to_sharded()
            group._training_state = of_group
            del group._post_forward_indices[count:]
            del _order_of(group)[met:]

    return reset


def _order_of(group: Any) -> list[Any]:
    """The groups of parameters in the order in which forward met them."""
    return getattr(group.comm_ctx, "post_forward_order", [])


def pipeline_classes() -> tuple[type, type]:
    """What stages of pipelines derive from, and what schedules do. ``torch.distributed.pipelining`` is imported.

    Raises:
        UnsupportedTorchError: a name is missing.
    """
    base = "torch.distributed.pipelining"
    return private(f"{base}.stage._PipelineStageBase", STAGES), private(f"{base}.schedules._PipelineSchedule", STAGES)


def ranks_of_stages(stage: Any) -> list[int]:
    """The rank of each stage of the pipeline that this one is of, in their order.

    Raises:
        AttributeError: a name is missing.
    """
    members = torch.distributed.get_process_group_ranks(stage.group)
    return [int(members[stage.stage_index_to_group_rank[number]]) for number in range(stage.num_stages)]


def is_of_schedule(stage: Any, schedule: Any) -> bool:
    """Whether a schedule runs this stage."""
    stages = [getattr(schedule, "_stage", None), *getattr(schedule, "_stages", ())]
    return any(each is stage for each in stages)


def microbatches_of(schedule: Any) -> int | None:
    """Into how many microbatches a schedule divides a batch; None where it does not say."""
    count = getattr(schedule, "_n_microbatches", None)
    return count if isinstance(count, int) else None
