"""Every column that a table can have: its name, its header, how its values are written, their unit, and what they mean.

A column is added here, as one `Column`, and nowhere else. It shows the figure of its name where the rows of a table have one,
or is computed from other figures (``of`` and ``value``); it can then be chosen by name, and is in the text, the CSV, the JSON
and the data frame of every table whose rows have what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torchprof.analysis.memory.categories import CATEGORIES
from torchprof.analysis.records import Record
from torchprof.rendering.shapes import all_shapes, shapes_of_calls
from torchprof.rendering.units import format_bytes, format_count, format_flops, format_ns, format_rate
from torchprof.trace.ranks import listed

__all__ = ["COLUMNS", "LEFT_OUT_FIRST", "Column", "Quantity", "columns_of", "with_computed"]


@dataclass(frozen=True, slots=True)
class Quantity:
    """What kind of values a column has.

    Attributes:
        write: gives a value as text. It is never given None.
        unit: of the values in the rows of a table. The text chooses a prefix, such as ``ms`` or ``MiB``, by itself.
        left: whether the text is aligned to the left.
        missing: what stands in place of None.
    """

    write: Callable[[Any], str]
    unit: str = ""
    left: bool = False
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        name: by which it is chosen, and the key of its figure in a row.
        header: printed above it.
        quantity: what kind of values it has.
        meaning: what a reader should know of it.
        of: the figures of a row that ``value`` is given; without ``value``, the figure of the column's own name is shown.
        unknown: the figure that lists what is missing in this one; where it lists something, the figure is a lower bound.
        value: computes what is shown. It is never given None: where a figure is not known, neither is the value.
    """

    name: str
    header: str
    quantity: Quantity
    meaning: str
    of: tuple[str, ...] = ()
    value: Callable[..., Any] | None = None
    unknown: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """The figures that a row must have."""
        return self.of or (self.name,)

    def values(self, rows: Sequence[Record]) -> list[Any]:
        """What is shown of every row; None where that is not known."""
        if self.value is None:
            return [row.get(self.name) for row in rows]
        figures = zip(*([row.get(name) for row in rows] for name in self.of), strict=True)
        return [None if None in known else self.value(*known) for known in figures]


def columns_of(figures: Collection[str], columns: Mapping[str, Column] | None = None) -> list[str]:
    """The names of the columns that rows with these figures can show."""
    return [
        name
        for name, column in (COLUMNS if columns is None else columns).items()
        if all(need in figures for need in column.needs)
    ]


def with_computed(rows: list[Record], columns: Mapping[str, Column] | None = None) -> list[Record]:
    """The rows, with the values of the computed columns that can be had of them and are not among their figures."""
    if not rows:
        return rows
    found = [
        column
        for column in (COLUMNS if columns is None else columns).values()
        if column.value is not None and column.name not in rows[0] and all(need in rows[0] for need in column.of)
    ]
    if not found:
        return rows
    values = zip(*(column.values(rows) for column in found), strict=True)
    names = [column.name for column in found]
    return [{**row, **dict(zip(names, more, strict=True))} for row, more in zip(rows, values, strict=True)]


def _count(value: float) -> str:
    return format_count(value) if value else "-"


def _time(value: float) -> str:
    return format_ns(round(value)) if value else "-"


def _signed_time(value: float) -> str:
    """With hours, which clocks are apart by."""
    if abs(value) >= HOUR:
        return f"{value / HOUR:,.3f} h"
    return f"{'-' if value < 0 else ''}{format_ns(round(abs(value)))}" if value else "0"


def _bytes(value: float) -> str:
    return format_bytes(round(value)) if value else "-"


def _flops(value: float) -> str:
    return format_flops(value) if value else "-"


def _first(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} +{len(names) - 1}" if names else ""


def _first_two(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (f" +{len(names) - 2}" if len(names) > 2 else "")


def _short_place(place: str) -> str:
    """``my_network.py:14`` of a path with a line."""
    folders, _, file = place.replace("\\", "/").rpartition("/")
    return f"{folders.rpartition('/')[2]}/{file}" if file.startswith("__init__.py:") and folders else file


def _beginning(text: str) -> str:
    return text if len(text) <= LONGEST_SOURCE else f"{text[: LONGEST_SOURCE - 1]}…"


def _kernel_size(size: int | Sequence[int]) -> str:
    return str(size) if isinstance(size, int) else str(list(size))


LONGEST_SOURCE: Final = 64
HOUR: Final = 3_600_000_000_000
TEXT: Final = Quantity(str, left=True)
NUMBER: Final = Quantity(str)
COUNT: Final = Quantity(_count)
EXACT_COUNT: Final = Quantity(format_count)
PART_OF_COUNT: Final = Quantity(format_count, missing="-")
TIME: Final = Quantity(_time, "ns")
LONG_TIME: Final = Quantity(_signed_time, "ns")
BYTES: Final = Quantity(_bytes, "bytes")
EXACT_BYTES: Final = Quantity(format_bytes, "bytes")
BYTES_OF_CALLS: Final = Quantity(lambda value: format_bytes(value) if value != "" else "", "bytes", missing="?")
BYTE_RATE: Final = Quantity(format_rate, "bytes per second")
FLOPS: Final = Quantity(_flops, "FLOPs")
FLOP_RATE: Final = Quantity(_flops, "FLOPs per second")
SHARE: Final = Quantity(lambda value: f"{100 * value:.1f}%", "fraction")
RATIO: Final = Quantity(lambda value: f"{value:,.1f}x", "ratio")
TIMES_MEAN: Final = Quantity(lambda value: f"{value:.2f}", "ratio")
SHAPES: Final = Quantity(all_shapes, left=True, missing="other shapes")
SHAPES_OF_CALLS: Final = Quantity(lambda value: shapes_of_calls(*value))
DTYPES: Final = Quantity(lambda names: ", ".join(dict.fromkeys(names)), left=True)

HOW_SHAPES_ARE_READ: Final = (
    "1..64: sizes that differ between calls; (+1): one other shape in other calls; "
    "+8: tensors in an object beside these, such as a cache"
)

_COLUMNS: Final = (
    Column("rank", "Rank", NUMBER, "number of the rank, counted from 0"),
    Column("hostname", "Host", TEXT, "the machine that the rank ran on"),
    Column("coordinate", "In mesh", TEXT, "where the rank stands in the device mesh of the model: dimension and index"),
    Column("step", "Step", NUMBER, "number of the step, counted from 0"),
    Column("warmup", "", Quantity(lambda value: "warm-up" if value else "", left=True), "left out of all other tables"),
    Column(
        "input",
        "Input",
        SHAPES_OF_CALLS,
        f"shapes of the tensors that it was given; {HOW_SHAPES_ARE_READ}",
        ("input_shapes", "further_inputs", "inputs_in_objects"),
        lambda first, further, in_objects: ((first, *further), in_objects),
    ),
    Column(
        "output",
        "Output",
        SHAPES_OF_CALLS,
        f"shapes of the tensors that it returned; {HOW_SHAPES_ARE_READ}",
        ("output_shapes", "further_outputs", "outputs_in_objects"),
        lambda first, further, in_objects: ((first, *further), in_objects),
    ),
    Column("kernel_size", "Kernel", Quantity(_kernel_size), "size of the kernel of a convolution or pooling"),
    Column(
        "mode",
        "Mode",
        Quantity(str, left=True, missing="?"),
        "train or eval",
        ("training",),
        lambda training: "train" if training else "eval",
    ),
    Column("dtype", "Dtype", DTYPES, "of the tensors that the first call returned, each once", ("output_dtypes",), tuple),
    Column("param_dtype", "Param dtype", DTYPES, "of its own parameters, each once", ("param_dtypes",), tuple),
    Column(
        "defined",
        "Defined",
        Quantity(_short_place, left=True),
        "the file and the line of its class, with folders in the rows; empty where it has none",
    ),
    Column(
        "calls",
        "Calls",
        COUNT,
        "how often it was called; of a line or function, ops that Python called in it; in several steps, per step",
    ),
    Column("ops", "Ops", EXACT_COUNT, "calls of the dispatcher"),
    Column("params", "Params", COUNT, "elements of its own parameters"),
    Column(
        "params_local",
        "On rank",
        COUNT,
        "elements of its own parameters that this rank has, where they are split between ranks",
    ),
    Column("placements", "Placements", TEXT, "how its own parameters are split between ranks, or copied, as DTensor says it"),
    Column(
        "trainable",
        "Trainable",
        PART_OF_COUNT,
        "elements of its own parameters that require a gradient",
        ("trainable", "params"),
        lambda trainable, params: trainable if params else None,
    ),
    Column("params_total", "Params (all)", COUNT, "elements of its parameters and of those below it"),
    Column("params_share", "Params %", SHARE, "of the parameters of the model, those that are its own"),
    Column("param_bytes", "Param size", BYTES, "of its own parameters, on this rank"),
    Column(
        "output_bytes",
        "Out size",
        BYTES_OF_CALLS,
        "of what all its calls returned; `?` where that is not known",
        ("output_bytes", "calls"),
        lambda size, calls: size if calls else "",
    ),
    Column("time", "Time", TIME, "host time per step, with what runs inside"),
    Column("self", "Self", TIME, "host time per step, without the ops and module calls inside; in a summary, of forward"),
    Column("mean", "Mean", TIME, "host time of one call; of a kernel, device time"),
    Column("min", "Min", TIME, "the shortest"),
    Column("max", "Max", TIME, "the longest"),
    Column("spread", "± step", TIME, "standard deviation over steps"),
    Column(
        "share",
        "Share",
        SHARE,
        "of the step; in a table by op, line or function, of the self time of its rows; in a summary, of the model's forward "
        "time; of what is held, of the peak",
    ),
    Column(
        "device",
        "Device",
        TIME,
        "device time per step: of kernels, copies and fills, with what runs inside; in a summary, of forward",
    ),
    Column("device_self", "Dev self", TIME, "device time per step of what it launched itself"),
    Column("device_share", "Dev share", SHARE, "of the device time of all rows"),
    Column("device_forward", "Dev fwd", TIME, "device time of forward"),
    Column("device_recompute", "Dev rec", TIME, "device time of forward run again inside backward"),
    Column("device_backward", "Dev bwd", TIME, "device time of backward"),
    Column("device_optimizer", "Dev opt", TIME, "device time of the optimizer's step"),
    Column("device_data", "Dev data", TIME, "device time of loading data"),
    Column("device_other", "Dev other", TIME, "device time of what is none of these"),
    Column("kernels", "Kernels", COUNT, "kernels, copies and fills per step"),
    Column("forward", "Forward", TIME, "host time of forward, with what runs inside"),
    Column("recompute", "Recompute", TIME, "host time of forward run again inside backward, by activation checkpointing"),
    Column("backward", "Backward", TIME, "host time of backward, with what runs inside"),
    Column("optimizer", "Optimizer", TIME, "host time of the optimizer's step"),
    Column("data", "Data", TIME, "host time of waiting for a DataLoader"),
    Column("other", "Other", TIME, "what is left of the step: Python, and ops outside of all phases"),
    Column("ranks", "Ranks", EXACT_COUNT, "how many ranks have it"),
    Column("slowest", "Slowest", TIME, "of the rank that took longest"),
    Column("slowest_rank", "Rank", NUMBER, "which rank took longest"),
    Column("fastest", "Fastest", TIME, "of the rank that took least"),
    Column("fastest_rank", "Fastest rank", NUMBER, "which rank took least"),
    Column("rank_spread", "Spread", TIME, "the slowest rank less the fastest"),
    Column("compute", "Compute", TIME, "time in which kernels other than of collectives ran; on the CPU, innermost ops"),
    Column("communication", "Comm", TIME, "time in which collectives ran"),
    Column("exposed", "Exposed", TIME, "time in which collectives ran and nothing was computed"),
    Column(
        "odd", "Odd", Quantity(_first_two, left=True), "what of the rank differs from the others, by the rule below the table"
    ),
    Column("group", "Group", TEXT, "the process group"),
    Column("group_size", "Size", NUMBER, "how many ranks the process group has"),
    Column("link", "Link", TEXT, "what it is sent over; of two, within hosts and between them"),
    Column("least_time", "At least", TIME, "the least time that sending it takes"),
    Column("by", "By", TEXT, "what asked for it: FSDP, DDP, or functional, as DTensor and compiled code do"),
    Column("asked", "Asked", TIME, "host time of the op that asked for it"),
    Column("ran", "Ran", TIME, "time for which it ran: from when this rank began until all was done"),
    Column("shortest", "Shortest", TIME, "of each call, the time of the rank in which it ran shortest, which waited least"),
    Column("last_rank", "Last rank", NUMBER, "which rank came last most often"),
    Column("last_share", "Was last", SHARE, "to how many of these collectives that rank came last"),
    Column("phase", "Phase", TEXT, "what it was doing: forward, backward, ...; other is Python, and ops outside of all phases"),
    Column("behind", "Behind", TIME, "from the median of the other ranks to the last one, mean of all calls"),
    Column("late", "Late", TIME, "of a step: how far behind, without what it was behind by before"),
    Column("late_error", "±", TIME, "by how much the clocks of the ranks may be off in that"),
    Column("hidden", "Hidden", TIME, "time in which collectives ran and something was computed meanwhile"),
    Column("overlap", "Overlap", SHARE, "of the time in which collectives ran: hidden behind computation"),
    Column("pipeline", "Pipeline", NUMBER, "which pipeline of the run"),
    Column("stage", "Stage", Quantity(listed), "the stages of the pipeline that the rank has, counted from 0"),
    Column("batch", "Batch", TIME, "time that a pipeline takes for the batch of a step: forward and backward of all its ranks"),
    Column("worked", "Worked", TIME, "of that, time in which this rank computed"),
    Column("bubble", "Bubble", TIME, "of that, time in which this rank idled: it computed nothing"),
    Column("bubble_share", "Share", SHARE, "the bubble, as a part of the time of the batch"),
    Column("warm_up", "Warm-up", TIME, "idle before its first microbatch, and while it waits for the first gradient"),
    Column(
        "drain",
        "Drain",
        TIME,
        "idle after its last microbatch, and of 1F1B while it waits for gradients after its last forward",
    ),
    Column("waits_input", "For input", TIME, "idle else until the activations of the stage before were there"),
    Column("waits_gradient", "For grad", TIME, "idle else until the gradients of the stage behind were there"),
    Column("rest", "Rest", TIME, "idle otherwise, as Python between ops"),
    Column("tokens", "Tokens", COUNT, "elements of the indices that the first embedding of forward was given in a step"),
    Column("tokens_ratio", "x mean", TIMES_MEAN, "tokens by their mean over all rows"),
    Column("flops_ratio", "x mean", TIMES_MEAN, "FLOPs by their mean over all rows"),
    Column("compute_ratio", "x mean", TIMES_MEAN, "compute time by its mean over all rows"),
    Column("peak_ratio", "x mean", TIMES_MEAN, "peak memory by its mean over all rows"),
    Column("of_ranks", "Ranks", Quantity(listed, left=True), "which ranks"),
    Column("ahead", "Ahead", LONG_TIME, "by how much the clock shows a later time than the first one"),
    Column("clock_error", "Error", LONG_TIME, "how far that may be off, as far as the ends of collectives tell"),
    Column("contradiction", "At odds", LONG_TIME, "by how much collectives contradict each other in that"),
    Column("longest", "Longest", TIME, "of the rank in which it ran longest, which waited most"),
    Column("alg_rate", "Alg", BYTE_RATE, "algorithm bandwidth: bytes by the time for which it ran"),
    Column("bus_rate", "Bus", BYTE_RATE, "bus bandwidth: comparable with the speed of the links, whatever the number of ranks"),
    Column("forward_self", "Fwd self", TIME, "host time of forward, without what is below"),
    Column("recompute_self", "Rec self", TIME, "host time of recomputation, without what is below"),
    Column("backward_self", "Bwd self", TIME, "host time of backward, without what is below"),
    Column("optimizer_self", "Opt self", TIME, "host time of the optimizer's step, without what is below"),
    Column(
        "flops",
        "FLOPs",
        FLOPS,
        "per step, with what runs inside; in a summary, of forward. A multiply-add is two; ? and >= where some are unknown",
        unknown="flops_unknown",
    ),
    Column(
        "flops_self",
        "FLOPs self",
        FLOPS,
        "per step, of its own ops, without functions that it called; of backward those that differentiate them",
        unknown="flops_self_unknown",
    ),
    Column("flops_forward", "Fwd FLOPs", FLOPS, "of forward, with what runs inside", unknown="flops_forward_unknown"),
    Column("flops_backward", "Bwd FLOPs", FLOPS, "of backward, with what runs inside", unknown="flops_backward_unknown"),
    Column(
        "macs", "MACs", FLOPS, "multiply-adds: half the FLOPs", ("flops",), lambda flops: flops / 2, unknown="flops_unknown"
    ),
    Column(
        "mfu",
        "MFU",
        SHARE,
        "model FLOPs utilization: FLOPs of forward and backward, of what the device could compute in that time",
        unknown="flops_unknown",
    ),
    Column("bytes", "Bytes", BYTES, "of ops: inputs and outputs, each once, an estimate; of copies: counted"),
    Column("intensity", "FLOP/B", Quantity(lambda value: f"{value:,.1f}", "FLOPs per byte"), "FLOPs per byte"),
    Column("flop_rate", "FLOP/s", FLOP_RATE, "achieved"),
    Column("byte_rate", "Rate", BYTE_RATE, "achieved"),
    Column("roofline", "Of roof", SHARE, "of what the device could do at that FLOP/B: see torchprof.ceilings"),
    Column("allocated", "Allocated", BYTES, "allocated per step, freed since or not"),
    Column("peak", "Peak", BYTES, "the most held during the step"),
    Column("held", "Held", BYTES, "held at the end of the step"),
    Column("growth", "Growth per step", BYTES, "how much more was held at the end of every step, on average"),
    Column("saved", "Saved", BYTES, "activations kept for backward, when the most were kept"),
    Column("leaked", "Leaked", BYTES, "held at the end of the last step, of what grows from step to step"),
    Column("needed", "Needed", BYTES, "on the device, the context included"),
    Column("max_allocated", "Allocated", BYTES, "the most that was allocated at once"),
    Column("max_reserved", "Reserved", BYTES, "the most that the allocator reserved at once"),
    Column("category", "What", TEXT, "what kind of memory it is: see torchprof.CATEGORIES"),
    Column("at_peak", "At peak", BYTES, "held when the most was held"),
    Column("count", "Count", EXACT_COUNT, "how many"),
    Column("awaiting_free", "Awaiting free", BYTES, "freed, and still used by another stream"),
    Column("free", "Free", BYTES, "of a segment, not allocated"),
    Column("largest_free", "Largest free", BYTES, "the largest free piece of a segment"),
    Column("outcome", "Outcome", TEXT, "whether all fits, or how far it comes"),
    Column("stream", "Stream", NUMBER, "which may use the memory"),
    Column("steps", "Steps", NUMBER, "in how many steps"),
    Column("total", "Bytes", BYTES, "all together"),
    Column("module", "Module", TEXT, "path of the module"),
    Column("lines", "Line", Quantity(_first, left=True), "of the program, the one of the most, and how many others there are"),
    Column("op", "Op", TEXT, "the outermost op that allocated it"),
    Column("span", "Span", TIME, "from the start of the first kernel to the end of the last"),
    Column("busy", "Busy", TIME, "time in which any kernel, copy or fill ran"),
    Column("busy_share", "Share", SHARE, "of the span of the device"),
    Column("idle", "Idle", TIME, "time in which nothing ran"),
    Column("idle_share", "Share", SHARE, "of all idle time"),
    Column("idle_launch_bound", "Launch-bound", TIME, "the queue was empty before the host launched the next kernel"),
    Column("idle_data", "Data", TIME, "of that, the time in which the thread that launched waited for data"),
    Column("idle_synchronization", "Synchronization", TIME, "of the rest, as much as the host had waited for a device"),
    Column("idle_other", "Other", TIME, "launched in time: waited for another stream, or took its time to start"),
    Column("gaps", "Gaps", COUNT, "how many times"),
    Column(
        "at",
        "Op",
        Quantity(_first_two, left=True),
        "the op that launched what came late; of synchronization, the op that waited",
    ),
    Column("call", "Call", TEXT, "of the device's runtime"),
    Column("synchronizations", "Syncs", COUNT, "how often the host waited for a device, per step"),
    Column("waited", "Waited", TIME, "host time"),
    Column("host", "Host", TIME, "host time in the module's own code and ops, waits left out"),
    Column("took", "Device", TIME, "device time"),
    Column(
        "host_ratio",
        "Host/device",
        RATIO,
        "host time for each unit of device time",
        ("host", "took"),
        lambda host, took: host / took if took else None,
    ),
    Column("kind", "Kind", TEXT, "kernel, copy or fill; interval: of a stream between two events"),
    Column("direction", "Direction", TEXT, "from where to where a copy went"),
    Column(
        "launched_by", "Launched by", Quantity(_first, left=True), "the op that launched most of it, and how many others did"
    ),
    Column(
        "shapes",
        "Input shapes",
        SHAPES,
        "of the tensors it was given; an aggregated recording merges other shapes than the first",
    ),
    Column("dtypes", "Dtypes", DTYPES, "of the tensors it was given, each once"),
    Column("modules", "Count", COUNT, "how many modules of the kind there are"),
    Column("peak_saved", "Saved", BYTES, "how much less the peak would be, were these modules checkpointed"),
    Column(
        "saved_per_flop",
        "Bytes/kFLOP",
        Quantity(lambda value: f"{1000 * value:,.2f}", "bytes per FLOP"),
        "bytes that the peak is less for each FLOP that is computed again; the text has them for 1,000",
        ("peak_saved", "flops"),
        lambda saved, flops: saved / flops if flops else None,
    ),
    Column("code", "", TEXT, "the text of the line"),
    Column(
        "source", "Source", Quantity(_beginning, left=True), "the text of the line, where its file is there and did not change"
    ),
    *(Column(f"peak_{name.replace(' ', '_')}", name.capitalize(), BYTES, "held at the peak") for name in CATEGORIES),
)

COLUMNS: Final[dict[str, Column]] = {column.name: column for column in _COLUMNS}
"""The columns by name."""

LEFT_OUT_FIRST: Final = {
    name: rank
    for rank, name in enumerate(
        (
            *("spread", "share", "device_share", "idle_share", "busy_share", "self", "device_self", "input", "output_bytes"),
            *("min", "max", "mean"),
        )
    )
}
"""Where a line has no room for all columns, these are left out first, in this order; then the others, the rightmost first."""
