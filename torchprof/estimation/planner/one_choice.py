"""The estimate of one configuration, unless it is known beforehand that it does not fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from torchprof.allocator.gpus import capacity_of
from torchprof.analysis.model.flops import at_least
from torchprof.errors import ArgumentError, TorchprofError
from torchprof.estimation.bounds.step_flops import step_flops
from torchprof.estimation.estimate import estimate
from torchprof.estimation.estimated import Estimate
from torchprof.estimation.planner.accumulated import AT_MOST, Accumulated
from torchprof.estimation.planner.choice import Choice
from torchprof.estimation.planner.found import Found, Limit
from torchprof.estimation.planner.least import TooLarge, checked

__all__ = ["Asked", "found_of"]


@dataclass(frozen=True)
class Asked:
    """What does not depend on the choice.

    Attributes:
        build_with: builds and shards the model, given the choice.
        inputs: makes the inputs of a rank, given the choice.
        gpu: the name of the GPU, or the bytes that it has.
        links: as for `Estimate.bound`.
        optimizer, loss, step, amp: as for `torchprof.estimate`.
        others: further arguments of `torchprof.estimate`.
    """

    build_with: Callable[[Choice], nn.Module]
    inputs: Callable[[Choice], Any]
    gpu: int | str
    links: Mapping[str, float | str] | None
    optimizer: Callable[..., torch.optim.Optimizer] | None
    loss: Callable[[Any], torch.Tensor] | None
    step: Callable[..., object] | None
    amp: torch.dtype | None
    others: Mapping[str, Any]


def found_of(asked: Asked, choice: Choice) -> Found:
    """What is found of a choice. What raises is said in it, as other choices may do.

    Raises:
        KeyboardInterrupt: the user has seen enough.
    """
    begin = time.perf_counter()
    try:
        found = _found_of(asked, choice)
    except TooLarge as error:
        found = Found(sum(error.least.values()), False, error.least, is_least=True)
    except Exception as error:
        found = Found(error=_in_short(error))
    return replace(found, seconds=time.perf_counter() - begin)


def _found_of(asked: Asked, choice: Choice) -> Found:
    build = partial(asked.build_with, choice)
    passes, step, amp, loss = min(choice.accumulation, AT_MOST), asked.step, asked.amp, asked.loss
    if passes > 1:
        step, amp, loss = Accumulated(passes, loss, amp), None, None
    estimated = estimate(
        checked(build, capacity_of(asked.gpu), asked.optimizer, own_step=asked.step is not None),
        asked.inputs(choice),
        optimizer=asked.optimizer,
        loss=loss,
        step=step,
        amp=amp,
        capacity=asked.gpu,
        world_size=choice.gpus,
        **asked.others,
    )
    flops = step_flops(estimated.trace)
    counted = at_least(sum(flops.all.values()), flops.unknown)
    return Found(
        needed=estimated.device_memory,
        fits=estimated.fits(),
        alloc_retries=estimated.alloc_retries or 0,
        by_category=estimated.by_category,
        passes=passes,
        sent=tuple(each.to_dict() for each in estimated.communication),
        flops=None if counted is None else int(counted),
        flops_unknown=flops.unknown,
        flops_recomputed=sum(flops.recomputed.values()),
        limit=_limit(estimated, asked),
        unmeasured=estimated.unmeasured,
        notes=estimated.notes,
        assumed=estimated.assumed,
    )


def _limit(found: Estimate, asked: Asked) -> Limit | None:
    """The lower bound of the step's time; None where no rates of the GPU are published."""
    try:
        bound = found.bound(links=asked.links)
    except ArgumentError as error:
        if not str(error).startswith("gpu="):
            raise
        return None
    return Limit(bound.compute, bound.communication, bound.step, bound.mfu, bound.unknown)


def _in_short(error: BaseException) -> str:
    """What was raised, in one line."""
    text = str(error).strip().partition("\n")[0]
    return text if isinstance(error, TorchprofError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")
