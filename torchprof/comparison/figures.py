"""The figures that are compared, and those of them that rows of each kind have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from torchprof.tables.columns import COLUMNS, Quantity

__all__ = ["FIGURES", "OF_TOTALS", "Figure"]


@dataclass(frozen=True, slots=True)
class Figure:
    """What is compared.

    Attributes:
        name: as in the tables.
        header: printed above or before it.
        quantity: how its values are written, and their unit.
        meaning: what a reader should know of it.
    """

    name: str
    header: str
    quantity: Quantity
    meaning: str

    @property
    def is_time(self) -> bool:
        """Whether it differs from step to step for no reason."""
        return self.quantity.unit == "ns"

    @property
    def is_per_step(self) -> bool:
        """Whether it is of one step, or of the whole recording where that has no steps."""
        return self.name not in _HELD

    def write(self, value: float | None) -> str:
        """The value as text."""
        return "?" if value is None else self.quantity.write(_whole(value))

    def write_signed(self, value: float | None) -> str:
        """A difference as text, with its sign."""
        if value is None:
            return "?"
        if not value:
            return "-"
        return f"{'+' if value > 0 else '-'}{self.quantity.write(_whole(abs(value)))}"

    def write_range(self, low: float, high: float) -> str:
        """``+1.20 to +3.40 ms``."""
        first, last = (self.write_signed(value) if value else "0" for value in (low, high))
        unit = last.partition(" ")[2]
        return f"{first.removesuffix(f' {unit}') if unit else first} to {last}"


def _whole(value: float) -> Any:
    return int(value) if float(value).is_integer() else value


_TIMES: Final = (
    *("time", "self", "forward", "recompute", "backward", "optimizer", "data", "other"),
    *("forward_self", "recompute_self", "backward_self", "optimizer_self"),
    *("device", "device_self", "device_forward", "device_recompute", "device_backward", "device_optimizer", "device_data"),
    *("device_other", "mean"),
)
_OTHERS: Final = (
    *("calls", "ops", "kernels", "count", "synchronizations", "params", "flops", "flops_self", "flops_forward"),
    *("flops_backward", "bytes", "output_bytes", "param_bytes", "allocated", "peak", "at_peak", "saved", "leaked", "held"),
    *("max_reserved", "max_allocated", "needed"),
)
_HELD: Final = frozenset(
    "params param_bytes mean peak at_peak saved leaked held max_reserved max_allocated needed output_bytes".split()
)
_HEADERS: Final = {"at_peak": "At peak", "max_reserved": "Reserved", "max_allocated": "Allocated", "time": "Time"}

FIGURES: Final[dict[str, Figure]] = {
    name: Figure(name, _HEADERS.get(name, COLUMNS[name].header), COLUMNS[name].quantity, COLUMNS[name].meaning)
    for name in (*_TIMES, *_OTHERS)
}
"""The figures by name."""

OF_TOTALS: Final = (
    *("time", "forward", "recompute", "backward", "optimizer", "data", "other", "device", "ops", "calls", "kernels", "flops"),
    *("flops_forward", "flops_backward", "params", "param_bytes", "needed", "max_allocated", "peak", "max_reserved", "saved"),
    *("allocated", "held"),
)
"""Those that both sides may have as a whole, in the order in which they are shown."""
