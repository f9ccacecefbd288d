"""What torchprof raises. Every message names the argument, the value and the way out."""


class TorchprofError(Exception):
    """The base of every error of torchprof."""


class ArgumentError(TorchprofError, ValueError):
    """An argument cannot mean anything: the message says which, what it was, and what is accepted."""


class ModuleTypeError(TorchprofError, TypeError):
    """An argument is of a type that torchprof cannot work with."""


class RecordingError(TorchprofError, RuntimeError):
    """A recording cannot start or stop: one is running, or another profiler holds what it needs."""


class EstimateError(TorchprofError, RuntimeError):
    """A program cannot be run on fake tensors: the message names the op, the module and the way out."""


class TraceFileError(TorchprofError, ValueError):
    """A file is not a trace, is damaged, or was written by a newer torchprof."""


class UnsupportedTorchError(TorchprofError, RuntimeError):
    """This PyTorch lacks a private name that a feature needs: the message says which name and which feature."""


class ExtensionError(TorchprofError, ImportError):
    """The compiled recorder is missing or belongs to another PyTorch."""
