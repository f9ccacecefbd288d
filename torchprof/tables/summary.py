"""`Summary`: the layers of a model and its totals, to print, sort, select and export."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

from torchprof.analysis.model.fold import fold_siblings, limit_depth
from torchprof.analysis.model.rows import Row
from torchprof.analysis.model.shards import ShardedTensor, placements_text
from torchprof.analysis.model.summary import rows_and_totals
from torchprof.analysis.model.totals import Totals
from torchprof.analysis.records import Record
from torchprof.errors import ArgumentError
from torchprof.paths import AnyPath
from torchprof.rendering import torchsummary
from torchprof.rendering.grid import Parts, Verbatim
from torchprof.rendering.printed import Printed
from torchprof.rendering.units import format_bytes, format_flops, format_ns
from torchprof.tables.columns import columns_of
from torchprof.tables.footer import incomplete, unknown_flops
from torchprof.tables.table import About, Table, data_frame
from torchprof.trace.model import TensorInfo
from torchprof.trace.shapes import shape_text
from torchprof.trace.trace import Trace
from torchprof.wording import counted, nearest

if TYPE_CHECKING:
    import pandas

__all__ = ["STYLES", "Style", "Summary", "chosen_columns", "default_columns", "summary_columns", "summary_table"]

Style = Literal["tree", "torchsummary"]
STYLES: Final = ("tree", "torchsummary")

HEADERS: Final = {"device_backward": "Bwd device"}
BLANK: Final = frozenset(
    "calls forward self share device recompute device_recompute backward backward_self device_backward flops_backward".split()
)
"""A module that was not called, or has no backward, shows nothing in these."""


@dataclass(frozen=True)
class Summary(Printed):
    """What `torchprof.summary` found. ``str()`` is the printed text.

    The methods of its `Table` can be called on it: ``summary.sort("forward").head(10)``. Figures are computed when they are
    first asked for.

    Attributes:
        trace: the recording behind it, to save or to analyze further.
        style, list_parameters, depth, fold, width: how it is printed: see `torchprof.summary`.
        chosen: names of the columns to print; None: those that are worth showing.
    """

    trace: Trace
    style: Style = "tree"
    chosen: tuple[str, ...] | None = None
    _: KW_ONLY
    depth: int | None = None
    fold: bool = False
    list_parameters: bool = False
    width: int | None = None

    @cached_property
    def _found(self) -> tuple[list[Row], Totals]:
        return rows_and_totals(self.trace)

    @cached_property
    def rows(self) -> list[Row]:
        """One `Row` per module, in the order of ``print(model)``; after ``depth`` and ``fold``."""
        return fold_siblings(self._unfolded) if self.fold else self._unfolded

    @cached_property
    def _unfolded(self) -> list[Row]:
        rows = self._found[0]
        return rows if self.depth is None else limit_depth(rows, self.depth)

    @property
    def totals(self) -> Totals:
        """Figures of the model as a whole."""
        return self._found[1]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that are printed."""
        return self.chosen if self.chosen is not None else default_columns(self.totals, self._unfolded)

    @cached_property
    def table(self) -> Table:
        """The rows as a table: the fields of `Row`, and ``input output self share device``, all of forward."""
        return summary_table(self.rows, self.totals, self.columns, list_parameters=self.list_parameters)

    def parts(self) -> Parts:
        if self.style == "torchsummary":
            yield Verbatim(torchsummary.render(self.trace))
        else:
            yield from self.table.parts()

    def _width(self) -> int | None:
        return self.width

    def __repr__(self) -> str:
        return f"<Summary: {counted(len(self.rows), 'row')}, {counted(self.totals.params, 'parameter')}>"

    def select(self, *columns: str) -> Table:
        """As `Table.select`."""
        return self.table.select(*columns)

    def with_columns(self, *columns: str) -> Table:
        """As `Table.with_columns`."""
        return self.table.with_columns(*columns)

    def without_columns(self, *columns: str) -> Table:
        """As `Table.without_columns`."""
        return self.table.without_columns(*columns)

    def sort(self, by: str, *, descending: bool = True) -> Table:
        """As `Table.sort`."""
        return self.table.sort(by, descending=descending)

    def head(self, count: int) -> Table:
        """As `Table.head`."""
        return self.table.head(count)

    def to_dict(self) -> dict[str, Any]:
        """Rows and totals as plain Python data: bytes, elements and nanoseconds; of every row its ``tensors`` and
        ``shards`` too.
        """
        tensors = [[tensor._asdict() for tensor in row.tensors] for row in self.rows]
        shards = [{name: shard._asdict() for name, shard in row.shards.items()} for row in self.rows]
        rows = [
            {**row, "tensors": mine, "shards": here} for row, mine, here in zip(self.table.rows, tensors, shards, strict=True)
        ]
        return {"rows": rows, "totals": asdict(self.totals)}

    def to_json(self, path: AnyPath | None = None) -> str:
        """As `Table.to_json`."""
        return self.table.to_json(path)

    def to_csv(self, path: AnyPath | None = None) -> str:
        """As `Table.to_csv`."""
        return self.table.to_csv(path)

    def to_pandas(self) -> pandas.DataFrame:
        """The rows of `to_dict` as a ``pandas.DataFrame``, one column per figure. Needs pandas.

        Raises:
            ImportError: pandas is not installed.
        """
        return data_frame(self.to_dict()["rows"])


def summary_table(
    rows: Sequence[Row], totals: Totals, columns: Sequence[str] | None = None, *, list_parameters: bool = False
) -> Table:
    """Rows and totals as a table; with ``list_parameters``, every parameter has a line below its module."""
    return Table(
        "Layer (type)",
        [_record(row, totals) for row in rows],
        tuple(columns) if columns is not None else default_columns(totals, rows),
        tuple(_total_lines(totals)),
        is_tree=True,
        headers=HEADERS,
        blank=BLANK,
        label=_label,
        is_dim=_was_not_called if totals.forward else None,
        details=_parameters(rows) if list_parameters else None,
    )


def default_columns(totals: Totals, rows: Iterable[Row] = ()) -> tuple[str, ...]:
    """What is worth showing of a summary with these totals, and these rows before they are folded."""
    if not totals.forward:
        shown = ["params", "params_total", "param_bytes"]
        return tuple(_with_shards(shown) if totals.meshes else shown)
    columns = ["input", "output", "params", "output_bytes", "forward", "self", "share"]
    if totals.flops or totals.flops_unknown:
        columns.insert(4, "flops")
        if totals.flops_backward or totals.backward:
            columns.insert(5, "flops_backward")
    if any(row.calls > 1 for row in rows):
        columns.insert(2, "calls")
    if totals.device_forward:
        columns.append("device")
    if totals.recompute:
        columns.append("recompute")
    if totals.device_recompute:
        columns.append("device_recompute")
    if totals.backward:
        columns.append("backward")
    if totals.device_backward:
        columns.append("device_backward")
    return tuple(_with_shards(columns) if totals.meshes else columns)


def _with_shards(columns: list[str]) -> list[str]:
    """The columns of a model whose parameters are split between ranks."""
    columns.insert(columns.index("params") + 1, "params_local")
    return [*columns, "placements"]


def chosen_columns(columns: Any) -> tuple[str, ...]:
    """These names, if they are those of columns that a summary can show.

    Raises:
        ArgumentError: they are not, or are given in another way than as a list.
    """
    known = summary_columns()
    if isinstance(columns, str) or not isinstance(columns, Iterable):
        problem = f"is of type {type(columns).__name__}, not a list of names"
    else:
        names = tuple(columns)
        unknown = [name for name in names if name not in known]
        if not unknown:
            return names
        near = nearest(unknown[0], known) if isinstance(unknown[0], str) else None
        problem = f"contains {unknown[0]!r}, which is unknown{f' (did you mean {near!r}?)' if near else ''}"
    raise ArgumentError(f"columns={columns!r} {problem}: choose from {', '.join(known)}")


def summary_columns() -> list[str]:
    """The names of the columns that a summary can show."""
    return list(columns_of(_record(Row("", "", "", 0), Totals())))


def _record(row: Row, totals: Totals) -> Record:
    record: Record = row._asdict()
    del record["tensors"], record["shards"]
    record["placements"] = _placements(row)
    record["param_dtypes"] = tuple(dict.fromkeys([tensor.dtype for tensor in row.tensors]))
    record["input"], record["output"] = row.input_shapes, row.output_shapes
    record["self"] = row.forward_self if row.calls else None
    record["share"] = row.forward / totals.forward if totals.forward else 0.0
    record["device"] = row.device_forward
    if not (row.calls or row.forward):
        record["flops"] = None
    record["params_share"] = row.params / totals.params if totals.params else 0.0
    return record


def _placements(row: Row) -> str:
    """Of its own parameters: once where they are all alike, else with the name of each."""
    texts = {name: placements_text(shard) for name, shard in row.shards.items()}
    alike = len(set(texts.values())) == 1 and len(texts) == len(row.tensors)
    return next(iter(texts.values())) if alike else "; ".join(f"{name} {text}" for name, text in texts.items())


def _label(row: Record) -> str:
    name = row["name"] if row["name"] == row["type"] and row["depth"] == 0 else f"{row['name']} ({row['type']})"
    return f"{name} x{row['copies']}" if row["copies"] > 1 else name


def _was_not_called(row: Record) -> bool:
    return not (row["calls"] or row["forward"] or "are used" in row["note"])


def _parameters(rows: Sequence[Row]) -> Callable[[Record], list[tuple[str, str]]]:
    """Gives the lines of the parameters of a row."""
    by_path = {row.path: row for row in rows if row.tensors}

    def lines(row: Record) -> list[tuple[str, str]]:
        of = by_path.get(row["path"])
        return [_parameter(tensor, of.shards.get(tensor.name)) for tensor in of.tensors] if of is not None else []

    return lines


def _parameter(tensor: TensorInfo, shard: ShardedTensor | None) -> tuple[str, str]:
    """The line of a parameter, and its note."""
    text = f"{tensor.name} {shape_text(tensor.shape)} {tensor.dtype}"
    note = f"shared with {tensor.owner}" if tensor.owner is not None else "" if tensor.trainable else "frozen"
    if shard is None:
        return text, note
    return f"{text}, {shape_text(shard.shape)} on this rank", "; ".join(filter(None, (placements_text(shard), note)))


def _known_bytes(count: int | None) -> str:
    return "unknown" if count is None else format_bytes(count)


def _flop_lines(totals: Totals) -> Iterator[str]:
    if not (totals.flops or totals.flops_unknown):
        return
    line = f"FLOPs: {_flops(totals.flops, totals.flops_unknown)}"
    if totals.backward:
        line += f", backward: {_flops(totals.flops_backward, totals.flops_backward_unknown)}"
        if totals.flops_recomputed:
            line += f", forward again: {_flops(totals.flops_recomputed, totals.flops_backward_unknown)}"
    yield f"{line} (a multiply-add is two)" if any(map(str.isdigit, line)) else line
    yield from unknown_flops([*totals.flops_unknown, *totals.flops_backward_unknown], None)


def _flops(count: int | None, unknown: Collection[str]) -> str:
    if unknown:
        return f"at least {format_flops(count)}" if count else "unknown"
    return format_flops(count or 0)


def _total_lines(totals: Totals) -> Iterator[str | About]:
    if totals.failure:
        yield f"INCOMPLETE: {totals.failure}; figures are of what ran until then"
    by_dtype = ", ".join(f"{format_bytes(count)} {dtype}" for dtype, count in totals.param_bytes_by_dtype.items())
    least = "at least " if totals.params_unknown else ""
    here = f"; {totals.params_local:,} on this rank" if totals.meshes else ""
    yield f"Params: {least}{totals.params:,} ({totals.trainable:,} trainable, {totals.frozen:,} frozen){here}"
    yield About(("params_share",), f"Params %: of all params{', as far as they are known' if totals.params_unknown else ''}")
    here = f" on this rank, {least}{format_bytes(totals.param_bytes_whole)} in all" if totals.meshes else ""
    yield f"Size of params: {least}{by_dtype or '0 B'}{here}; of buffers: {format_bytes(totals.buffer_bytes)}"
    if totals.meshes:
        yield f"Mesh: {', '.join(totals.meshes)} ranks"
    if len(totals.param_bytes_by_device) > 1:
        by_device = ", ".join(f"{format_bytes(count)} on {device}" for device, count in totals.param_bytes_by_device.items())
        yield f"Params by device: {by_device}"
    if totals.batch:
        how = "" if totals.batch == "compared" else ", taken to be every first dimension of 2"
        yield f"Batch: shown as -1{how}; all figures are those of a batch of 2"
    if totals.unbatched:
        yield f"Batch: none; {totals.unbatched} as one sample, batch_size=2 puts a batch dimension before it"
    if totals.forward:
        yield f"Size of inputs: {_known_bytes(totals.input_bytes)}"
        if totals.memory != "none":
            how = {
                "measured": "measured",
                "meta": f"counted as on {totals.counted_as}, on {totals.counted_on} tensors: nothing was allocated",
                "unknown": f"nothing was allocated, and it cannot be counted: {totals.unknown_because}",
            }[totals.memory]
            both = f", with backward {_known_bytes(totals.peak_with_backward)}" if totals.peak_with_backward != 0 else ""
            yield f"Forward allocated: {_known_bytes(totals.allocated)}, peak {_known_bytes(totals.peak)}{both} ({how})"
            why = totals.saved_unknown_because or "params not counted"
            yield f"Saved for backward: {_known_bytes(totals.saved)} ({why})"
        yield from _flop_lines(totals)
        backward = f", recomputation: {format_ns(totals.recompute)}" if totals.recompute else ""
        if totals.backward:
            backward += f", backward: {format_ns(totals.backward)}"
            if totals.backward_unattributed:
                backward += f", of which {format_ns(totals.backward_unattributed)} in no module"
        passed = f"Forward: {format_ns(totals.forward)}{backward} (host time of one pass"
        yield About(("share",), f"{passed}; Share: of forward)", f"{passed})")
        if totals.device_forward or totals.device_backward:
            backward = f", recomputation: {format_ns(totals.device_recompute)}" if totals.device_recompute else ""
            backward += f", backward: {format_ns(totals.device_backward)}" if totals.device_backward else ""
            yield f"On devices: forward: {format_ns(totals.device_forward)}{backward} (time of kernels)"
    yield from incomplete(totals.losses)
