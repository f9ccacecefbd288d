"""See a PyTorch model: its layers and shapes, where its time goes and what holds its memory.

import torchprof

torchprof.summary(model, input_size=(3, 224, 224), batch_size=4)

with torchprof.profile(model) as prof:
    for batch in batches:
        train_step(batch)
        prof.step()
print(torchprof.by_module(prof.trace))
print(torchprof.memory(prof.trace))
print(torchprof.gpu(prof.trace))
prof.trace.save("steps.torchprof")
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any, Final

from torchprof._version import __version__ as __version__

if TYPE_CHECKING:  # what type checkers and editors see of the names below
    from torchprof import handlers as handlers
    from torchprof.advice.finding import Finding as Finding
    from torchprof.advice.findings import Findings as Findings
    from torchprof.advice.findings import findings as findings
    from torchprof.allocator.block_categories import SNAPSHOT_CATEGORIES as SNAPSHOT_CATEGORIES
    from torchprof.allocator.gpus import GPUS as GPUS
    from torchprof.allocator.replay import Replay as Replay
    from torchprof.allocator.replay import replay as replay
    from torchprof.allocator.settings import AllocatorSettings as AllocatorSettings
    from torchprof.allocator.snapshot import SnapshotReplay as SnapshotReplay
    from torchprof.allocator.snapshot import replay_snapshot as replay_snapshot
    from torchprof.analysis.memory.categories import CATEGORIES as CATEGORIES
    from torchprof.benchmarking.benchmark import benchmark as benchmark
    from torchprof.benchmarking.benchmarked import Benchmark as Benchmark
    from torchprof.comparison.diff import diff as diff
    from torchprof.comparison.difference import Diff as Diff
    from torchprof.errors import ArgumentError as ArgumentError
    from torchprof.errors import EstimateError as EstimateError
    from torchprof.errors import ExtensionError as ExtensionError
    from torchprof.errors import MissingPackageError as MissingPackageError
    from torchprof.errors import ModuleTypeError as ModuleTypeError
    from torchprof.errors import RecordingError as RecordingError
    from torchprof.errors import TorchprofError as TorchprofError
    from torchprof.errors import TraceFileError as TraceFileError
    from torchprof.errors import UnsupportedTorchError as UnsupportedTorchError
    from torchprof.estimation.bounds.bound import Bound as Bound
    from torchprof.estimation.bounds.links import LINKS as LINKS
    from torchprof.estimation.estimate import estimate as estimate
    from torchprof.estimation.estimated import Estimate as Estimate
    from torchprof.estimation.planner.configuration import Configuration as Configuration
    from torchprof.estimation.planner.plan import plan as plan
    from torchprof.estimation.planner.planned import Plan as Plan
    from torchprof.estimation.planning import compare as compare
    from torchprof.estimation.planning import max_batch_size as max_batch_size
    from torchprof.exporters.chrome import export_chrome as export_chrome
    from torchprof.exporters.flame_graphs import export_folded as export_folded
    from torchprof.exporters.flame_graphs import export_speedscope as export_speedscope
    from torchprof.gathering.gather import gather as gather
    from torchprof.importers.load import load as load
    from torchprof.ranges.emit_ranges import emit_ranges as emit_ranges
    from torchprof.record.ceilings import ceilings as ceilings
    from torchprof.record.data import data as data
    from torchprof.record.profile import profile as profile
    from torchprof.record.schedule import Schedule as Schedule
    from torchprof.record.schedule import schedule as schedule
    from torchprof.reporting.report import report as report
    from torchprof.reporting.step_figures import figures as figures
    from torchprof.summarize import summary as summary
    from torchprof.tables.annotate import annotate as annotate
    from torchprof.tables.bubbles import bubbles as bubbles
    from torchprof.tables.by_collective import by_collective as by_collective
    from torchprof.tables.by_kernel import by_kernel as by_kernel
    from torchprof.tables.by_line import by_function as by_function
    from torchprof.tables.by_line import by_line as by_line
    from torchprof.tables.by_module import by_module as by_module
    from torchprof.tables.by_op import by_op as by_op
    from torchprof.tables.by_rank import by_rank as by_rank
    from torchprof.tables.by_step import by_step as by_step
    from torchprof.tables.checkpointing import checkpointing as checkpointing
    from torchprof.tables.clocks import clocks as clocks
    from torchprof.tables.gpu import Gpu as Gpu
    from torchprof.tables.gpu import gpu as gpu
    from torchprof.tables.imbalance import imbalance as imbalance
    from torchprof.tables.joined_memory import JoinedMemory as JoinedMemory
    from torchprof.tables.memory import Memory as Memory
    from torchprof.tables.memory_account import memory as memory
    from torchprof.tables.out_of_memory import OutOfMemory as OutOfMemory
    from torchprof.tables.out_of_memory import explain_oom as explain_oom
    from torchprof.tables.overlap import overlap as overlap
    from torchprof.tables.snapshot_memory import SnapshotMemory as SnapshotMemory
    from torchprof.tables.stragglers import Stragglers as Stragglers
    from torchprof.tables.stragglers import stragglers as stragglers
    from torchprof.tables.summary import Summary as Summary
    from torchprof.tables.table import Table as Table
    from torchprof.trace.ceilings import Ceilings as Ceilings
    from torchprof.trace.ranks import Ranks as Ranks
    from torchprof.trace.schema import Phase as Phase
    from torchprof.trace.trace import Trace as Trace
    from torchprof.watching.watch import watch as watch
    from torchprof.watching.window import Window as Window

_MODULES: Final = {
    "Benchmark": "torchprof.benchmarking.benchmarked",
    "Bound": "torchprof.estimation.bounds.bound",
    "CATEGORIES": "torchprof.analysis.memory.categories",
    "GPUS": "torchprof.allocator.gpus",
    "SNAPSHOT_CATEGORIES": "torchprof.allocator.block_categories",
    "AllocatorSettings": "torchprof.allocator.settings",
    "ArgumentError": "torchprof.errors",
    "Ceilings": "torchprof.trace.ceilings",
    "Configuration": "torchprof.estimation.planner.configuration",
    "Diff": "torchprof.comparison.difference",
    "Estimate": "torchprof.estimation.estimated",
    "EstimateError": "torchprof.errors",
    "ExtensionError": "torchprof.errors",
    "Finding": "torchprof.advice.finding",
    "Findings": "torchprof.advice.findings",
    "Gpu": "torchprof.tables.gpu",
    "LINKS": "torchprof.estimation.bounds.links",
    "JoinedMemory": "torchprof.tables.joined_memory",
    "Memory": "torchprof.tables.memory",
    "MissingPackageError": "torchprof.errors",
    "ModuleTypeError": "torchprof.errors",
    "OutOfMemory": "torchprof.tables.out_of_memory",
    "Phase": "torchprof.trace.schema",
    "Plan": "torchprof.estimation.planner.planned",
    "Ranks": "torchprof.trace.ranks",
    "RecordingError": "torchprof.errors",
    "Replay": "torchprof.allocator.replay",
    "Schedule": "torchprof.record.schedule",
    "SnapshotMemory": "torchprof.tables.snapshot_memory",
    "SnapshotReplay": "torchprof.allocator.snapshot",
    "Stragglers": "torchprof.tables.stragglers",
    "Summary": "torchprof.tables.summary",
    "Table": "torchprof.tables.table",
    "TorchprofError": "torchprof.errors",
    "Trace": "torchprof.trace.trace",
    "TraceFileError": "torchprof.errors",
    "UnsupportedTorchError": "torchprof.errors",
    "Window": "torchprof.watching.window",
    "annotate": "torchprof.tables.annotate",
    "benchmark": "torchprof.benchmarking.benchmark",
    "bubbles": "torchprof.tables.bubbles",
    "by_collective": "torchprof.tables.by_collective",
    "by_function": "torchprof.tables.by_line",
    "by_kernel": "torchprof.tables.by_kernel",
    "by_line": "torchprof.tables.by_line",
    "by_module": "torchprof.tables.by_module",
    "by_op": "torchprof.tables.by_op",
    "by_rank": "torchprof.tables.by_rank",
    "by_step": "torchprof.tables.by_step",
    "ceilings": "torchprof.record.ceilings",
    "checkpointing": "torchprof.tables.checkpointing",
    "clocks": "torchprof.tables.clocks",
    "compare": "torchprof.estimation.planning",
    "data": "torchprof.record.data",
    "diff": "torchprof.comparison.diff",
    "emit_ranges": "torchprof.ranges.emit_ranges",
    "estimate": "torchprof.estimation.estimate",
    "explain_oom": "torchprof.tables.out_of_memory",
    "export_chrome": "torchprof.exporters.chrome",
    "export_folded": "torchprof.exporters.flame_graphs",
    "export_speedscope": "torchprof.exporters.flame_graphs",
    "figures": "torchprof.reporting.step_figures",
    "findings": "torchprof.advice.findings",
    "gather": "torchprof.gathering.gather",
    "gpu": "torchprof.tables.gpu",
    "handlers": "torchprof",
    "imbalance": "torchprof.tables.imbalance",
    "load": "torchprof.importers.load",
    "max_batch_size": "torchprof.estimation.planning",
    "memory": "torchprof.tables.memory_account",
    "overlap": "torchprof.tables.overlap",
    "plan": "torchprof.estimation.planner.plan",
    "profile": "torchprof.record.profile",
    "replay": "torchprof.allocator.replay",
    "replay_snapshot": "torchprof.allocator.snapshot",
    "report": "torchprof.reporting.report",
    "schedule": "torchprof.record.schedule",
    "stragglers": "torchprof.tables.stragglers",
    "summary": "torchprof.summarize",
    "watch": "torchprof.watching.watch",
}
"""The public names and the module of each, imported on first use: reading a trace imports no PyTorch. One of this package is a
module itself."""


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return _all()
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = _MODULES[name]
        is_module = module == __name__
        found = importlib.import_module(f"{module}.{name}") if is_module else getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        from torchprof._native import torch_is_missing

        raise torch_is_missing(f"torchprof.{name}") from error
    globals()[name] = found
    return found


def _all() -> list[str]:
    """What ``from torchprof import *`` gives: without PyTorch, the names that work without it."""
    if importlib.util.find_spec("torch") is not None:
        return list(_MODULES)
    from torchprof.errors import ExtensionError

    names = []
    for name in _MODULES:
        try:
            __getattr__(name)
        except ExtensionError:
            continue
        names.append(name)
    return names


def __dir__() -> list[str]:
    return sorted(_MODULES.keys() | {name for name in globals() if name.startswith("__") and name.endswith("__")})
