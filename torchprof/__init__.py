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

import warnings

from torchprof._native import build_mismatch
from torchprof._version import __version__
from torchprof.allocator.replay import Replay, replay
from torchprof.allocator.settings import AllocatorSettings
from torchprof.allocator.snapshot import SnapshotReplay, replay_snapshot
from torchprof.analysis.memory.categories import CATEGORIES
from torchprof.errors import (
    ArgumentError,
    EstimateError,
    ExtensionError,
    ModuleTypeError,
    RecordingError,
    TorchprofError,
    TraceFileError,
)
from torchprof.estimation.estimate import Estimate, estimate
from torchprof.estimation.gpus import GPUS
from torchprof.estimation.planning import compare, max_batch_size
from torchprof.record.ceilings import Ceilings, ceilings
from torchprof.record.profile import profile
from torchprof.record.schedule import Schedule, schedule
from torchprof.rendering.chrome import export_chrome
from torchprof.rendering.flame_graphs import export_folded, export_speedscope
from torchprof.summarize import Summary, summary
from torchprof.tables.gpu import Gpu, gpu
from torchprof.tables.memory import Memory, memory
from torchprof.tables.table import Table, by_kernel, by_module, by_op, by_step
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace, load

__all__ = [
    "CATEGORIES",
    "GPUS",
    "AllocatorSettings",
    "ArgumentError",
    "Ceilings",
    "Estimate",
    "EstimateError",
    "ExtensionError",
    "Gpu",
    "Memory",
    "ModuleTypeError",
    "Phase",
    "RecordingError",
    "Replay",
    "Schedule",
    "SnapshotReplay",
    "Summary",
    "Table",
    "TorchprofError",
    "Trace",
    "TraceFileError",
    "__version__",
    "by_kernel",
    "by_module",
    "by_op",
    "by_step",
    "ceilings",
    "compare",
    "estimate",
    "export_chrome",
    "export_folded",
    "export_speedscope",
    "gpu",
    "load",
    "max_batch_size",
    "memory",
    "profile",
    "replay",
    "replay_snapshot",
    "schedule",
    "summary",
]

if _mismatch := build_mismatch():
    warnings.warn(f"{_mismatch} (saved traces can be analysed all the same)", RuntimeWarning, stacklevel=2)
del _mismatch
