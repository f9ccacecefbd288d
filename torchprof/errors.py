"""The exceptions that torchprof raises. Every message names the argument, its value and the way out."""

from torchprof.terminal import printable


class TorchprofError(Exception):
    """The base class of the errors of torchprof. A message is one line: what is not printable in it is escaped."""

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


class ArgumentError(TorchprofError, ValueError):
    """An argument has a value that is not accepted: the message says which argument, its value, and what is accepted."""


class ModuleTypeError(TorchprofError, TypeError):
    """An argument has a type that torchprof cannot work with."""


class RecordingError(TorchprofError, RuntimeError):
    """A recording cannot start or stop, such as where another one is running; or there is no recording to read or mark."""


class EstimateError(TorchprofError, RuntimeError):
    """A program cannot run on fake tensors: the message names the op, the module and the way out."""


class TraceFileError(TorchprofError, ValueError):
    """A file is not a trace, is damaged, or has the format of another version of torchprof."""


class UnsupportedTorchError(TorchprofError, RuntimeError):
    """This PyTorch lacks a private name that a feature needs: the message says which name and which feature."""


class ExtensionError(TorchprofError, ImportError):
    """PyTorch or the compiled recorder is missing, or the recorder was built for another PyTorch."""


class MissingPackageError(TorchprofError, ImportError):
    """A package that only this function needs is not installed: the message says which, and how to install it."""
