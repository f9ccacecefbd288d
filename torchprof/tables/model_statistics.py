"""`ModelStatistics`: a `Summary` with the attributes of what the torchinfo package returns."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Final

from torchprof.analysis.model.rows import Row
from torchprof.tables.summary import Summary

__all__ = ["ModelStatistics"]

ASCII: Final = str.maketrans({"├": "+", "└": "+", "│": "|", "─": "-", "…": "~"})


@dataclass(frozen=True)
class ModelStatistics(Summary):
    """A `Summary` with the attributes of what torchinfo returns.

    Attributes:
        ascii_only, hide_recursive_layers: as in ``row_settings``.
        input_size: a list of the sizes that were given, or the data with the size of each tensor in its place.
    """

    ascii_only: bool = False
    hide_recursive_layers: bool = False
    input_size: Any = ()

    @property
    def rows(self) -> list[Row]:
        """As of `Summary`."""
        if not self.hide_recursive_layers or self.trace.model is None:
            return super().rows
        elsewhere = {info.path for info in self.trace.model.modules if info.same_as >= 0}
        return [row for row in super().rows if row.path not in elsewhere]

    def print(self, *, width: int | None = None) -> None:
        """As `Summary.print`, in full and without color where ``ascii_only`` is set."""
        if self.ascii_only:
            print(self.to_text(width))
        else:
            super().print(width=width)

    def to_text(self, width: int | None = None) -> str:
        """As `Summary.to_text`."""
        text = super().to_text(width)
        return text.translate(ASCII) if self.ascii_only else text

    def __repr__(self) -> str:
        return str(self)

    def __getattr__(self, name: str) -> Any:
        ways_out = {"summary_list": "use rows", "formatting": "use select() and with_columns()"}
        way_out = f": {ways_out[name]}" if name in ways_out else ""
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{way_out}")

    @property
    def total_params(self) -> int:
        """Elements of all parameters, each once."""
        return self.totals.params

    @property
    def trainable_params(self) -> int:
        """Elements of those that require a gradient."""
        return self.totals.trainable

    @property
    def total_mult_adds(self) -> int | None:
        """Half the FLOPs of forward, at least: see the footer; None where they were not counted, 0 where nothing ran."""
        if not self._ran:
            return 0
        flops = self.totals.flops
        return flops // 2 if flops is not None else None

    @property
    def total_param_bytes(self) -> int:
        """Bytes of all parameters."""
        return self.totals.param_bytes

    @property
    def total_input(self) -> int | None:
        """Bytes of the inputs; None where they are not known, or nothing ran."""
        return self.totals.input_bytes if self._ran else None

    @property
    def total_output_bytes(self) -> int | None:
        """Twice the bytes of the first tensor that modules with parameters and without children return.

        None where some are not known.
        """
        rows = self._found[0]
        depths = [row.depth for row in rows[1:]] + [0]
        leaves = [row for row, following in zip(rows, depths, strict=True) if row.params and following <= row.depth]
        sizes = [self._first_output(row) for row in leaves]
        return None if None in sizes else 2 * sum(size for size in sizes if size is not None)

    def _first_output(self, row: Row) -> int | None:
        """Bytes of the first tensor of every call."""
        if len(row.output_shapes) <= 1 or not row.output_dtypes or row.output_bytes is None:
            return row.output_bytes
        shape = row.output_shapes[0]
        sizes = [size for size in shape if isinstance(size, int)] if not isinstance(shape, str) else []
        itemsize = next((dtype.itemsize for dtype in self.trace.dtypes.values() if dtype.name == row.output_dtypes[0]), None)
        return prod(sizes) * itemsize * row.calls if itemsize is not None and len(sizes) == len(shape) else None

    @property
    def _ran(self) -> bool:
        return "input_sizes" in self.trace.facts
