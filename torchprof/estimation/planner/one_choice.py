"""The estimate of one configuration, unless it is known beforehand that it does not fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from torchprof.allocator.gpus import capacity_of
from torchprof.analysis.model.flops import at_least, counted_flops, is_unknown, unknown_op
from torchprof.errors import TorchprofError
from torchprof.estimation.estimate import estimate
from torchprof.estimation.estimated import Estimate
from torchprof.estimation.planner.accumulated import AT_MOST, Accumulated
from torchprof.estimation.planner.choice import Choice
from torchprof.estimation.planner.found import Found, Limit
from torchprof.estimation.planner.least import least_held
from torchprof.trace.schema import OP_NESTED, Phase, phases

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
    except Exception as error:
        found = Found(error=_in_short(error))
    return replace(found, seconds=time.perf_counter() - begin)


def _found_of(asked: Asked, choice: Choice) -> Found:
    build = partial(asked.build_with, choice)
    least = least_held(build, choice.gpus, asked.optimizer, own_step=asked.step is not None)
    capacity = capacity_of(asked.gpu)
    if (needed := sum(least.values())) > capacity:
        return Found(needed, False, least, is_least=True)
    passes, step, amp, loss = min(choice.accumulation, AT_MOST), asked.step, asked.amp, asked.loss
    if passes > 1:
        step, amp, loss = Accumulated(passes, loss, amp), None, None
    estimated = estimate(
        build,
        asked.inputs(choice),
        optimizer=asked.optimizer,
        loss=loss,
        step=step,
        amp=amp,
        capacity=asked.gpu,
        world_size=choice.gpus,
        **asked.others,
    )
    flops, unknown, recomputed = _flops_of_last_step(estimated)
    return Found(
        needed=estimated.device_memory,
        fits=estimated.fits(),
        by_category=estimated.by_category,
        passes=passes,
        sent=tuple(each.to_dict() for each in estimated.communication),
        flops=flops,
        flops_unknown=unknown,
        flops_recomputed=recomputed,
        limit=_limit(estimated, asked),
        unmeasured=estimated.unmeasured,
        notes=estimated.notes,
    )


def _flops_of_last_step(found: Estimate) -> tuple[int | None, tuple[str, ...], int | None]:
    """FLOPs, the ops whose FLOPs nobody knows, and the FLOPs that are computed again."""
    trace = found.trace
    ops = trace.ops[trace.ops["start"] >= (trace.steps["start"][-1] if len(trace.steps) else 0)]
    nested = ops["flags"] & OP_NESTED != 0
    counted = counted_flops(trace, ops["signature"], nested)
    missing = np.unique(ops["signature"][is_unknown(trace, ops["signature"], nested)])
    unknown = tuple(sorted({unknown_op(trace, int(signature)) for signature in missing}))
    again = int(counted[phases(ops) == Phase.RECOMPUTATION].sum())
    known = at_least(int(counted.sum()), unknown)
    return None if known is None else int(known), unknown, again


def _limit(found: Estimate, asked: Asked) -> Limit | None:
    """The lower bound of the step's time; None where no rates are known of the GPU."""
    try:
        bound = found.bound(asked.gpu if isinstance(asked.gpu, str) else None, asked.links)
    except (TorchprofError, AttributeError):
        return None
    return Limit(**{name: value for name, value in asdict(bound).items() if name in Limit.__dataclass_fields__})


def _in_short(error: BaseException) -> str:
    """What was raised, in one line."""
    text = str(error).strip().partition("\n")[0]
    return text if isinstance(error, TorchprofError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")
