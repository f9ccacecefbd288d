"""The tree table: rows of the summary as aligned text, plain or styled by rich."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from torchprof.analysis.model.summary import Row, Shape, Totals
from torchprof.rendering.text import Line, as_text, branches, elide, incomplete, lay_out
from torchprof.rendering.units import format_bytes, format_count, format_ns, format_share

__all__ = ["COLUMNS", "default_columns", "lines_of", "render_table"]

WIDEST_SHAPES: Final = 40


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its header, what a row shows in it, and what a reader should know of it."""

    header: str
    cell: Callable[[Row, Totals], str]
    meaning: str


@functools.lru_cache(maxsize=4096)
def _shapes(shapes: tuple[Shape, ...]) -> str:
    text = ""
    for index, shape in enumerate(shapes):
        more = f"{', ' if text else ''}{list(shape)}"
        if text and len(text) + len(more) > WIDEST_SHAPES:
            return f"{text} +{len(shapes) - index}"
        text += more
    return text


COLUMNS: Final[dict[str, Column]] = {
    "input": Column("Input", lambda r, t: _shapes(r.input_shapes), "shapes of the tensors it was first called with"),
    "output": Column("Output", lambda r, t: _shapes(r.output_shapes), "shapes of the tensors it first returned"),
    "calls": Column("Calls", lambda r, t: format_count(r.calls) if r.calls else "", "how often it was called"),
    "params": Column("Params", lambda r, t: format_count(r.params) if r.params else "-", "elements of its own parameters"),
    "trainable": Column(
        "Trainable", lambda r, t: format_count(r.trainable) if r.params else "-", "those that require a gradient"
    ),
    "params_total": Column(
        "Params (all)", lambda r, t: format_count(r.params_total) if r.params_total else "-", "with everything below it"
    ),
    "param_bytes": Column(
        "Param size", lambda r, t: format_bytes(r.param_bytes) if r.param_bytes else "-", "bytes of its own parameters"
    ),
    "output_bytes": Column(
        "Out size",
        lambda r, t: format_bytes(r.output_bytes) if r.calls and r.output_bytes is not None else "",
        "bytes of what all its calls returned",
    ),
    "forward": Column("Forward", lambda r, t: format_ns(r.forward) if r.forward else "", "host time with what it calls"),
    "self": Column("Self", lambda r, t: format_ns(r.forward_self) if r.calls else "", "host time without what it calls"),
    "share": Column(
        "Share",
        lambda r, t: format_share(r.forward, t.forward) if r.forward else "",
        "of the forward time of the model",
    ),
    "device": Column(
        "Device", lambda r, t: format_ns(r.device_forward) if r.device_forward else "", "device time of its kernels in forward"
    ),
    "backward": Column(
        "Backward",
        lambda r, t: format_ns(r.backward) if r.backward else "",
        "host time of backward, with what it calls",
    ),
    "backward_self": Column(
        "Bwd self",
        lambda r, t: format_ns(r.backward_self) if r.backward_self else "",
        "host time of backward, without what it calls",
    ),
    "device_backward": Column(
        "Bwd device",
        lambda r, t: format_ns(r.device_backward) if r.device_backward else "",
        "device time of its kernels in backward",
    ),
}


def default_columns(totals: Totals) -> tuple[str, ...]:
    """What is worth showing of a summary with these totals."""
    if not totals.forward:
        return ("params", "params_total", "param_bytes")
    return (
        "input",
        "output",
        "params",
        "output_bytes",
        "forward",
        "self",
        "share",
        *(["device"] if totals.device_forward else []),
        *(["backward"] if totals.backward else []),
        *(["device_backward"] if totals.device_backward else []),
    )


def render_table(rows: Sequence[Row], totals: Totals, columns: Sequence[str], list_parameters: bool = False) -> str:
    """The summary as plain text, the same wherever it is printed."""
    return as_text(lines_of(rows, totals, columns, list_parameters))


def lines_of(rows: Sequence[Row], totals: Totals, columns: Sequence[str], list_parameters: bool = False) -> Iterator[Line]:
    """The lines of the summary; with ``list_parameters`` every parameter has one, below its module."""
    chosen = [COLUMNS[name] for name in columns]
    names: list[str] = []
    cells: list[list[str]] = []
    kinds: list[str] = []
    notes: list[str] = []
    for row, prefix, below in zip(rows, *branches([row.depth for row in rows]), strict=True):
        times = f" x{row.copies}" if row.copies > 1 else ""
        label = row.name if row.name == row.type and row.depth == 0 else f"{row.name} ({row.type})"
        names.append(elide(f"{prefix}{label}{times}"))
        cells.append([column.cell(row, totals) for column in chosen])
        kinds.append("root" if row.depth == 0 else "module" if row.calls or row.forward or not totals.forward else "quiet")
        notes.append(row.note)
        if list_parameters:
            for tensor in row.tensors:
                names.append(elide(f"{below}. {tensor.name} {list(tensor.shape)} {tensor.dtype}"))
                cells.append(["" for _ in chosen])
                kinds.append("quiet")
                notes.append(
                    f"shared with {tensor.owner}" if tensor.owner is not None else "" if tensor.trainable else "frozen"
                )
    headers = ["Layer (type)", *(column.header for column in chosen)]
    return lay_out(headers, names, cells, kinds, notes, list(_total_lines(totals)))


def _total_lines(totals: Totals) -> Iterator[str]:
    by_dtype = ", ".join(f"{format_bytes(count)} {dtype}" for dtype, count in totals.param_bytes_by_dtype.items())
    yield f"Params: {totals.params:,} ({totals.trainable:,} trainable, {totals.frozen:,} frozen)"
    yield f"Size of params: {by_dtype or '0 B'}; of buffers: {format_bytes(totals.buffer_bytes)}"
    if len(totals.param_bytes_by_device) > 1:
        by_device = ", ".join(f"{format_bytes(count)} on {device}" for device, count in totals.param_bytes_by_device.items())
        yield f"Params by device: {by_device}"
    if totals.forward:
        yield f"Size of inputs: {format_bytes(totals.input_bytes)}"
        if totals.memory != "none":
            how = "measured" if totals.memory == "measured" else "counted on meta tensors: nothing was allocated"
            both = f", with backward {format_bytes(totals.peak_with_backward)}" if totals.peak_with_backward else ""
            yield f"Forward allocated: {format_bytes(totals.allocated)}, peak {format_bytes(totals.peak)}{both} ({how})"
            yield f"Saved for backward: {format_bytes(totals.saved)} (params not counted)"
        backward = ""
        if totals.backward:
            backward = f", backward: {format_ns(totals.backward)}"
            if totals.backward_unattributed:
                backward += f", of which {format_ns(totals.backward_unattributed)} in no module"
        yield f"Forward: {format_ns(totals.forward)}{backward} (host time of one pass)"
        if totals.device_forward or totals.device_backward:
            backward = f", backward: {format_ns(totals.device_backward)}" if totals.device_backward else ""
            yield f"On devices: forward: {format_ns(totals.device_forward)}{backward} (time of kernels)"
    yield from incomplete(totals.losses)
