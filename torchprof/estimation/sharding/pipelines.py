"""A pipeline: the stages that a rank has, and the schedule that runs them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Final

import torch
import torch.profiler
from torch import nn

from torchprof.errors import ArgumentError, EstimateError, ModuleTypeError
from torchprof.estimation.bounds.pipeline import PipelineWork
from torchprof.estimation.bounds.stage_flops import RANGE, stage_flops
from torchprof.estimation.fake.callers import replaced
from torchprof.estimation.sharding.deadlocks import check_messages
from torchprof.estimation.sharding.schedules import actions_of_schedule, messages_of_schedule
from torchprof.estimation.torch_private import PIPELINES, SHARDING
from torchprof.trace.trace import Trace

__all__ = [
    "Pipeline",
    "as_module",
    "groups_of",
    "pipeline_in",
    "pipeline_of",
    "ranks_of_stages",
    "stages_in",
    "stages_known",
]

_made: Final[list[Any]] = []
"""The stages that were made in the world that there is."""
_scheduled: Final[list[tuple[nn.Module, Any]]] = []
"""The schedules that functions returned there, each with the module that stands for it."""


class Pipeline:
    """The schedule of a rank, and how programs run it.

    Args:
        schedule: as the program made it.
    """

    def __init__(self, schedule: Any) -> None:
        self.schedule = schedule
        self.stages = _stages_of(schedule)

    def step(self, args: Sequence[Any], options: dict[str, Any]) -> Any:
        """Run the schedule once, as programs do: the first stage gets the batch, and the last one what it is compared to.

        Returns:
            What is there until the step ends.

        Raises:
            ArgumentError: there is nothing to compare to.
        """
        options = dict(options)
        target: Any = None
        if self.schedule._loss_fn is not None:
            if "target" in options:
                target = options.pop("target")
            elif len(args) > 1:
                *args, target = args
            else:
                raise ArgumentError(
                    "the schedule has a loss_fn, so inputs must have the target as well: what the first stage gets, and the "
                    "target as the last of them; or the target by the name 'target'; or pass step=... for a step of your own"
                )
        first, last = (any(getattr(stage, name) for stage in self.stages) for name in ("is_first", "is_last"))
        losses: list[torch.Tensor] = []
        given = {"target": target, "losses": losses} if last and target is not None else {}
        return self.schedule.step(*(args if first else ()), **given, **options), losses


def _stages_of(schedule: Any) -> list[Any]:
    return list(schedule._stages) if isinstance(schedule, PIPELINES.PipelineScheduleMulti) else [schedule._stage]


def as_module(made: Any) -> Any:
    """What a function built; for a schedule, the module of its stage, or one with those of all stages that this rank has.

    Raises:
        ModuleTypeError: it is a stage without a schedule.
        EstimateError: a stage is on another rank than its neighbors send to, or the ranks of the schedule would wait for ever.
    """
    if isinstance(made, SHARDING.PipelineStage):
        raise ModuleTypeError("model() returned a stage of a pipeline: return the schedule that runs it, such as ScheduleGPipe")
    if not isinstance(made, SHARDING.PipelineSchedule):
        return made
    stages = _stages_of(made)
    for stage in stages:
        if (expected := stage.stage_index_to_group_rank[stage.stage_index]) != stage.group_rank:
            raise EstimateError(
                f"stage {stage.stage_index} of the pipeline is on rank {stage.group_rank} of its group, and by its schedule it "
                f"is on rank {expected}: the stages beside it would wait for ever for what that rank sends"
            )
    check_messages(messages_of_schedule(made))
    module = stages[0].submod
    if len(stages) > 1:
        module = nn.Module()
        for stage in stages:
            module.add_module(f"stage{stage.stage_index}", stage.submod)
    _scheduled.append((module, made))
    return module


def pipeline_of(model: nn.Module) -> Pipeline | None:
    """The pipeline that a module stands for; None where it is a model by itself."""
    return next((Pipeline(schedule) for module, schedule in _scheduled if module is model), None)


def stages_in(model: nn.Module) -> tuple[tuple[int, int], ...]:
    """Of each stage in a model its number, and how many the pipeline has."""
    return tuple((stage.stage_index, stage.num_stages) for stage in _made_in(model))


def ranks_of_stages(model: nn.Module) -> list[int]:
    """The ranks over which the pipeline is spread of which a model has stages; empty where it has none."""
    return next((torch.distributed.get_process_group_ranks(stage.group) for stage in _made_in(model)), [])


def _made_in(model: nn.Module) -> list[Any]:
    modules = set(model.modules())
    return [stage for stage in _made if stage.submod in modules]


@contextmanager
def stages_known() -> Iterator[None]:
    """Stages that the program makes are remembered, and are on the CPU, until the block ends. What FSDP2 gathers has the name
    that it has among all stages of the rank.

    Raises:
        EstimateError: inside, where a stage is made and this PyTorch lacks a name that pipelines need.
    """
    base = SHARDING.PipelineStage
    make = base.__init__

    @wraps(make)
    def init(self: Any, submodule: nn.Module, *args: Any, **options: Any) -> None:
        PIPELINES.require()
        make(self, submodule, *args, **options)
        self.device = torch.device("cpu")
        _made.append(self)

    states, name_of = SHARDING.FSDPState, "_init_fqns"
    with ExitStack() as stack:
        stack.callback(_scheduled.clear)
        stack.callback(_made.clear)
        stack.enter_context(replaced(base, "__init__", init))
        for name, kind in (("forward_one_chunk", "F"), ("backward_one_chunk", "B"), ("backward_weight_one_chunk", "W")):
            stack.enter_context(replaced(base, name, _ranged(getattr(base, name), kind)))
        stack.enter_context(replaced(states, name_of, _named_from_the_whole(getattr(states, name_of))))
        yield


def _ranged(work: Callable[..., Any], kind: str) -> Callable[..., Any]:
    """What a stage does with a microbatch, in a range that says so, as PyTorch names those of some schedules."""
    signature = inspect.signature(work)

    @wraps(work)
    def ranged(*args: Any, **options: Any) -> Any:
        stage, microbatch, *_ = (given := signature.bind(*args, **options).arguments).values()
        which = "I" if kind == "B" and not given.get("full_backward", True) else kind
        with torch.profiler.record_function(f"{RANGE}{stage.stage_index}{which}{microbatch}"):
            return work(*args, **options)

    return ranged


def pipeline_in(model: nn.Module, trace: Trace) -> PipelineWork | None:
    """What the ranks of the pipeline compute that a module stands for, as far as this rank has run it; None where it is none.

    Args:
        model: as `as_module` has made it.
        trace: of steps of it.
    """
    schedule = next((schedule for module, schedule in _scheduled if module is model), None)
    if schedule is None or not (orders := actions_of_schedule(schedule)):
        return None
    flops, passes = stage_flops(trace)
    return PipelineWork(orders, flops, passes, _stages_of(schedule)[0].group_rank)


def _named_from_the_whole(name: Callable[[Any], None]) -> Callable[[Any], None]:
    """FSDP2 names what it gathers from where it begins, such as a stage: stages that are equal would share their names."""

    @wraps(name)
    def named(self: Any) -> None:
        name(self)
        root = self._modules[0]
        prefix = next((path for whole, _ in _scheduled for path, module in whole.named_modules() if module is root), "")
        for group in groups_of(self._state_ctx.all_states) if prefix else ():
            paths = (group._module_fqn or "").split(", ")
            group._module_fqn = ", ".join(f"{prefix}.{path}" if path else prefix for path in paths)

    return named


def groups_of(states: Iterable[Any]) -> Iterator[Any]:
    """The groups of parameters that FSDP2 gathers together, of its states of modules."""
    for state in states:
        groups = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]
        yield from (group for group in groups if group is not None)
