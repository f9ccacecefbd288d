"""Where the time of a training loop went, by line or by function: the records of the tables.

All figures are means over the active steps, but for memory that is held.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.lines.file_names import place_text, short_files
from torchprof.analysis.lines.places import Place, Places, places_of
from torchprof.analysis.lines.stack_costs import StackCosts, stack_costs
from torchprof.analysis.model.flops import at_least, counts_flops
from torchprof.analysis.records import Record, whole
from torchprof.analysis.steps import PHASE_COLUMNS
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace

__all__ = ["UNKNOWN", "place_records"]

Floats = npt.NDArray[np.float64]

UNKNOWN: Final = "unknown"
"""Name of the row for what belongs to no stack, or to none that is known."""
PHASES: Final = {**PHASE_COLUMNS, "other": Phase.OTHER}
HELD: Final = ("at_peak", "saved", "leaked", "growth")
"""Figures that are no means over steps."""


def place_records(
    trace: Trace,
    *,
    functions: bool,
    libraries: bool = False,
    at_call: bool = False,
    with_called: bool = False,
    by_step: bool = False,
) -> list[Record]:
    """One record per line, and per function of which no line is known; or one per function.

    Keys: ``name file line function first_line``; ``backward_at``, the names of the lines that called its backward passes;
    ``time``, and of it ``forward recompute backward optimizer data other``, with all that ran in functions that were called
    there; ``self``, and of it ``forward_self recompute_self ...``, without: these add up; ``share`` of all ``self``; ``calls``
    of ops, by Python; ``flops``, with what was called, ``flops_self``, without, and ``flops_unknown flops_self_unknown``. Where
    kernels were recorded, also ``device``, with what was called, ``device_self``, ``device_share`` of all ``device_self``,
    ``kernels``, ``synchronizations`` and ``waited``; where memory was, ``allocated at_peak saved leaked growth`` in bytes.

    Args:
        functions: one record per function.
        libraries, at_call: as `stack_costs` takes them.
        with_called: counts and bytes, too, contain those of functions that were called; else they add up.
        by_step: add ``by_step``, the times ``self`` and ``device_self`` of every step, ``[steps]``, where the trace knows
            single steps.
    """
    costs = stack_costs(trace, libraries, at_call)
    places = places_of(trace, costs, libraries=libraries, functions=functions)
    names = _names(places.list)
    times = {name: costs.times[:, phase] / costs.steps for name, phase in PHASES.items()}
    own = {f"{name}_self": places.own(values) for name, values in times.items()}
    columns = {name: places.inclusive(values) for name, values in times.items()}
    columns["time"] = sum(columns.values(), np.zeros(len(names)))
    columns["self"] = sum(own.values(), np.zeros(len(names)))
    columns |= own
    all_self = float(columns["self"].sum())
    columns["share"] = columns["self"] / all_self if all_self else columns["self"]
    sums = {name: values if name in HELD else values / costs.steps for name, values in costs.sums.items()}
    counted = counts_flops(trace)
    flops, flops_self = places.inclusive(sums["flops"]), places.own(sums["flops"])
    unknown, unknown_self = _unknown_flops(places, costs, inclusive=True), _unknown_flops(places, costs, inclusive=False)
    counts = places.inclusive if with_called else places.own
    columns |= {name: counts(values) for name, values in sums.items() if name not in ("flops", "device")}
    if "device" in sums:
        columns["device"], columns["device_self"] = places.inclusive(sums["device"]), places.own(sums["device"])
        all_device = float(columns["device_self"].sum())
        columns["device_share"] = columns["device_self"] / all_device if all_device else columns["device_self"]
    records: list[Record] = []
    passes: dict[int, set[str]] = {}
    for row, called in zip(places.of.tolist(), places.called, strict=True):
        if called >= 0:
            passes.setdefault(row, set()).add(names[called])
    for row, place in enumerate(places.list):
        record: Record = {"name": names[row], **place._asdict(), "backward_at": sorted(passes.get(row, ()))}
        record |= {name: float(values[row]) for name, values in columns.items()}
        for name in ("calls", "kernels", "synchronizations", *HELD, "allocated"):
            if name in record:
                record[name] = whole(record[name])
        for name, values, missing in (("flops", flops, unknown), ("flops_self", flops_self, unknown_self)):
            names_unknown = sorted(missing.get(row, ()))
            record[name] = at_least(whole(float(values[row])), names_unknown) if counted else None
            record[f"{name}_unknown"] = names_unknown
        records.append(record)
    if by_step and costs.by_step is not None:
        _add_by_step(records, places, costs)
    return [record for record in records if any(record.get(name) for name in (*columns, "flops", "flops_unknown"))]


def _add_by_step(records: list[Record], places: Places, costs: StackCosts) -> None:
    names = {"self": "self", "device": "device_self"}
    found = costs.by_step or {}
    sums = {names[name]: times.sums(places.of, len(records), costs.steps) for name, times in found.items()}
    for row, record in enumerate(records):
        record["by_step"] = {name: values[row] for name, values in sums.items()}


def _unknown_flops(places: Places, costs: StackCosts, *, inclusive: bool) -> dict[int, frozenset[str]]:
    found: dict[int, frozenset[str]] = {}
    for row, names in costs.unknown_flops.items():
        for place in places.around(row) if inclusive else (int(places.of[row]),):
            found[place] = found.get(place, frozenset()) | names
    return found


def _names(places: list[Place]) -> list[str]:
    """``net.py:12``; ``net.py:8 Net.forward`` of a function; each is another."""
    files = short_files({place.file for place in places if place.file is not None})
    return [_name(place, files) for place in places]


def _name(place: Place, files: dict[str, str]) -> str:
    if place.file is None:
        return place.function or UNKNOWN
    if place.line is not None:
        return place_text(files, place.file, place.line)
    return f"{place_text(files, place.file, place.first_line)} {place.function}"
