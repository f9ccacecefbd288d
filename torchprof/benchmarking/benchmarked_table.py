"""The table of several benchmarks, each above what was saved of it before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from torchprof.analysis.records import Record
from torchprof.benchmarking.benchmarked import Benchmark
from torchprof.tables.table import Table

__all__ = ["benchmark_table"]

COLUMNS: Final = "time device kernels idle_share peak max_reserved flops flop_rate mfu module".split()
HEADERS: Final = {"time": "Median", "idle_share": "Idle", "module": "Hottest modules"}
FIGURES: Final = {
    "kernels": "kernels",
    "idle_share": "idle_share",
    "peak": "peak_bytes",
    "max_reserved": "reserved_bytes",
    "flops": "flops",
    "flop_rate": "flop_rate",
    "mfu": "mfu",
}
"""Columns, and the names of their figures in ``extra_info``."""
WORDS: Final = {
    "device_time": "device time",
    "idle_share": "idle time",
    "peak_bytes": "peak",
    "reserved_bytes": "reserved",
    "flops": "FLOPs",
    "flop_rate": "FLOP/s",
    "mfu": "MFU",
    "hottest_modules": "hottest modules",
}
"""Figures of ``extra_info``, as a reader knows them."""


def benchmark_table(results: Mapping[str, Benchmark], saved: Iterable[Mapping[str, Any]] = ()) -> Table:
    """One row for every benchmark and, below it, one for every saved run that has it.

    Args:
        results: by full name of the test.
        saved: the contents of files of pytest-benchmark. Benchmarks in these that have no figures of torchprof are left out.
    """
    before: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for run in saved:
        for each in run.get("benchmarks", ()):
            if "recorded_by" in each.get("extra_info", {}) and "peak_bytes" in each["extra_info"]:
                before.setdefault(each["fullname"], []).append((_when(run), each))
    names = Counter(result.name for result in results.values())
    rows: list[Record] = []
    for full, result in results.items():
        name = result.name if names[result.name] == 1 else full
        rows.append(_row(name, full, 0, result.time, result.extra_info))
        for when, each in before.get(full, ()):
            rows.append(_row(f"saved {when}", f"{full} {when}", 1, each["stats"]["median"] * 1e9, each["extra_info"]))
    below = ("Median: of calls that were not recorded; the rest: of further calls, recorded", *_said(results.values()))
    return Table("Test", rows, tuple(COLUMNS), below, is_tree=True, headers=HEADERS, unknown="?")


def _row(name: str, path: str, depth: int, time: float, info: Mapping[str, Any]) -> Record:
    row: Record = {"name": name, "path": path, "type": "", "depth": depth, "time": time}
    device = info.get("device_time")
    row |= {"device": device * 1e9 if device is not None else None}
    row |= {column: info.get(figure) for column, figure in FIGURES.items()}
    hottest = info.get("hottest_modules") or []
    row["module"] = ", ".join(f"{hot['module']} {100 * hot['share']:.0f}%" for hot in hottest) or None
    row["flops_unknown"] = info.get("flops_unknown", ())
    return row


def _when(run: Mapping[str, Any]) -> str:
    """When a saved run was made: ``2026-11-26 23:50:12``."""
    return str(run.get("datetime", "earlier"))[:19].replace("T", " ")


def _said(results: Iterable[Benchmark]) -> Iterator[str]:
    """Why figures are not known, each reason once; and what must be said of the others."""
    results = list(results)
    reasons: dict[str, dict[str, None]] = {}
    for result in results:
        for name, why in result.unknown.items():
            reasons.setdefault(why, {})[WORDS.get(name, name)] = None
    for why, names in reasons.items():
        yield f"Not known (?): {_listed(list(names))}: {why}"
    yield from dict.fromkeys(note for result in results for note in result.extra_info["notes"])


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
