"""Prints every table, account and export of saved traces: ``python everything.py FOLDER FILE ...``.

It runs where PyTorch is not installed, and prints the same beside PyTorch, which it imports if BESIDE_TORCH is set.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torchprof
from torchprof.analysis.model.layer_calls import raising_call
from torchprof.analysis.model.summary import rows_and_totals
from torchprof.rendering import torchsummary
from torchprof.tables.columns import columns_of
from torchprof.tables.summary import summary_table

H100 = torchprof.Ceilings("NVIDIA H100", "float32", 0, flops=50e12, bytes=3e12)


def printed(trace: torchprof.Trace, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """What can be printed of a trace, by name."""
    yield "repr", lambda: repr(trace)
    for by in (torchprof.by_module, torchprof.by_op, torchprof.by_step, torchprof.by_kernel):
        yield by.__name__, lambda by=by: by(trace)
        yield f"{by.__name__}, every figure", lambda by=by: by(trace).to_json()
        yield f"{by.__name__}, CSV", lambda by=by: by(trace).to_csv()
    yield "by_op with shapes", lambda: torchprof.by_op(trace, shapes=True, ceilings=H100)
    yield "memory", lambda: torchprof.memory(trace)
    yield (
        "memory, tables",
        lambda: [str(table) for table in (torchprof.memory(trace).categories, torchprof.memory(trace).modules)],
    )
    yield "memory, data", lambda: json.dumps(torchprof.memory(trace).to_dict())
    yield "gpu, data", lambda: json.dumps(torchprof.gpu(trace).to_dict())
    yield "memory on a device", lambda: torchprof.memory(trace, "cpu")
    yield "report", lambda: exported(torchprof.report, trace, folder / "report.html").partition("* plotly.js")[0]
    yield "gpu", lambda: torchprof.gpu(trace)
    yield "gpu with ceilings", lambda: torchprof.gpu(trace, ceilings=H100)
    yield "findings", lambda: torchprof.findings(trace)
    yield "findings as data", lambda: torchprof.findings(trace).to_dict()
    yield "summary", lambda: every_column(summary_table(*rows_and_totals(trace)))
    yield "torchsummary", lambda: torchsummary.render(trace)
    yield "the call that raised", lambda: raising_call(trace)
    for by in ("module", "op", "line", "function", "kernel", "category"):
        yield f"diff by {by}", lambda by=by: torchprof.diff(trace, trace, by=by)
    yield "diff, every figure", lambda: torchprof.diff(trace, trace).to_json()
    yield "diff, CSV", lambda: torchprof.diff(trace, trace).to_csv()
    yield "diff from nothing", lambda: torchprof.diff(torchprof.Trace.empty(), trace)
    yield "chrome", lambda: exported(torchprof.export_chrome, trace, folder / "chrome.json")
    for by in ("time", "device", "flops", "bytes"):
        yield f"folded by {by}", lambda by=by: exported(torchprof.export_folded, trace, folder / "folded", by)
        yield f"speedscope by {by}", lambda by=by: exported(torchprof.export_speedscope, trace, folder / "speedscope", by)
    yield (
        "saved again",
        lambda: exported(lambda trace, path: trace.save(path), trace, folder / "again") and torchprof.load(folder / "again"),
    )


def every_column(table: torchprof.Table) -> torchprof.Table:
    return table.select(*columns_of(table.rows[0]))


def exported(export: Callable[..., None], trace: torchprof.Trace, path: Path, *options: str) -> str:
    export(trace, path, *options)
    return path.read_text(errors="replace")


def main(folder: str, *files: str) -> None:
    for file in files:
        trace = torchprof.load(file)
        for name, make in printed(trace, Path(folder)):
            print(f"\n== {Path(file).name}: {name}")
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                try:
                    print(make())
                except torchprof.ArgumentError as error:  # not every trace has everything
                    print("ArgumentError:", error)
                except AssertionError:  # a table of the model, where the trace has none
                    print("no model")
            for warning in warned:
                print("warning:", warning.message)


if __name__ == "__main__":
    if os.environ.get("BESIDE_TORCH"):
        import torch  # noqa: F401
    main(*sys.argv[1:])
    print("PyTorch was imported" if "torch" in sys.modules else "PyTorch was not imported", file=sys.stderr)
