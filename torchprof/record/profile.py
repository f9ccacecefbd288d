"""Recording: what starts and stops the compiled recorder.

with torchprof.profile(model) as prof:
    for batch in batches:
        train_step(batch)
        prof.step()
prof.trace
"""

from __future__ import annotations

import inspect
import sys
import time
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ContextDecorator
from typing import Any, Literal

import torch
from torch import nn

from torchprof import _native
from torchprof._native import require_extension
from torchprof.errors import ArgumentError, ModuleTypeError, RecordingError
from torchprof.record import flops
from torchprof.record.gpu_backends import INTERRUPTED, GpuBackend, check_backend, gpu_backends, may_wait
from torchprof.record.modules import Models, describe, has_no_shape, tensors_of, walk
from torchprof.record.schedule import Schedule, State
from torchprof.terminal import is_terminal
from torchprof.trace.schema import Use
from torchprof.trace.trace import Trace
from torchprof.trace.types import DeviceTypes, Dtype, Dtypes

__all__ = ["profile"]

DEFAULT_BUDGET = 2**30
FIRST_STEPS = 3
"""After these, classes are no longer looked for that were created meanwhile: the walk takes a third of a millisecond."""


class profile(ContextDecorator):
    """Record every op, module call and allocation that happens inside, on every thread.

    Args:
        model: the module whose names the trace should know, or several: a list, or a dict by name. Calls of other modules
            are recorded as well.
        ops: record the ops of the dispatcher; without them, module calls and memory only.
        shapes: record the shape, dtype, device and storage of every op's inputs and outputs.
        memory: record every allocation of this thread and of the autograd threads that work for it.
        modules: record the calls of ``nn.Module``s.
        gpu: how to watch GPUs: ``"cupti"`` records every kernel, copy and fill of NVIDIA's with the device's times, tied to the
            op, module, phase and step that asked for it; ``"events"``, on GPUs of any kind, the time on the device between two
            events, one before and one after each outermost op, or with ``ops=False`` around module calls; ``"auto"`` does the
            first that is possible where a GPU is in use when the recording begins, and else carries on without; ``"off"`` does
            not. ``trace.facts["gpu"]`` and ``["gpu_note"]`` say what was done. The recording waits for the GPU at its end,
            with ``aggregate=True`` after every step, and with events at its beginning.
        schedule: which steps to record: see `torchprof.schedule`. By default all.
        aggregate: fold every finished step into sums, so that a run of any length takes constant memory: the tables by
            module, op and step stay, the rows of single ops, calls and allocations do not. Needs ``step()``.
        budget: bytes the recording may take; the trace made of it is about as large. What does not fit is counted in
            ``trace.losses``, not stored.
        on_trace_ready: called with this object whenever a cycle of the schedule has ended; ``trace`` is that cycle's.
        progress: keep a line on standard error that says how far the recording is; by default where that is a terminal
            and the recording takes longer than two seconds.

    Attributes:
        trace: the latest `Trace`, once the block, or a cycle of the schedule, has ended; also when it ended with an
            exception.
        traces: those of all cycles.

    Raises:
        RecordingError: a recording is running already, or ``memory=True`` while another profiler, such as
            torch.profiler, is active on this thread; or ``gpu="cupti"`` or ``"events"`` is not possible.
        ModuleTypeError, ArgumentError: an argument has the wrong type or value.
        ExtensionError: the compiled recorder is missing or was built for another PyTorch.

    Example:
        >>> with torchprof.profile(model, schedule=torchprof.schedule(wait=1, warmup=1, active=3)) as prof:
        ...     for batch in batches:
        ...         train_step(batch)
        ...         prof.step()
        >>> print(torchprof.by_module(prof.trace))
    """

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module] | None = None,
        *,
        ops: bool = True,
        shapes: bool = True,
        memory: bool = True,
        modules: bool = True,
        gpu: str = "auto",
        schedule: Schedule | None = None,
        aggregate: bool = False,
        budget: int = DEFAULT_BUDGET,
        on_trace_ready: Callable[[profile], object] | None = None,
        progress: bool | None = None,
    ) -> None:
        if not isinstance(budget, int) or isinstance(budget, bool) or budget < 2**20:
            raise ArgumentError(f"budget must be a number of bytes, at least {2**20:,} (1 MiB), not {budget!r}")
        if schedule is not None and not isinstance(schedule, Schedule):
            raise ArgumentError(
                f"schedule must be made by torchprof.schedule(wait=1, warmup=1, active=3) or None, not {schedule!r:.80}"
            )
        self._models = _models(model)
        self._gpu = check_backend(gpu)
        self._way = GpuBackend("off", "")
        self._ops, self._shapes, self._memory, self._modules, self._budget = ops, shapes, memory, modules, budget
        self._schedule = schedule if schedule is not None else Schedule.always()
        self._aggregate = aggregate
        self._on_trace_ready = on_trace_ready
        self._progress = _Progress(progress)
        self._recording = False
        self._inside = False
        self._number = 0
        self.traces: list[Trace] = []

    def __call__(self, function: Any) -> Any:
        """Record every call of a function.

        Raises:
            ModuleTypeError: it is a generator or a coroutine, whose body runs when its call is long over.
        """
        if (
            inspect.isgeneratorfunction(function)
            or inspect.iscoroutinefunction(function)
            or inspect.isasyncgenfunction(function)
        ):
            raise ModuleTypeError(
                f"{function.__qualname__} is a generator or a coroutine, of which nothing runs while it is called: use "
                "`with torchprof.profile(...)` inside it"
            )
        return super().__call__(function)

    @property
    def trace(self) -> Trace:
        if self.traces:
            return self.traces[-1]
        if not self._inside and self._number and not self._recording:
            raise RecordingError(
                f"nothing was recorded: {self._number} calls of step() did not reach an active step of {self._schedule}"
            )
        state = "it is still running" if self._inside else "it has not run"
        raise RecordingError(f"the recording has no trace yet: {state}; read .trace after the `with` block")

    def mark(self, name: str) -> None:
        """Name this moment in the trace; see `Trace.mark`. Does nothing in a step that is not recorded.

        Raises:
            RecordingError: outside the ``with`` block.
        """
        if not self._inside:
            raise RecordingError(f"mark({name!r}) was called outside the recording: call it inside the `with` block")
        if self._recording:
            _native.mark(name)

    def watch(self, model: nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module]) -> None:
        """Name the model, or models, where they are built inside the block: as the argument of `profile`.

        Raises:
            ModuleTypeError: it is none.
        """
        self._models = _models(model)

    def step(self) -> None:
        """Say that a step of the loop has ended and the next one begins. Call it at the end of the loop's body.

        Raises:
            RecordingError: outside the ``with`` block.
        """
        if not self._inside:
            raise RecordingError("step() was called outside the recording: call it inside the `with` block, after each step")
        if self._recording:
            _native.end_step(may_wait(self._way))
        ended = self._schedule.state(self._number)
        self._number += 1
        coming = self._schedule.state(self._number)
        if self._recording and (coming is State.OFF or (ended is State.ACTIVE and coming is State.WARMUP)):
            self._stop()
            if self._on_trace_ready is not None:
                self._on_trace_ready(self)
        if coming is not State.OFF:
            if not self._recording:
                self._start()
            if self._number <= FIRST_STEPS:
                _native.observe_new_classes()
            _native.begin_step(self._number, coming is State.WARMUP)
        self._progress.show(self._number, coming, _native.bytes() if self._recording else 0, self._budget)

    def __enter__(self) -> profile:
        require_extension()
        self.traces = []
        self._number = 0
        state = self._schedule.state(0)
        if state is not State.OFF:
            self._start()
            _native.begin_step(0, state is State.WARMUP)
        self._inside = True
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> Literal[False]:
        if self._recording:
            self._stop()
            if self._on_trace_ready is not None and kind is None:
                self._on_trace_ready(self)
        self._inside = False
        self._progress.clear()
        return False

    def _start(self) -> None:
        reads_tensors = self._ops and self._shapes
        ways = gpu_backends(self._gpu)
        refusal = ""
        for way in ways:
            try:
                _native.start(
                    ops=self._ops,
                    shapes=self._shapes,
                    memory=self._memory,
                    budget_bytes=self._budget,
                    module_class=nn.Module if self._modules else None,
                    ops_with_arguments=flops.ops_with_arguments() if reads_tensors else set(),
                    counted_ops=flops.counted_ops(),
                    aggregate=self._aggregate,
                    gpu=way.name,
                    device_type=way.device_type,
                    held=self._held_by_model(at_end=False),
                )
                break
            except _native.DeviceRecorderError as error:
                if way is ways[-1]:
                    raise RecordingError(f"gpu={self._gpu!r} is not possible: {error}") from None
                refusal += f"; {way.name} refused: {error}"
            except RuntimeError as error:
                raise RecordingError(str(error)) from None
        self._way = GpuBackend(way.name, way.note + refusal)
        self._recording = True

    def _stop(self) -> None:
        held: list[Held] = []
        try:
            held = self._held_by_model(at_end=True)
        finally:  # whatever a model has to say: the recording ends
            try:
                tables, strings, facts = _native.stop(held, may_wait(self._way))
            except RuntimeError as stop_error:
                raise RecordingError(str(stop_error)) from None
            self._recording = False
        # The model is read now and not before: lazy modules have their parameters by the end.
        model = describe(self._models) if self._models is not None else None
        dtypes = Dtypes({number: Dtype(*known) for number, known in _native.dtypes().items()})
        counted = flops.evaluate(tables, strings, dtypes)
        self.traces.append(
            Trace(
                **tables,
                strings=strings,
                facts=self._facts(facts) | ({"flops_note": "; ".join(counted.problems)} if counted.problems else {}),
                model=model,
                dtypes=dtypes,
                device_types=DeviceTypes(_native.device_types()),
                signature_flops=counted.of_signatures,
            )
        )
        for problem in counted.problems:
            warnings.warn(problem, RuntimeWarning, stacklevel=3)

    def _held_by_model(self, *, at_end: bool) -> list[Held]:
        if self._models is None or not (self._ops and self._shapes):
            return []
        return held_by(self._models, at_end=at_end)

    def _facts(self, facts: dict[str, Any]) -> dict[str, Any]:
        note = self._way.note + (INTERRUPTED if facts.pop("gpu_interrupted") else "")
        if failure := facts.pop("gpu_failure"):
            note += f"; INCOMPLETE, it failed: {failure}"
        return {
            **facts,
            "torch": str(torch.__version__),
            "python": sys.version.split()[0],
            "ops": self._ops,
            "shapes": self._shapes,
            "memory": self._memory,
            "modules": self._modules,
            "gpu": self._way.name,
            "gpu_note": note,
            "aggregate": self._aggregate,
            "budget": self._budget,
        }


def _models(model: Any) -> Models | None:
    if model is None or isinstance(model, nn.Module):
        return model
    named = model if isinstance(model, Mapping) else dict(enumerate(model)) if isinstance(model, list | tuple) else {}
    if not named or not all(isinstance(each, nn.Module) for each in named.values()):
        raise ModuleTypeError(
            f"model must be a torch.nn.Module, a list or dict of them, or None, not {type(model).__name__}: {model!r:.80}"
        )
    return {str(name): each for name, each in named.items()}


Held = tuple[int, int, int, str, int, int, int, bool]


def held_by(models: Models, *, at_end: bool) -> list[Held]:
    """What the model holds now, as the recorder wants it: address, bytes, module, its class, use, device, when."""
    held: list[Held] = []
    seen: set[int] = set()

    def add(tensor: torch.Tensor | None, module: nn.Module, use: Use) -> None:
        if tensor is None or id(tensor) in seen or has_no_shape(tensor):
            return
        seen.add(id(tensor))
        address, count, device_type, device_index = _native.storage(tensor)
        held.append((address, count, id(module), type(module).__name__, int(use), device_type, device_index, at_end))

    for place in walk(models):
        if place.same_as < 0:
            for parameter in tensors_of([place.module], "_parameters"):
                add(parameter, place.module, Use.PARAMETER)
                add(parameter.grad, place.module, Use.GRADIENT)
            for buffer in tensors_of([place.module], "_buffers"):
                add(buffer, place.module, Use.BUFFER)
    return held


class _Progress:
    """One line on standard error, rewritten in place."""

    def __init__(self, wanted: bool | None) -> None:
        self._wanted = wanted
        self._began = self._shown = 0.0

    def start(self) -> None:
        self._began = time.monotonic()
        self._shown = 0.0

    def show(self, step: int, state: State, held: int, budget: int) -> None:
        now = time.monotonic()
        patient = self._wanted is None and (now - self._began < 2 or not is_terminal(sys.stderr))
        if self._wanted is False or patient or now - self._shown < 0.5:
            return
        self._shown = now
        line = f"torchprof: step {step:,}, {state.value}, {held / 2**20:,.0f} of {budget / 2**20:,.0f} MiB"
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
