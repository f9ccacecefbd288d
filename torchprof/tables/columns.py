"""The columns that tables of records may show: header, how a value is written, and what it means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from torchprof.analysis.memory.categories import CATEGORIES
from torchprof.rendering.units import format_bytes, format_flops, format_mean, format_ns, format_rate

__all__ = ["COLUMNS", "Column"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column. ``write`` is never asked to write None, which is shown as nothing."""

    header: str
    write: Callable[[Any], str]
    meaning: str
    left: bool = False

    def cell(self, value: Any) -> str:
        return "" if value is None else self.write(value)


def _time(value: float) -> str:
    return format_ns(round(value)) if value else "-"


def _bytes(value: float) -> str:
    return format_bytes(round(value)) if value else "-"


def _flops(value: float) -> str:
    return format_flops(value) if value else "-"


def _share(value: float) -> str:
    return f"{100 * value:.1f}%"


def _count(value: float) -> str:
    return format_mean(value) if value else "-"


def _first(value: list[str]) -> str:
    return value[0] if len(value) == 1 else f"{value[0]} +{len(value) - 1}" if value else ""


def _first_two(value: list[str]) -> str:
    return ", ".join(value[:2]) + (f" +{len(value) - 2}" if len(value) > 2 else "")


def _shapes(value: Any) -> str:
    text = ", ".join(map(str, value))
    return text if len(text) <= 60 else f"{text[:57]}..."


COLUMNS: Final[dict[str, Column]] = {
    "step": Column("Step", str, "number of the step, counted from 0"),
    "warmup": Column("", lambda value: "warm-up" if value else "", "left out of all other tables", left=True),
    "calls": Column("Calls", _count, "per step"),
    "ops": Column("Ops", format_mean, "calls of the dispatcher"),
    "time": Column("Time", _time, "host time per step, with what runs inside"),
    "self": Column("Self", _time, "host time per step, without what runs inside"),
    "mean": Column("Mean", _time, "host time of one call; of a kernel, device time"),
    "min": Column("Min", _time, "the shortest"),
    "max": Column("Max", _time, "the longest"),
    "spread": Column("± step", _time, "standard deviation over steps"),
    "share": Column("Share", _share, "of the time of all rows"),
    "device": Column("Device", _time, "device time per step: of kernels, copies and fills, with what runs inside"),
    "device_self": Column("Dev self", _time, "device time per step of what it asked for itself"),
    "device_share": Column("Dev share", _share, "of the device time of all rows"),
    "device_forward": Column("Dev fwd", _time, "device time of forward"),
    "device_recompute": Column("Dev rec", _time, "device time of forward run again inside backward"),
    "device_backward": Column("Dev bwd", _time, "device time of backward"),
    "device_optimizer": Column("Dev opt", _time, "device time of the optimizer's step"),
    "device_other": Column("Dev other", _time, "device time of what is none of these"),
    "kernels": Column("Kernels", _count, "kernels, copies and fills per step"),
    "forward": Column("Forward", _time, "host time of forward"),
    "recompute": Column("Recompute", _time, "forward run again inside backward, by activation checkpointing"),
    "backward": Column("Backward", _time, "host time of backward"),
    "optimizer": Column("Optimizer", _time, "host time of the optimizer's step"),
    "other": Column("Other", _time, "what is left of the step: Python, loading data"),
    "forward_self": Column("Fwd self", _time, "without what is below"),
    "recompute_self": Column("Rec self", _time, "without what is below"),
    "backward_self": Column("Bwd self", _time, "without what is below"),
    "optimizer_self": Column("Opt self", _time, "without what is below"),
    "flops": Column("FLOPs", _flops, "per step; a multiply-add is two"),
    "flops_forward": Column("Fwd FLOPs", _flops, "per step; a multiply-add is two"),
    "flops_backward": Column("Bwd FLOPs", _flops, "per step; a multiply-add is two"),
    "macs": Column("MACs", _flops, "half the FLOPs"),
    "bytes": Column("Bytes", _bytes, "of ops: inputs and outputs, each once, an estimate; of copies: counted"),
    "intensity": Column("FLOP/B", lambda value: f"{value:,.1f}", "FLOPs per byte"),
    "flop_rate": Column("FLOP/s", _flops, "achieved"),
    "byte_rate": Column("Rate", format_rate, "bytes per second, achieved"),
    "roofline": Column("Of roof", _share, "of what this machine could do at that FLOP/B: see torchprof.ceilings"),
    "allocated": Column("Allocated", _bytes, "handed out per step, given back or not"),
    "peak": Column("Peak", _bytes, "the most held during the step"),
    "held": Column("Held", _bytes, "held at the end of the step"),
    "saved": Column("Saved", _bytes, "activations kept for backward, when the most were kept"),
    "needed": Column("Needed", _bytes, "on the device, the context included"),
    "max_allocated": Column("Allocated", _bytes, "the most in blocks that were handed out"),
    "max_reserved": Column("Reserved", _bytes, "the most the allocator took from the device"),
    "category": Column("What", str, "what kind of memory it is: see torchprof.CATEGORIES", left=True),
    "at_peak": Column("At peak", _bytes, "held when the most was held"),
    "count": Column("Count", format_mean, "how many"),
    "steps": Column("Steps", str, "in how many steps"),
    "total": Column("Bytes", _bytes, "all together"),
    "module": Column("Module", str, "where", left=True),
    "span": Column("Span", _time, "from the start of the first kernel to the end of the last"),
    "busy": Column("Busy", _time, "time in which any kernel, copy or fill ran"),
    "busy_share": Column("Share", _share, "of the span of the device"),
    "idle": Column("Idle", _time, "time in which nothing ran"),
    "idle_share": Column("Share", _share, "of all idle time"),
    "idle_launch_bound": Column("Launch-bound", _time, "the host asked when the device had run dry"),
    "idle_synchronization": Column("Synchronization", _time, "of that, as much as the host had waited for a device"),
    "idle_other": Column("Other", _time, "asked for in time: waited for another stream, or took its time to start"),
    "gaps": Column("Gaps", _count, "how many times"),
    "at": Column("Op", _first_two, "the op that asked for what came late; of synchronization, the op that waited", left=True),
    "call": Column("Call", str, "of the device's runtime", left=True),
    "waited": Column("Waited", _time, "host time"),
    "host": Column("Host", _time, "host time in the module's own code and ops, waits left out"),
    "took": Column("Device", _time, "device time"),
    "host_ratio": Column("Host/device", lambda value: f"{value:,.1f}x", "host time for each unit of device time"),
    "params": Column("Params", _count, "elements of its own parameters"),
    "kind": Column("Kind", str, "kernel, copy or fill; interval: of a stream between two events", left=True),
    "direction": Column("Direction", str, "from where to where a copy went", left=True),
    "launched_by": Column("Launched by", _first, "the op that asked for most of it, and how many others did", left=True),
    "shapes": Column("Input shapes", _shapes, "of the tensors it was given", left=True),
    "dtypes": Column("Dtypes", lambda value: ", ".join(dict.fromkeys(value)), "of the tensors it was given", left=True),
    **{f"peak_{name.replace(' ', '_')}": Column(name.capitalize(), _bytes, "held at the peak") for name in CATEGORIES},
}
