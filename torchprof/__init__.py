"""See a PyTorch model: its layers and shapes, where its time goes and what holds its memory.

import torchprof

torchprof.summary(model, input_size=(3, 224, 224), batch_size=4)

with torchprof.profile(model) as prof:
    model(x).sum().backward()
prof.trace.save("step.torchprof")
"""

import warnings

from torchprof.errors import (
    ArgumentError,
    ExtensionError,
    ModuleTypeError,
    RecordingError,
    TorchprofError,
    TraceFileError,
)
from torchprof.recorder import build_mismatch, profile
from torchprof.summarize import Summary, summary
from torchprof.trace import Trace, load

__all__ = [
    "ArgumentError",
    "ExtensionError",
    "ModuleTypeError",
    "RecordingError",
    "Summary",
    "TorchprofError",
    "Trace",
    "TraceFileError",
    "load",
    "profile",
    "summary",
]

__version__ = "0.1.0"

if _mismatch := build_mismatch():
    warnings.warn(f"{_mismatch} (saved traces can be analysed all the same)", RuntimeWarning, stacklevel=2)
del _mismatch
