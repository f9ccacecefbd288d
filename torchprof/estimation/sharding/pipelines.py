"""A pipeline: the stages that a rank has, and the schedule that runs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final

import torch
from torch import nn

from torchprof.errors import ArgumentError
from torchprof.estimation.fake.callers import replaced
from torchprof.estimation.torch_private import PIPELINES

__all__ = ["Pipeline", "as_module", "places_of_stages", "stages_known"]

_made: Final[list[Any]] = []
"""The stages that were made in the world that there is."""


class Pipeline(nn.Module):
    """The modules of all stages that a rank has, each by its number in the pipeline.

    Args:
        schedule: as the program made it.
    """

    def __init__(self, schedule: Any) -> None:
        super().__init__()
        self.schedule = schedule
        self.stages = stages_of(schedule)
        for stage in self.stages:
            self.add_module(f"stage{stage.stage_index}", stage.submod)

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


def stages_of(schedule: Any) -> list[Any]:
    """The stages of a schedule that this rank has."""
    return list(schedule._stages) if isinstance(schedule, PIPELINES.PipelineScheduleMulti) else [schedule._stage]


def as_module(made: Any) -> Any:
    """What a function built, with a module in place of a schedule."""
    return Pipeline(made) if isinstance(made, PIPELINES.Schedule) else made


def places_of_stages(model: nn.Module) -> tuple[tuple[int, int, tuple[int, ...]], ...]:
    """Of each stage in a model: its number, how many there are, and the ranks among which they are spread."""
    modules = set(model.modules())
    return tuple((stage.stage_index, stage.num_stages, _ranks_of(stage)) for stage in _made if stage.submod in modules)


def _ranks_of(stage: Any) -> tuple[int, ...]:
    return tuple(torch.distributed.get_process_group_ranks(stage.group))


@contextmanager
def stages_known() -> Iterator[None]:
    """Stages that the program makes are remembered, and are on the CPU, until the block ends."""
    base = PIPELINES.Stage
    make = base.__init__

    @wraps(make)
    def init(self: Any, submodule: nn.Module, *args: Any, **options: Any) -> None:
        make(self, submodule, *args, **options)
        self.device = torch.device("cpu")
        _made.append(self)

    with replaced(base, "__init__", init):
        try:
            yield
        finally:
            _made.clear()
