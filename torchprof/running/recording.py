"""The recording of a program that does not know of it.

import of torch ──► a first call of a model ──► step 0, 1, ... ──► the last step, or the end of the program
recorded, for programs that call none   └─ what came before is let go: the recording begins here, with the model and its GPU
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any, Final, Literal

from torch import nn

from torchprof._native import require_extension
from torchprof.errors import RecordingError
from torchprof.record.background import set_background
from torchprof.record.recorder import Options, Recorder
from torchprof.running.beyond import not_recorded
from torchprof.running.evaluation import Evaluations
from torchprof.running.found_models import FoundModels
from torchprof.running.found_steps import LOADER_RANGE, OptimizerSteps, Ranges
from torchprof.running.keep import keep
from torchprof.running.options import WARMUP_OF, RunOptions
from torchprof.running.rank import file_of
from torchprof.running.spawned import Spawned
from torchprof.trace.rank import Rank, rank_of
from torchprof.trace.trace import Trace

__all__ = ["Outcome", "Recording"]

SPARE: Final = 20 * 2**20
"""Bytes of the budget, or half of it, that must be left for another step to begin: tables grow by up to 2 MiB at once."""
OWN_RECORDING: Final = "the program records itself with torchprof, which comes first"
NO_MODEL: Final = (
    "the program called no model and made no step, and what else a command runs is not recorded: to have all of it, give the "
    "script itself, as in torchprof run train.py"
)

State = Literal["setting up", "waiting", "recording", "over"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it.

    Attributes:
        file: absolute path of the file.
        is_written: whether it is there.
        steps: how many steps the program made. Those after the last recorded one are counted where optimizers tell them.
        steps_by: what a step is.
        models: how many were found.
        why: why nothing was written, or why it ended before its last step; empty where it did not.
        moved: why the file is not where it was to be; empty where it is.
        is_elsewhere: whether a model was called on another thread than the one that imported PyTorch, where steps are found.
        has_begun: whether a step began, or was counted.
    """

    file: str
    is_written: bool
    steps: int
    steps_by: str
    models: int
    why: str
    moved: str = ""
    is_elsewhere: bool = False
    has_begun: bool = True


def never_raises(method: Callable[..., None]) -> Callable[..., None]:
    """For what the program's own calls run: a failure ends the recording, not the program. An interrupt is the program's."""

    @wraps(method)
    def guarded(self: Recording, *args: Any) -> None:
        try:
            method(self, *args)
        except Exception as error:
            self.fail(error)

    guarded._torchdynamo_disable = True  # type: ignore[attr-defined]
    return guarded


class Recording:
    """Records the steps of this process from ``begin`` to ``end``.

    Attributes:
        rank: of this process; a process that the program spawned is told its own while it runs.
    """

    def __init__(self, options: RunOptions, file: str, rank: Rank | None, spawned: Spawned | None = None) -> None:
        self.rank = rank
        self._options = options
        self._file = file
        self._spawned = spawned
        self._process = os.getpid()
        self._thread = threading.get_ident()
        self._models = FoundModels()
        self._state: State = "setting up"
        self._steps_by = "" if options.steps_by == "auto" else options.steps_by
        self._stepping: weakref.ref[nn.Module] | None = None  # the model whose calls are steps
        self._number = -1  # of the running step
        self._is_step = False  # whether one runs
        self._recorder: Recorder | None = None
        self._began = 0.0
        self._taken = 0  # bytes, when the last step ended
        self._unsaved: Trace | None = None
        self._early = 0  # steps before it was known what a step is
        self._evaluations = Evaluations()
        self._why = ""
        self._is_written = False
        self._moved = ""
        self._is_elsewhere = False  # whether a model was called on another thread
        self._optimizers: OptimizerSteps | None = None
        self._ranges: Ranges | None = None

    def begin(self) -> None:
        """PyTorch has been imported.

        Raises:
            TorchprofError: it cannot be recorded.
        """
        require_extension()
        by = self._options.steps_by
        if by in ("auto", "optimizer"):
            self._optimizers = OptimizerSteps(self._stepped)
        elif by == "batches":
            self._ranges = Ranges(LOADER_RANGE, self._next, lambda: None)
        elif by.startswith("range:"):
            self._ranges = Ranges(by.removeprefix("range:"), self._next, self._end_step)
        if self._options.first == 0:
            self._start()
        else:
            self._wait()

    def end(self, ended_by: str) -> None:
        """The program ends."""
        self._finish(ended_by)
        self._listen_no_more()

    def outcome(self) -> Outcome:
        """What has come of it by now."""
        steps = self._number + (not self._is_step)
        return Outcome(
            self._file,
            self._is_written,
            steps,
            self._steps_by,
            len(self._models),
            self._why,
            self._moved,
            self._is_elsewhere,
            has_begun=self._number >= 0,
        )

    def fail(self, error: Exception) -> None:
        """Something went wrong inside a call of the program."""
        self._why = f"{type(error).__name__}: {error}"
        self._state = "over"
        self._listen_no_more()
        self._let_go()

    # What the program does.

    @never_raises
    def _called(self, module: nn.Module, ended: bool) -> None:
        """A module is called that is inside no other call."""
        if self._state == "over" or os.getpid() != self._process:
            return
        stepping = self._stepping() if self._stepping is not None else None
        if ended:
            self._models.describe(module)
            if module is stepping:
                self._next()
        elif self._models.meet(module):
            if threading.get_ident() != self._thread:
                self._is_elsewhere = True
                return
            if not self._steps_by:
                self._steps_by = "optimizer" if self._optimizers is not None and self._optimizers.look() else "forward"
            elif self._number < 0 and self._optimizers is not None:
                self._optimizers.look()
            if self._steps_by == "forward" and stepping is None:
                self._stepping = weakref.ref(module)
            if self._number < 0 and self._steps_by in ("optimizer", "forward"):
                self._next()
            if self._is_step:
                self._evaluations.look(module, self._number)

    @never_raises
    def _stepped(self) -> None:
        """The optimizers have stepped."""
        if threading.get_ident() != self._thread:
            return
        if self._steps_by == "forward" and self._options.steps_by == "auto":
            self._early = self._number + 1
        self._steps_by, self._stepping = "optimizer", None
        self._number = max(self._number, 0)  # -1: no model was called, and the step that ends was not seen to begin
        self._next()

    def _give_way(self) -> None:
        """The program records itself."""
        if self._state == "recording" and self._number > self._options.first:
            self._finish("")
            self._state, self._why = "over", OWN_RECORDING
        else:
            self._let_go()
            self._why = OWN_RECORDING

    # Steps. An interrupt may break these off anywhere. They are called again then, and go on.

    def _next(self) -> None:
        """A step ends and the next one begins, or the first one begins."""
        if self._recorder is not None:
            self._recorder.block.finish(partial(self._pass_to, self._number + 1))
        else:
            self._pass_to(self._number + 1)

    @never_raises
    def _end_step(self) -> None:
        """A step ends."""
        if self._state == "recording" and self._recorder is not None and self._is_step:
            self._recorder.end_step()
        self._is_step = False

    def _pass_to(self, number: int) -> None:
        if self._number < number:
            self._end_step()
            self._number = number
        if self._state == "over":
            self._is_step = True
            return
        if self._state == "recording" and self._is_over():
            self._finish("")
        elif self._options.first <= number:
            if self._state != "recording":
                self._start()
            if self._recorder is not None:
                self._state = "recording"
                self._recorder.begin_step(number, warmup=number == 0 and self._options.aggregate and self._options.are_several)
        elif self._state == "setting up" or (self._steps_by == "optimizer" and self._recorder is not None):
            self._wait()
        self._is_step = True

    def _is_over(self) -> bool:
        """Whether the step before this one was the last to record."""
        options = self._options
        if options.last is not None and self._number >= options.last:
            return True
        if options.seconds is not None and time.monotonic() - self._began >= options.seconds:
            self._why = f"--seconds {options.seconds:g} have passed"
            return True
        taken, before = self._recorder.bytes if self._recorder is not None else 0, self._taken
        self._taken = taken
        if not options.aggregate and options.budget - taken < max(min(options.budget // 2, SPARE), 2 * (taken - before)):
            self._why = f"its budget of {options.budget / 2**20:,.0f} MiB was full"
            return True
        return False

    # The recorder.

    def _start(self) -> None:
        """Record from here, with the models that are known by now."""
        self._let_go()
        given = self._options
        options = Options(
            ops=True,
            shapes=True,
            memory=given.memory,
            modules=True,
            gpu="auto",
            aggregate=given.aggregate,
            budget=given.budget,
            stacks=given.stacks,
        )
        self._enter(Recorder(options, self._models.living()))

    def _wait(self) -> None:
        """Record no more than is needed to know when the first step comes."""
        self._let_go()
        self._state = "waiting"
        if self._steps_by in ("", "forward"):
            light = Options(ops=False, shapes=False, memory=False, modules=True, gpu="off", aggregate=False, budget=2**20)
            self._enter(Recorder(light, None))

    def _enter(self, recorder: Recorder) -> None:
        recorder.on_outermost_call = self._called
        set_background(None)
        try:
            recorder.block.enter(recorder.start)
        except RecordingError as error:
            self._why = OWN_RECORDING if "running" in str(error) else str(error)
            return
        finally:
            recorder.models = None  # which shall not live longer for this
        self._recorder, self._began, self._taken, self._why = recorder, time.monotonic(), 0, ""
        self._thread = threading.get_ident()
        set_background(self._give_way)

    def _let_go(self) -> None:
        """End the recording, without a trace."""
        if self._recorder is not None and not self._recorder.block.is_of_parent:
            self._recorder.block.exit(lambda *_: None, None, None, None)
        self._recorder = None
        set_background(None)

    def _finish(self, ended_by: str) -> None:
        """End the recording and write what was recorded, if there is anything."""
        is_worth = self._state == "recording" or (self._state == "setting up" and not self._steps_by)
        if self._recorder is not None and is_worth:
            recorder, models = self._recorder, self._models

            def stop(*_: object) -> None:
                recorder.models = models.living()
                self._unsaved = self._completed(recorder.stop(), ended_by)
                recorder.models = None
                recorder.forget()

            recorder.block.exit(stop, None, None, None)
        self._let_go()
        self._state = "over"
        if self._unsaved is not None and not self._is_worth(self._unsaved):
            ran = any(map(len, (self._unsaved.ops, self._unsaved.module_calls, self._unsaved.op_totals)))
            self._unsaved, self._why = None, NO_MODEL if ran else "the program ran no op of PyTorch"
        if self._unsaved is not None:
            if self._options.spawned is not None:
                self.rank = rank_of(self._unsaved.facts) or self.rank
                self._file = file_of(self._options.output, self.rank, process=self._options.spawned)
            self._file, self._moved = keep(self._unsaved, self._file)
            self._unsaved, self._is_written = None, True

    def _is_worth(self, trace: Trace) -> bool:
        """Whether there is anything to look at: not of what only starts others, as Python may be started for by a command."""
        starts_others = self._spawned is not None and self._spawned.told
        if (self._options.is_command and self.rank is None) or starts_others:
            return bool(len(self._models) or self._number >= 0)
        return any(map(len, (trace.ops, trace.module_calls, trace.steps, trace.op_totals, trace.call_totals)))

    def _completed(self, trace: Trace, ended_by: str) -> Trace:
        """With the models that are gone by now, and without what is no step like others."""
        if ended_by:
            trace.facts["ended_by"] = ended_by
        steps = trace.steps
        early = max(self._early, 1) if len(steps) >= WARMUP_OF else self._early
        if 0 < early < len(steps) and not self._options.aggregate:
            steps = steps.copy()
            steps["warmup"][steps["number"] < early] = 1
        if missing := not_recorded(len(steps), len(self._models), self._spawned, is_elsewhere=self._is_elsewhere):
            trace.facts["run_notes"] = missing
        trace = self._models.with_gone(self._evaluations.with_modes(replace(trace, steps=steps)))
        return trace if self._steps_by == "forward" else self._evaluations.told_in(trace)

    def _listen_no_more(self) -> None:
        for listener in (self._optimizers, self._ranges):
            if listener is not None:
                listener.remove()
