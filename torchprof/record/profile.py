"""`torchprof.profile`: records what happens inside a ``with`` block, and which steps of a loop.

with torchprof.profile(model) as prof:
    for batch in batches:
        train_step(batch)
        prof.step()
prof.trace
"""

from __future__ import annotations

import inspect
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ContextDecorator
from functools import partial
from typing import Any, Final, Literal

from torch import nn

from torchprof import _native
from torchprof._native import require_extension
from torchprof.arguments import check_flag, is_int
from torchprof.errors import ArgumentError, ModuleTypeError, RecordingError
from torchprof.record.gpu_backends import check_backend
from torchprof.record.modules import check_models
from torchprof.record.progress import Progress
from torchprof.record.ready import check_ready
from torchprof.record.recorder import Options, Recorder
from torchprof.record.schedule import Schedule, State
from torchprof.record.whole import whole
from torchprof.sizes import bytes_of
from torchprof.trace.trace import Trace
from torchprof.wording import counted, shown

__all__ = ["profile"]

DEFAULT_BUDGET: Final = 2**30
LEAST_BUDGET: Final = 2**20
MOST_BUDGET: Final = 2**62


class profile(ContextDecorator):
    """Record every op, module call and allocation inside a ``with`` block, on every thread.

    Args:
        model: the module whose paths the trace should know, or several: a list, or a dict by name. Calls of other modules are
            recorded too.
        ops: record the ops of the dispatcher. Without them, module calls and memory only.
        shapes: record the shape, dtype, device and storage of the tensors that every op takes and returns.
        memory: record every allocation and free: of the CPU on all threads; of other devices on this thread, and on the
            autograd threads that run its backward passes.
        modules: record the calls of ``nn.Module``s.
        stacks: record the stack of Python in which every op and module call begins and every block is allocated: the innermost
            1,024 functions. What threads that run no Python do has none, nor has what other processes do, such as workers of a
            ``DataLoader``. Ops inside compiled code have the line of the function that was compiled, or of the code made of it.
            Where the frames of this Python are not known, ``trace.facts["stacks"]`` is ``"api"``: ops inside others have the
            stack of these, and blocks outside of ops have none.
        gpu: how to record GPUs:

            - ``"cupti"``: every kernel, copy and memset of NVIDIA GPUs, with times of the device, attributed to the op, module,
              phase and step that launched it.
            - ``"events"``, on GPUs of any vendor: the time on the device between two events, one before and one after each
              outermost op, or with ``ops=False`` each module call.
            - ``"auto"``: the first of these that is possible, if a GPU is in use when the recording begins.
            - ``"off"``: no GPUs.

            ``trace.facts["gpu"]`` and ``trace.facts["gpu_note"]`` say which it was. The recording waits for the GPU at its
            end; with ``aggregate=True`` after every step; with events also at its beginning.
        schedule: which steps to record: see `torchprof.schedule`. By default all.
        aggregate: add every finished step to sums, so that a run of any length takes constant memory, but for 104 bytes per
            step. The tables by module, op and step remain; rows of single ops, module calls and allocations do not. Where a
            module runs an op with many shapes, the first 16 have sums of their own, fewer if the budget is small; the others
            are merged into "other shapes", whose FLOPs and bytes are exact. Likewise the first 64 stacks of an op in a module;
            how many ops had others is ``trace.losses["stacks"]``. Modules that are made, called and dropped, and have not been
            called for 256 steps, are one ``<other Class>`` in the module that called them; user ranges with further names than
            the first 1,024 are "other ranges". Needs ``step()``.
        budget: bytes that the recording may take, or memory such as ``"4 GiB"``: for rows, names, shapes, stacks, marks, and
            some 80 kB for each thread; with ``aggregate`` half as many again for the sums. What does not fit is counted in
            ``trace.losses`` and not stored, and so is what the process has no memory for. The trace is about as large. The
            description of the model is not counted.
        on_trace_ready: called with this object at the end of every cycle of the schedule, while nothing is recorded; ``trace``
            is that of the cycle. What it raises comes out of ``step()``, and the next cycle is recorded all the same. It is
            also called where an exception ends the block, with what was recorded up to there: then what it raises is a warning.
        progress: whether to show the progress in a line on standard error. By default if that is a terminal and the recording
            takes longer than two seconds.

    Attributes:
        trace: the latest `Trace`, after the block or after a cycle of the schedule; also where the block raised an exception,
            whose class is ``trace.facts["ended_by"]`` then; and where an interrupt (Ctrl-C) came while the recording ended.
        traces: the traces of all cycles, the last of which may have fewer steps. Where cycles go on for ever,
            ``on_trace_ready`` may clear the list.

    Raises:
        RecordingError: a recording is running already; or ``gpu="cupti"`` or ``gpu="events"`` is not possible.
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
        stacks: bool = True,
        gpu: str = "auto",
        schedule: Schedule | None = None,
        aggregate: bool = False,
        budget: int | str = DEFAULT_BUDGET,
        on_trace_ready: Callable[[profile], object] | None = None,
        progress: bool | None = None,
    ) -> None:
        most = bytes_of(budget, plain=None) if isinstance(budget, str) else budget
        if most is None or not is_int(most, LEAST_BUDGET, MOST_BUDGET):
            raise ArgumentError(
                f"budget must be a number of bytes from {LEAST_BUDGET:,} (1 MiB) to 2**62, or memory with its unit such as "
                f"'4 GiB', not {shown(budget)}"
            )
        if schedule is not None and not isinstance(schedule, Schedule):
            raise ArgumentError(
                f"schedule must be made by torchprof.schedule(wait=1, warmup=1, active=3) or None, not {schedule!r:.80}"
            )
        if on_trace_ready is not None and not callable(on_trace_ready):
            raise ArgumentError(f"on_trace_ready must be a function of one argument or None, not {on_trace_ready!r:.80}")
        require_extension()
        check_ready(on_trace_ready, aggregate)
        flags = {"ops": ops, "shapes": shapes, "memory": memory, "modules": modules, "aggregate": aggregate, "stacks": stacks}
        checked = {name: check_flag(name, flag) for name, flag in flags.items()}
        options = Options(**checked, gpu=check_backend(gpu), budget=most)
        self._recorder = Recorder(options, check_models(model))
        self._budget = most
        self._schedule = schedule if schedule is not None else Schedule.always()
        self._on_trace_ready = on_trace_ready
        self._progress = Progress(progress)
        self._number = 0
        self._began = 0
        self._ended_by = ""
        self._made: Trace | None = None
        self._ready: Trace | None = None
        self.traces: list[Trace] = []

    def __call__(self, function: Any) -> Any:
        """Record every call of a function.

        Raises:
            ModuleTypeError: it is not a function, or its body does not run while it is called: a generator or a coroutine.
        """
        if not callable(function):
            raise ModuleTypeError(
                f"torchprof.profile(...) decorates functions, not {type(function).__name__}: {function!r:.80}"
            )
        if (
            inspect.isgeneratorfunction(function)
            or inspect.iscoroutinefunction(function)
            or inspect.isasyncgenfunction(function)
        ):
            raise ModuleTypeError(
                f"{function.__qualname__} is a generator or a coroutine function, whose body does not run while it is called: "
                "use `with torchprof.profile(...)` inside it"
            )
        return super().__call__(function)

    @property
    def _block(self) -> _native.Block:
        return self._recorder.block

    @property
    def trace(self) -> Trace:
        if self._recorder.has_stopped:  # interrupts broke off the end again and again
            self._finish()
        if self.traces:
            return self.traces[-1]
        if self._block.is_of_parent:
            raise RecordingError(
                "this process was forked inside the recording, which is that of its parent: it has no trace here"
            )
        if not self._block.is_inside and 0 < self._number < self._schedule.wait:
            raise RecordingError(
                f"nothing was recorded: {counted(self._number, 'call')} of step() did not reach an active step of "
                f"{self._schedule}"
            )
        before = "it has not run, or was interrupted when it began, or again and again when it ended"
        state = "it is still running" if self._block.is_inside else before
        raise RecordingError(f"the recording has no trace yet: {state}; read .trace after the `with` block")

    def _count_flops(self, *, outputs: bool) -> None:
        """Record the ops that a count of FLOPs needs, which costs less than ``ops=True``: for the summary."""
        self._recorder.counted_ops = "outputs" if outputs else "inputs"

    def _tell_of_calls(self, told: Callable[[nn.Module, bool], None]) -> None:
        """Call this around the calls of modules that are inside no other, as `Recorder.on_outermost_call`: for `watch`."""
        self._recorder.on_outermost_call = told

    @property
    def is_recording(self) -> bool:
        """Whether anything is recorded now: in steps that the schedule says, and in no fork of the process."""
        return self._recorder.is_recording

    def mark(self, name: str) -> None:
        """Name this moment in the trace: see `Trace.mark`. Does nothing in a step that is not recorded.

        Raises:
            RecordingError: outside the ``with`` block.
            ArgumentError: the name is not a str.
        """
        if not isinstance(name, str):
            raise ArgumentError(f"mark(name) takes a str, not {name!r:.80}")
        if self._block.is_of_parent:
            return
        if not self._block.is_inside:
            raise RecordingError(f"mark({name!r}) was called outside the recording: call it inside the `with` block")
        if self._recorder.is_recording:
            _native.mark(name)

    def watch(self, model: nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module]) -> None:
        """Set the model, or models, where they are built inside the block: as the argument ``model`` of `profile`.

        Raises:
            ModuleTypeError: it is not a module, nor a list or dict of modules.
        """
        self._recorder.models = check_models(model)

    def step(self) -> None:
        """A step of the loop has ended and the next one begins. Call it at the end of the body of the loop.

        Raises:
            RecordingError: outside the ``with`` block.
        """
        if self._block.is_of_parent:
            return  # a fork inside the recording is not recorded
        if not self._block.is_inside:
            raise RecordingError("step() was called outside the recording: call it inside the `with` block, after each step")
        self._block.finish(partial(self._pass_to, self._number + 1))
        self._progress.show(self._number, self._schedule.state(self._number), self._recorder.bytes, self._budget)

    def end_step(self) -> None:
        """The step has ended, and what follows is of no step until `step` is called, which begins the next one: an evaluation,
        or the writing of a checkpoint, that is not to count as training. Where this was the last step of a cycle of the
        schedule, the recording ends here.

        Raises:
            RecordingError: outside the ``with`` block.

        Example:
            >>> with torchprof.profile(model) as prof:
            ...     for number, batch in enumerate(batches):
            ...         train_step(batch)
            ...         if number % 4 == 3:
            ...             prof.end_step()
            ...             model(batch)  # an evaluation
            ...         prof.step()
        """
        if self._block.is_of_parent:
            return
        if not self._block.is_inside:
            raise RecordingError("end_step() was called outside the recording: call it inside the `with` block")
        self._block.finish(self._end_early)

    @whole
    def __enter__(self) -> profile:
        if self._block.is_inside:
            raise RecordingError("this recording is running already: one `with` block at a time")
        self._recorder.forget()
        self._made = self._ready = None
        self.traces = []
        self._number, self._ended_by = 0, ""
        self._begin()
        self._progress.start()
        return self

    @whole
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> Literal[False]:
        self._ended_by = kind.__name__ if kind is not None else ""
        try:
            self._finish()
            self._deliver(stacklevel=3)
        finally:
            self._progress.clear()
        return False

    # An interrupt may break these off anywhere. They are called again then, and go on.

    def _pass_to(self, number: int) -> None:
        """End the running step, and the cycle if it was the last of one; begin the step with this number."""
        if self._number < number:
            if self._recorder.is_recording:
                self._recorder.end_step()
            self._number = number
        if self._recorder.has_stopped or self._schedule.cycle(self._began) != self._schedule.cycle(number):
            self._finish()
        self._deliver(stacklevel=4)
        self._begin()

    def _end_early(self) -> None:
        """End the running step, and the cycle if it was the last of one."""
        if self._recorder.is_recording:
            self._recorder.end_step(is_between=True)
        if self._recorder.has_stopped or self._schedule.cycle(self._began) != self._schedule.cycle(self._number + 1):
            self._finish()
        self._deliver(stacklevel=4)

    def _begin(self) -> None:
        """Begin the step with the number ``self._number``."""
        state = self._schedule.state(self._number)
        if state is not State.OFF:
            if not self._recorder.is_recording:
                self._began = self._number
                self._recorder.start()
            self._recorder.begin_step(self._number, warmup=state is State.WARMUP)

    def _finish(self) -> None:
        """End the recording, if there is one, and keep its trace."""
        if self._made is None:
            if not (self._recorder.is_recording or self._recorder.has_stopped):
                return
            made = self._recorder.stop()
            if self._ended_by:
                made.facts["ended_by"] = self._ended_by
            self._made = made
        made = self._made
        if self._is_worth_keeping(made):
            self._ready = made
            if not (self.traces and self.traces[-1] is made):
                self.traces.append(made)
        self._recorder.forget()
        self._made = None

    def _deliver(self, stacklevel: int) -> None:
        """Call ``on_trace_ready`` once for the latest trace."""
        ready, self._ready = self._ready, None
        if ready is None:
            return
        if self._on_trace_ready is not None:
            try:
                self._on_trace_ready(self)
            except Exception as failure:
                if not self._ended_by:
                    raise
                said = f"on_trace_ready raised {type(failure).__name__}: {failure}"
                warnings.warn(said, RuntimeWarning, stacklevel=stacklevel)
        if "flops_note" in ready.facts:
            warnings.warn(ready.facts["flops_note"], RuntimeWarning, stacklevel=stacklevel)

    def _is_worth_keeping(self, trace: Trace) -> bool:
        """Whether the block did not end just after a cycle did."""
        if not self._schedule.cycle(self._began) or (trace.steps["warmup"] == 0).any():
            return True
        ran = len(trace.ops) or len(trace.module_calls) or (trace.allocations["start"] >= 0).any()
        return "ended_by" in trace.facts and bool(ran)
