"""What a rank sends to single other ranks, and receives from them: activations and gradients, in a pipeline.

A message that is sent is of forward where forward was run right before; one that is received, where forward was run right after
it was asked for; else it is of backward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.distributed.collective_names import is_message_kernel
from torchprof.analysis.distributed.collectives import Collective, collectives_of
from torchprof.analysis.distributed.computing import named_rows
from torchprof.analysis.gpu.backend import has_kernels
from torchprof.analysis.remembered import remembered
from torchprof.analysis.steps import active_steps, step_of
from torchprof.trace.schema import Phase, phases
from torchprof.trace.trace import Trace

__all__ = ["MICROBATCH_PHASES", "Message", "messages_of", "transfers_of"]

Ints = npt.NDArray[np.int64]

SENDS: Final = ("send", "send and receive")
BETWEEN_TWO: Final = (*SENDS, "receive")
MICROBATCH_PHASES: Final = (Phase.FORWARD, Phase.RECOMPUTATION, Phase.BACKWARD)
"""The phases in which a stage works on microbatches."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a rank. Times are nanoseconds of its trace.

    Attributes:
        is_sent: False of what is received.
        is_forward: whether it goes with a forward; None where the rank ran neither forward nor backward beside it.
        bytes: None where they are not known.
        step: the index of the active step.
        asked: when it was asked for.
        done: when it had been sent or received; None where that is not known.
    """

    is_sent: bool
    is_forward: bool | None
    bytes: int | None
    step: int
    asked: int
    done: int | None


@remembered
def messages_of(trace: Trace) -> tuple[Message, ...]:
    """The messages of the active steps, in the order in which they were asked for."""
    calls = [call for call in collectives_of(trace).collectives if call.kind in BETWEEN_TWO]
    ops, active = trace.ops, active_steps(trace)
    asked = ops["start"][np.array([call.op for call in calls], dtype=np.int64)].astype(np.int64)
    step = step_of(asked, trace, active)
    begins = np.append(active["start"], 0)[step] if len(trace.steps) else np.zeros(len(calls), dtype=np.int64)
    ends = np.append(active["end"], 0)[step] if len(trace.steps) else np.full(len(calls), np.iinfo(np.int64).max)
    of_phase = phases(ops)
    work = np.flatnonzero(np.isin(of_phase, MICROBATCH_PHASES))
    work = work[np.argsort(ops["start"][work], kind="stable")]
    start, is_forward = ops["start"][work].astype(np.int64), of_phase[work] == Phase.FORWARD
    at = np.searchsorted(start, asked)
    found = []
    for row, call in enumerate(calls):
        is_sent = call.kind in SENDS
        beside = int(at[row]) - is_sent
        known = 0 <= beside < len(work) and begins[row] <= start[beside] < ends[row]
        goes_forward = bool(is_forward[beside]) if known else None
        found.append(Message(is_sent, goes_forward, call.bytes, int(step[row]), int(asked[row]), call.left))
    return tuple(found)


@remembered
def transfers_of(trace: Trace) -> tuple[Ints, Ints] | None:
    """When messages were under way that this rank sent or received: starts and ends. None: that is not known.

    Of a device, when the kernels of NCCL or RCCL ran that do both; one may be of no op, as of several messages that are sent
    together.
    """
    calls = collectives_of(trace).collectives
    of_two = [call for call in calls if call.kind in BETWEEN_TWO]
    if has_kernels(trace):
        start, end = _of_kernels(trace, calls)
    else:
        known = [(call.entered, call.left) for call in of_two if call.entered is not None and call.left is not None]
        start, end = np.array(known, dtype=np.int64).reshape(-1, 2).T
    return None if of_two and not len(start) else (start, end)


def _of_kernels(trace: Trace, calls: tuple[Collective, ...]) -> tuple[Ints, Ints]:
    kernels = trace.kernels[named_rows(trace, trace.kernels["name"], is_message_kernel)]
    start, end = kernels["start"].astype(np.int64), kernels["end"].astype(np.int64)
    for call in calls:  # an all-to-all is sent by the same kernels
        if call.kind not in BETWEEN_TWO and call.entered is not None and call.left is not None:
            kept = (start < call.entered) | (end > call.left)
            start, end = start[kept], end[kept]
    return start, end
