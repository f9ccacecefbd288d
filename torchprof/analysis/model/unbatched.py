"""Inputs that were taken as one sample, without a batch: layers of PyTorch accept both, by the number of dimensions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from torchprof.analysis.model.rows import Row
from torchprof.trace.trace import Trace

__all__ = ["unbatched_input"]

DIMENSIONS: Final = {
    **{f"Conv{transposed}{count}d": count + 1 for transposed in ("", "Transpose") for count in (1, 2, 3)},
    **dict.fromkeys(("RNN", "LSTM", "GRU"), 2),
}
"""How many dimensions one sample has, of layers whose documentation says so."""


def unbatched_input(trace: Trace, rows: Iterable[Row]) -> str:
    """Which layer took an input that was made from sizes as one sample, and its shape; empty where none did.

    Only where the sizes were given without ``batch_size``: whoever gives it, or inputs of their own, knows what is in them.
    """
    if trace.facts.get("batch_size") is not None or not trace.facts.get("made_from_sizes"):
        return ""
    made = {tuple(size) for size in trace.facts["input_sizes"]}
    for row in rows:
        if row.input_shapes and len(row.input_shapes[0]) == DIMENSIONS.get(row.type) and row.input_shapes[0] in made:
            name = f"{row.path} ({row.type})" if row.path else row.type
            return f"{name} took {list(row.input_shapes[0])}"
    return ""
