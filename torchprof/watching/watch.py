"""`torchprof.watch`: records a few steps of a long job every so often.

step 0 ... first ──► warmup, active ──► the trace, a row of figures, the callback ... first + every ──► warmup, active ──► ...
           └─ nothing is installed but the hook that counts steps
"""

from __future__ import annotations

import os
import threading
import types
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Literal

from torch import nn

from torchprof.analysis.steps import numbered_from
from torchprof.arguments import check_int, is_int
from torchprof.errors import ArgumentError, RecordingError
from torchprof.record.background import clear_background, set_background
from torchprof.record.profile import DEFAULT_BUDGET, profile
from torchprof.record.ready import check_ready
from torchprof.record.schedule import schedule
from torchprof.running.evaluation import Evaluations
from torchprof.running.found_steps import OptimizerSteps
from torchprof.tables.table import Table
from torchprof.trace.trace import Trace
from torchprof.watching.window import Window, table_of, window_of
from torchprof.wording import shown

__all__ = ["watch"]

STEPS_BY: Final = ("optimizer", "step")
MOST_KEPT: Final = 2**31 - 1
"""Windows that are kept."""


class watch:
    """Record a few steps of a long job every so often: inside a ``with`` block, or from ``start()`` to ``stop()``.

    A step ends when the optimizer has stepped; of several that step in turns, when all have. So the loop need not be changed.
    With ``steps_by="step"`` the loop says it itself, by ``step()``, as of `torchprof.profile`.

    Between windows nothing is installed but a hook that PyTorch calls after the steps of optimizers, which counts them; with
    ``step()`` not even that. A job goes on whatever happens here: what ``on_trace_ready`` raises is a warning, and where
    something else records, the window is left out (``missed``).

    Steps in which a model is also evaluated are left out of the figures of a window, which names them: see `Window`.

    Args:
        model: as of `torchprof.profile`.
        every: steps from the beginning of a window to that of the next.
        active: steps to record in a window.
        warmup: steps before these that are recorded and left out of tables.
        first: steps before the first window.
        steps_by: ``"optimizer"`` or ``"step"``: what a step is.
        keep: of how many windows the figures are kept.
        on_trace_ready: called with this object at the end of every window, on the thread of the loop, while nothing is
            recorded: ``trace`` is that of the window, and ``windows[-1]`` its figures. Handlers of `torchprof.handlers` are
                such functions.
        aggregate: keep sums and not every op, as of `torchprof.profile`.
        memory, stacks, gpu, budget: as of `torchprof.profile`.

    Attributes:
        windows: a `Window` of each of the last windows, the oldest first.
        missed: how many windows could not be recorded, or were given up for another recording.
        number: of the running step, counted from 0.

    Raises:
        ArgumentError, ModuleTypeError: an argument has the wrong type or value.
        ExtensionError: the compiled recorder is missing or was built for another PyTorch.

    Example:
        >>> with torchprof.watch(model, every=3, active=2, warmup=0, first=1) as watching:
        ...     for batch in batches:
        ...         train_step(batch)
        >>> [(window.first, window.last) for window in watching.windows]
        [(1, 2), (4, 5)]
        >>> print(watching.table())
    """

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module] | None = None,
        *,
        every: int = 1000,
        active: int = 3,
        warmup: int = 1,
        first: int = 10,
        steps_by: Literal["optimizer", "step"] = "optimizer",
        keep: int = 100,
        on_trace_ready: Callable[[watch], object] | None = None,
        aggregate: bool = True,
        memory: bool = True,
        stacks: bool = True,
        gpu: str = "auto",
        budget: int | str = DEFAULT_BUDGET,
    ) -> None:
        for name, value, least in (("every", every, 1), ("active", active, 1), ("warmup", warmup, 0), ("first", first, 0)):
            check_int(name, value, least)
        if not is_int(keep, 1, MOST_KEPT):
            raise ArgumentError(f"keep={shown(keep)} must be an int of at least 1 and at most {MOST_KEPT:,}")
        if every < warmup + active:
            raise ArgumentError(
                f"every={every} is less than a window has steps: {warmup} that warm up and {active} active ones"
            )
        if steps_by not in STEPS_BY:
            raise ArgumentError(f"steps_by={shown(steps_by)} must be {' or '.join(map(repr, STEPS_BY))}")
        if on_trace_ready is not None and not callable(on_trace_ready):
            raise ArgumentError(f"on_trace_ready must be a function of one argument or None, not {shown(on_trace_ready)}")
        self._options: dict[str, Any] = {
            "model": model,
            "schedule": schedule(warmup=warmup, active=active),
            "aggregate": aggregate,
            "memory": memory,
            "stacks": stacks,
            "gpu": gpu,
            "budget": budget,
            "progress": False,
        }
        check_ready(on_trace_ready, aggregate)
        profile(**self._options)  # which looks at them all
        self._every = every
        self._starts_at = first
        self._steps_by = steps_by
        self._on_trace_ready = on_trace_ready
        self._prof: profile | None = None
        self._trace: Trace | None = None
        self._optimizers: OptimizerSteps | None = None
        self._thread: int | None = None
        self._process = 0
        self._next = self._began = 0
        self._evaluations = Evaluations()
        self._recorded: set[int] = set()  # numbers of the steps of all windows
        self.windows: deque[Window] = deque(maxlen=keep)
        self.missed = 0
        self.number = 0

    @property
    def trace(self) -> Trace:
        """The trace of the last window. Its steps have the numbers of the job.

        Raises:
            RecordingError: there is none yet.
        """
        if self._trace is None:
            raise RecordingError(
                f"no window came to its end yet: step {self.number:,} runs, and "
                f"the next window {'is running' if self._prof is not None else f'begins with step {self._next:,}'}"
            )
        return self._trace

    @property
    def is_running(self) -> bool:
        """Whether it was started and not stopped; False in a fork of the process that started it."""
        return self._process == os.getpid()

    def table(self) -> Table:
        """The figures of the windows that are kept, one row each."""
        return table_of(list(self.windows))

    def start(self) -> watch:
        """Begin to count steps, from 0: where a ``with`` block is awkward.

        Raises:
            RecordingError: it was started already.
        """
        if self.is_running:
            raise RecordingError("this watch was started already: stop() it first")
        self._process = os.getpid()
        self._thread, self._trace = None, None
        self.windows.clear()
        self.missed = self.number = 0
        self._evaluations, self._recorded = Evaluations(), set()
        self._next = self._starts_at
        self._optimizers = OptimizerSteps(self._stepped) if self._steps_by == "optimizer" else None
        try:
            self._begin_window()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Count no more steps. A window that is recorded ends with those that it has. Does nothing where it was not started."""
        self._stop(None, None, None)

    def step(self) -> None:
        """A step of the loop has ended. Call it at the end of its body.

        Raises:
            RecordingError: it was not started, or was stopped; or steps are found by the optimizer.
        """
        if self._steps_by != "step":
            raise RecordingError(
                'the steps of this watch are those of the optimizer: say torchprof.watch(..., steps_by="step")'
            )
        if self.is_running:
            self._step()
        elif not self._process:  # in a fork, nothing is watched
            raise RecordingError("step() was called outside the watch: call it inside the `with` block, or after start()")

    def __enter__(self) -> watch:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: types.TracebackType | None
    ) -> Literal[False]:
        self._stop(kind, error, traceback)
        return False

    def _stop(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: types.TracebackType | None
    ) -> None:
        if not self.is_running:
            return
        try:
            if self._optimizers is not None:
                self._optimizers.remove()
        finally:
            self._optimizers, self._process = None, 0
            self._end_window(kind, error, traceback)

    def _stepped(self) -> None:
        """The optimizers have stepped."""
        if self._thread is None:
            self._thread = threading.get_ident()
        if self._thread == threading.get_ident():
            self._step()

    def _step(self) -> None:
        self.number += 1
        if self._prof is None:
            if self.number == self._next:
                self._begin_window()
            return
        self._prof.step()
        if self._prof.traces:
            self._end_window(None, None, None)
            if self.number == self._next:
                self._begin_window()

    def _begin_window(self) -> None:
        """Begin to record, if a window begins with this step."""
        if self.number != self._next:
            return
        self._began, self._next = self.number, self.number + self._every
        prof = profile(**self._options)
        prof._tell_of_calls(self._called)
        try:
            prof.__enter__()
        except RecordingError as error:
            self._miss(str(error))
            return
        self._prof = prof
        set_background(self._give_way)

    def _end_window(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: types.TracebackType | None
    ) -> None:
        prof, self._prof = self._prof, None
        if prof is None:
            return
        clear_background(self._give_way)
        prof.__exit__(kind, error, traceback)
        if not prof.traces:
            return
        trace = numbered_from(prof.traces[-1], self._began)
        self._recorded.update(trace.steps["number"].tolist())
        trace = self._evaluations.told_in(trace, self._recorded)
        window = window_of(trace)
        if window is None:
            return
        self._trace = trace
        self.windows.append(window)
        if self._on_trace_ready is not None:
            try:
                self._on_trace_ready(self)
            except Exception as failure:
                said = f"on_trace_ready of torchprof.watch raised {type(failure).__name__}: {failure}"
                warnings.warn(said, RuntimeWarning, stacklevel=5)

    def _called(self, module: nn.Module, ended: bool) -> None:
        """A module is called, in a window, that is inside no other call. What it raised would be raised by that."""
        if not ended:
            with suppress(Exception):
                self._evaluations.look(module, self.number)

    _called._torchdynamo_disable = True  # type: ignore[attr-defined]

    def _give_way(self) -> None:
        """The program records something else, which comes first."""
        self._drop_window()
        self._miss("another recording began")

    def _drop_window(self) -> None:
        prof, self._prof = self._prof, None
        if prof is not None:
            clear_background(self._give_way)
            prof.__exit__(None, None, None)

    def _miss(self, why: str) -> None:
        self.missed += 1
        if self.missed == 1:
            said = f"torchprof.watch left out the window at step {self._began:,}, and will say so of no other: {why}"
            warnings.warn(said, RuntimeWarning, stacklevel=5)
