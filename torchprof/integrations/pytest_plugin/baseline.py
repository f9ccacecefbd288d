"""The baseline: a file with the figures of every test, which later runs are compared with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from torchprof.errors import ArgumentError
from torchprof.integrations.pytest_plugin.explain import WIDTH
from torchprof.integrations.pytest_plugin.result import Result
from torchprof.integrations.pytest_plugin.tolerance import COMPARED, Tolerances
from torchprof.integrations.pytest_plugin.verdict import NOUNS, written
from torchprof.paths import opened
from torchprof.paths import written as written_file
from torchprof.rendering.grid import Grid, GridColumn
from torchprof.rendering.text import as_text, lines_of
from torchprof.rendering.units import format_flops

__all__ = ["Baseline", "drift", "read", "write"]

VERSION: Final = 1
OPS: Final = ("ops", "flops", "kernels")
"""Figures whose change ops explain."""
ROWS: Final = 8

Baseline = dict[str, dict[str, Any]]
"""By node id, the figures of each test, and ``torch``, ``device`` and ``by_op``."""


def read(path: str) -> Baseline | None:
    """The baseline in a file; None where there is no such file.

    Raises:
        ArgumentError: it is none, or cannot be read.
    """
    way_out = "give another file, or delete it and run once more to write it anew"
    try:
        with opened(path) as file:
            found = json.loads(file.read())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ArgumentError(f"--torchprof-baseline {path} cannot be read: {error}; {way_out}") from None
    tests = found.get("tests") if isinstance(found, dict) else None
    if not isinstance(found, dict) or "torchprof_baseline" not in found or not isinstance(tests, dict):
        raise ArgumentError(f"--torchprof-baseline {path} is no baseline of torchprof: {way_out}")
    if found["torchprof_baseline"] != VERSION:
        raise ArgumentError(f"--torchprof-baseline {path} was written by another version of torchprof: {way_out}")
    for test, figures in tests.items():
        if not isinstance(figures, dict) or not all(is_count(figures.get(name, 0)) for name in COMPARED):
            raise ArgumentError(f"--torchprof-baseline {path} is damaged at {test!r}: {way_out}")
        if not is_by_op(figures.get("by_op", {})):
            raise ArgumentError(f"--torchprof-baseline {path} is damaged at {test!r}: {way_out}")
    return tests


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_by_op(value: Any) -> bool:
    """Whether this is the count and the FLOPs, or None, of ops by name."""
    return isinstance(value, dict) and all(
        isinstance(each, list) and len(each) == 2 and is_count(each[0]) and (each[1] is None or is_count(each[1]))
        for each in value.values()
    )


def write(path: str, before: Baseline | None, results: Mapping[str, Result]) -> None:
    """Write the figures of tests, and of those in the baseline before that did not run.

    Raises:
        OSError: the file cannot be written.
    """
    tests = {**(before or {}), **{test: entry_of(result) for test, result in results.items()}}
    document = {"torchprof_baseline": VERSION, "tests": dict(sorted(tests.items()))}
    with written_file(path) as file:
        file.write((json.dumps(document, indent=1) + "\n").encode())


def entry_of(result: Result) -> dict[str, Any]:
    """What the baseline keeps of a result: what is known."""
    known = {name: result[name] for name in COMPARED if result.get(name) is not None and name not in result["why"]}
    return {"torch": result["torch"], "device": result["device"], **known, "by_op": result["by_op"]}


def drift(before: Mapping[str, Any], result: Result, tolerances: Tolerances) -> Iterator[str]:
    """One text for every figure that is not what the baseline says, and what explains it."""
    changed = []
    now = entry_of(result)
    if before.get("device") and now["device"] and before["device"] != now["device"]:  # empty: nothing is known of memory
        yield (
            f"the baseline is of {before.get('device')}, and this ran on {now['device']}: their figures are not the same; "
            "give each kind of machine a file of its own"
        )
        return
    for name in COMPARED:
        a, b = before.get(name), now.get(name)
        if a is None and b is None:
            continue
        if a is None or b is None:
            why = result["why"].get(name, "")
            said = f"unknown now: {why}" if b is None else f"{written(name, b)} now"
            yield f"{NOUNS[name]}: {written(name, a) if a is not None else 'unknown'} in the baseline, and {said}"
            changed.append(name)
        elif abs(b - a) > tolerances.of(name) * a:
            share = f", {(b - a) / a:+.1%}" if a else ""
            tolerance = f" (tolerance {tolerances.of(name):.2%})" if tolerances.of(name) else ""
            yield f"{NOUNS[name]}: {written(name, a)} in the baseline, and {written(name, b)} now{share}{tolerance}"
            changed.append(name)
    if any(name in OPS for name in changed):
        yield from ops_that_changed(before.get("by_op", {}), now["by_op"])
    if changed and before.get("torch") != now["torch"]:
        yield f"The baseline was written with torch {before.get('torch')}, and this ran with {now['torch']}"


def ops_that_changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """A table of the ops of which there are more or fewer, what is new first."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if not names:
        return
    names.sort(key=lambda name: (name in before, -abs(_count(now, name) - _count(before, name)), name))
    shown = names[:ROWS]
    columns = [
        GridColumn("Baseline", [f"{_count(before, name):,}" if name in before else "-" for name in shown]),
        GridColumn("Now", [f"{_count(now, name):,}" if name in now else "-" for name in shown]),
        GridColumn("FLOPs before", [_flops(before, name) for name in shown]),
        GridColumn("FLOPs now", [_flops(now, name) for name in shown]),
    ]
    notes = ["new" if name not in before else "gone" if name not in now else "" for name in shown]
    below = (f"{len(names) - ROWS} more ops changed",) if len(names) > ROWS else ()
    yield as_text(lines_of([Grid("Op", shown, columns, ["row"] * len(shown), notes, below)], WIDTH))


def _count(ops: Mapping[str, Any], name: str) -> int:
    return int(ops[name][0]) if name in ops else 0


def _flops(ops: Mapping[str, Any], name: str) -> str:
    found = ops[name][1] if name in ops else None
    return "-" if not found else format_flops(found)
