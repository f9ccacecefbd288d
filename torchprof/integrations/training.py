"""The recording of a training that a library runs: what the callbacks, profilers and handlers of trainers have in common.

begin ──► step, step, end_step, step, ... ──► end
  │          │           └─ what follows is of no step: an evaluation, a checkpoint
  │          └─ at the end of a cycle of the schedule: a file, and what the user wants of it
  └─ nothing happens on ranks that are not recorded
"""

from __future__ import annotations

import atexit
import sys
import types
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypedDict, Unpack

from torch import nn

from torchprof.analysis.steps import numbered_from
from torchprof.arguments import is_int
from torchprof.errors import ArgumentError, RecordingError
from torchprof.handlers.files import check_name, with_rank, write_new
from torchprof.integrations.shown import Shown, check_shown, show
from torchprof.paths import AnyPath, text_of
from torchprof.record.background import clear_background, set_background
from torchprof.record.profile import profile
from torchprof.record.schedule import Schedule, schedule
from torchprof.trace.rank import Rank
from torchprof.trace.trace import Trace
from torchprof.wording import counted
from torchprof.wording import shown as value_of

__all__ = ["Settings", "Training"]

Models = nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module] | None

DEFAULT_SCHEDULE: Final = schedule(warmup=2, active=8)
OWN_OPTIONS: Final = ("schedule", "on_trace_ready", "progress")


class Settings(TypedDict, total=False):
    """What all of them take.

    Attributes:
        name: how the names of the files begin; by default ``"train"``.
        schedule: which steps to record, of `torchprof.schedule`; by default two that warm up and eight more.
        ranks: numbers of the ranks to record, where there are several; None: all. By default ``(0,)``.
        show: what to print on standard error at the end, on the first rank that is recorded: ``"verdict"``, names of functions
            of torchprof that take a trace (``"by_module"``, ``"memory"``), or functions of your own, of which what they return
            is printed. By default ``("verdict",)``.
        on_trace_ready: called with the `torchprof.profile` at the end of every cycle of the schedule, after its file was
            written. What it raises ends the training.
        ops, shapes, memory, modules, stacks, gpu, aggregate, budget: as `torchprof.profile` takes them.
    """

    name: str
    schedule: Schedule
    ranks: Collection[int] | None
    show: Sequence[Shown]
    on_trace_ready: Callable[[profile], object] | None
    ops: bool
    shapes: bool
    memory: bool
    modules: bool
    stacks: bool
    gpu: str
    aggregate: bool
    budget: int


class Training:
    """Records the steps of one training after another.

    Args:
        folder: where files are written; None: nowhere.
        a_step: what a step is, as the verdict says it.
        settings: see `Settings`.

    Attributes:
        files: those that were written, in order.
        trace: the latest one; None before there is one.

    Raises:
        ArgumentError, ModuleTypeError: one of them has the wrong type or value.
        ExtensionError: the compiled recorder is missing or was built for another PyTorch.
    """

    def __init__(self, folder: AnyPath | None, a_step: str, **settings: Unpack[Settings]) -> None:
        given: dict[str, Any] = dict(settings)
        self.files: list[str] = []
        self.trace: Trace | None = None
        self._folder = text_of(folder, "folder") if folder is not None else None
        self._a_step = a_step
        self._name = check_name(given.pop("name", "train"))
        self._ranks = check_ranks(given.pop("ranks", (0,)))
        self._show = check_shown(given.pop("show", ("verdict",)))
        self._on_trace_ready = given.pop("on_trace_ready", None)
        self._options = {"schedule": given.pop("schedule", DEFAULT_SCHEDULE), **given}
        try:
            profile(on_trace_ready=self._on_trace_ready, **self._options)  # which looks at them all
        except TypeError as error:
            if isinstance(error, ArgumentError) or "unexpected keyword" not in str(error):
                raise
            known = ", ".join(Settings.__annotations__)
            raise ArgumentError(f"{str(error).rpartition(' ')[2]} is no setting: there are {known}") from None
        self._prof: profile | None = None
        self._rank: Rank | None = None
        self._first = self._steps = 0
        self._is_between = False
        self._said_why = ""

    @property
    def is_running(self) -> bool:
        """Whether a training began that did not end."""
        return self._prof is not None

    def begin(self, models: Models, rank: Rank | None, *, first: int = 0) -> None:
        """A training begins. One that did not end, as where it raised, ends before.

        Args:
            rank: of this process; None: it is the only one.
            first: the number of its first step, where it goes on from a checkpoint.
        """
        self.end()
        self._rank, self._first, self.trace, self._said_why = rank, first, None, ""
        if rank is not None and self._ranks is not None and rank.number not in self._ranks:
            return
        self._prof = profile(models, on_trace_ready=self._take, **self._options)
        self._steps, self._is_between = 0, False
        atexit.register(self._at_exit)
        self._do(self._prof.__enter__)

    def step(self) -> None:
        """A step has ended, if `end_step` did not end it, and the next one begins."""
        if self._prof is not None:
            self._steps += not self._is_between
            self._is_between = False
            self._do(self._prof.step)

    def end_step(self) -> None:
        """A step has ended, and what follows is of none until `step`."""
        if self._prof is not None and not self._is_between:
            self._steps += 1
            self._is_between = True
            self._do(self._prof.end_step)

    def begin_step(self) -> None:
        """The next step begins, if `end_step` ended the one before."""
        if self._is_between:
            self.step()

    def end(self, error: BaseException | None = None) -> None:
        """The training has ended, or an exception ended it: write what was recorded, and say what it is."""
        if self._prof is None:
            return
        kind: type[BaseException] | None = type(error) if error is not None else None
        self._end(kind, error, error.__traceback__ if error is not None else None)

    def _end(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: types.TracebackType | None
    ) -> None:
        prof, self._prof = self._prof, None
        if prof is None:
            return
        clear_background(self._give_way)
        atexit.unregister(self._at_exit)
        try:
            prof.__exit__(kind, error, traceback)
        finally:
            wait = self._options["schedule"].wait
            ended = (
                f"the training ended after {counted(self._steps, 'step')}, and the schedule waits for {counted(wait, 'step')}"
            )
            why = self._said_why or (ended if self.trace is None else "")
            if self._rank is None or self._rank.number == min(self._ranks if self._ranks is not None else (0,)):
                show(self._show, self.trace, self.files[-1] if self.files else None, self._a_step, why)

    def _do(self, what: Callable[[], object]) -> None:
        """Call a method of the recording. That it cannot record does not end a training: it is a warning, once."""
        clear_background(self._give_way)
        try:
            what()
        except RecordingError as error:
            self._said_why = str(error)
            warnings.warn(f"torchprof records nothing more of this training: {error}", RuntimeWarning, stacklevel=4)
            self._end(None, None, None)
            return
        if self._prof is not None and self._prof.is_recording:
            set_background(self._give_way)

    def _take(self, prof: profile) -> None:
        """A cycle of the schedule has ended."""
        prof.traces[-1] = self.trace = trace = numbered_from(with_rank(prof.trace, self._rank), self._first)
        if self._folder is not None:
            try:
                self.files.append(write_new(trace, self._folder, self._name, ".torchprof", Trace.save, self._rank))
            except OSError as error:
                said = f"torchprof could not write the trace of this training: {error}"
                warnings.warn(said, RuntimeWarning, stacklevel=2)
        try:
            if self._on_trace_ready is not None:
                self._on_trace_ready(prof)
        finally:
            del prof.traces[:-1]  # there may be no end of them

    def _give_way(self) -> None:
        """The program records something else, as after a training that raised."""
        self._said_why = "another recording began, and a process has one"
        self._end(None, None, None)

    def _at_exit(self) -> None:
        """The program ends inside a training, as where it raised."""
        self._end(getattr(sys, "last_type", None), None, None)

    def __getstate__(self) -> dict[str, Any]:
        """For processes that a trainer starts: a recording stays where it is."""
        return {**vars(self), "_prof": None}


def check_ranks(ranks: Any) -> frozenset[int] | None:
    """Numbers of ranks, as given.

    Raises:
        ArgumentError: they are none.
    """
    if ranks is None:
        return None
    is_some = isinstance(ranks, Collection) and not isinstance(ranks, str | bytes) and len(ranks)
    if not is_some or not all(is_int(rank, 0) for rank in ranks):
        raise ArgumentError(f"ranks={value_of(ranks)} must be numbers of ranks, such as (0, 8), or None for all")
    return frozenset(ranks)
