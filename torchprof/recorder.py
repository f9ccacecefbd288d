"""Recording: the only place that knows the compiled extension.

with torchprof.profile(model) as prof:
    model(x).sum().backward()
prof.trace
"""

from __future__ import annotations

import functools
import sys
import types
from contextlib import ContextDecorator
from typing import Any, Literal

import torch
from torch import nn

from torchprof.errors import ArgumentError, ExtensionError, ModuleTypeError, RecordingError
from torchprof.modules import describe
from torchprof.trace import Trace

__all__ = ["profile"]

DEFAULT_BUDGET = 2**30
REBUILD = "run `pip install --no-build-isolation --force-reinstall --no-deps .` in torchprof's source tree"


@functools.cache
def require_extension() -> None:
    """Check the compiled recorder, which is imported on first use so that traces can be analysed without it.

    Raises:
        ExtensionError: it was not built, or was built for another PyTorch.
    """
    mismatch = build_mismatch()
    if mismatch:
        raise ExtensionError(mismatch)
    try:
        import torchprof._C  # noqa: F401
    except ImportError as error:
        raise ExtensionError(f"torchprof's compiled recorder cannot be loaded ({error}): {REBUILD}") from error


def build_mismatch() -> str:
    """What is wrong with the compiled recorder under this PyTorch; empty when nothing is.

    Told apart by a file written at build time: loading an extension into another libtorch than its own can crash.
    """
    try:
        from torchprof._built_for import TORCH_VERSION as built_for
    except ImportError:
        return f"torchprof's compiled recorder is not built: {REBUILD}"
    running = str(torch.__version__)
    if built_for.partition("+")[0] == running.partition("+")[0]:
        return ""
    return f"torchprof was built for torch {built_for}, but torch {running} is running: {REBUILD}"


class profile(ContextDecorator):
    """Record every op, module call and allocation that happens inside, on every thread.

    Args:
        model: the module whose names the trace should know. Calls of other modules are recorded as well.
        ops: record the ops of the dispatcher; without them, module calls and memory only.
        shapes: record the shape, dtype, device and storage of every op's inputs and outputs.
        memory: record every allocation and free of this thread and of the autograd threads that work for it.
        modules: record the calls of ``nn.Module``s.
        budget: bytes the recording may take. What does not fit is counted in ``trace.losses``, not stored.

    Attributes:
        trace: the `Trace`, once the block has ended; also when it ended with an exception.

    Raises:
        RecordingError: a recording is running already, or ``memory=True`` while another profiler, such as
            torch.profiler, is active on this thread.
        ModuleTypeError, ArgumentError: an argument has the wrong type or value.
        ExtensionError: the compiled recorder is missing or was built for another PyTorch.

    Example:
        >>> with torchprof.profile(model) as prof:
        ...     model(x).sum().backward()
        >>> prof.trace
        <Trace: 41 ops, 4 module calls, 22 allocations and frees, 0.9 ms, 0.0 MiB>
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        ops: bool = True,
        shapes: bool = True,
        memory: bool = True,
        modules: bool = True,
        budget: int = DEFAULT_BUDGET,
    ) -> None:
        if model is not None and not isinstance(model, nn.Module):
            raise ModuleTypeError(f"model must be a torch.nn.Module or None, not {type(model).__name__}: {model!r:.80}")
        if not isinstance(budget, int) or isinstance(budget, bool) or budget < 2**20:
            raise ArgumentError(f"budget must be a number of bytes, at least {2**20:,} (1 MiB), not {budget!r}")
        self._model = model
        self._ops, self._shapes, self._memory, self._modules, self._budget = ops, shapes, memory, modules, budget
        self._trace: Trace | None = None
        self._recording = False

    @property
    def trace(self) -> Trace:
        if self._trace is None:
            state = "it is still running" if self._recording else "it has not run"
            raise RecordingError(f"the recording has no trace yet: {state}; read .trace after the `with` block")
        return self._trace

    def mark(self, name: str) -> None:
        """Name this moment in the trace; see `Trace.mark`."""
        from torchprof import _C

        _C.mark(name)

    def __enter__(self) -> profile:
        require_extension()
        from torchprof import _C

        try:
            _C.start(
                ops=self._ops,
                shapes=self._shapes,
                memory=self._memory,
                budget_bytes=self._budget,
                module_class=nn.Module if self._modules else None,
                ops_with_arguments=set(),
            )
        except RuntimeError as error:
            raise RecordingError(str(error)) from None
        self._recording = True
        self._trace = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> Literal[False]:
        from torchprof import _C

        self._recording = False
        try:
            tables, strings, facts = _C.stop()
        except RuntimeError as stop_error:
            raise RecordingError(str(stop_error)) from None
        # The model is read now and not before: lazy modules have their parameters by the end.
        model = describe(self._model) if self._model is not None else None
        self._trace = Trace(**tables, strings=strings, facts=self._facts(facts), model=model)
        return False

    def _facts(self, facts: dict[str, Any]) -> dict[str, Any]:
        return {
            **facts,
            "torch": str(torch.__version__),
            "python": sys.version.split()[0],
            "ops": self._ops,
            "shapes": self._shapes,
            "memory": self._memory,
            "modules": self._modules,
            "budget": self._budget,
        }
