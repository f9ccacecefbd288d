"""Starts and stops the compiled recorder, and makes the trace of what it recorded."""

from __future__ import annotations

import functools
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import torch
from torch import nn
from torch.utils.data import DataLoader

from torchprof import _native
from torchprof.analysis.time.totals import op_bytes, step_totals
from torchprof.errors import RecordingError, UnsupportedTorchError
from torchprof.record import flops, torch_private
from torchprof.record.background import give_way
from torchprof.record.compiled_code import CompiledCode
from torchprof.record.gpu_backends import INTERRUPTED, GpuBackend, device_names, gpu_backends, may_wait
from torchprof.record.held_by_model import held_by
from torchprof.record.modules import Models, describe, walk
from torchprof.record.rank import RankSeen, rank_facts
from torchprof.trace.model import Model
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace
from torchprof.trace.type_names import DeviceTypes, Dtype, Dtypes

__all__ = ["CountedOps", "Options", "Recorder"]

Tables = dict[str, Rows]
CountedOps = Literal["none", "inputs", "outputs"]

FIRST_STEPS: Final = 3
"""Steps before which module classes are looked for that were created meanwhile. The search takes a third of a millisecond."""

BETWEEN: Final = -1
"""The number of what is no step, where sums are recorded."""

BESIDE_PROFILER: Final = (
    "torch.profiler ran on the thread of the recording, and PyTorch reports to one of them: what other devices than the CPU "
    "allocated meanwhile was not seen"
)


@dataclass(frozen=True, slots=True)
class Options:
    """What to record: the arguments of `torchprof.profile` with these names, which stand in ``trace.facts``."""

    ops: bool
    shapes: bool
    memory: bool
    modules: bool
    gpu: str
    aggregate: bool
    budget: int
    stacks: bool = False

    @property
    def reads_tensors(self) -> bool:
        """Whether the tensors of ops are recorded."""
        return self.ops and self.shapes


class Recorder:
    """Records from ``start`` to ``stop``, any number of times.

    Attributes:
        models: the model, or models, whose names the trace should know; or None.
        counted_ops: without ``ops``, which of them are recorded: none, those that a count of FLOPs needs with what they were
            given, or also with what they returned.
        block: the `with` block that the recording belongs to: what it began ends with the block.
        on_outermost_call: called with a module and False before, and with True after each call of it that is inside no other.
    """

    def __init__(self, options: Options, models: Models | None) -> None:
        self.models = models
        self.counted_ops: CountedOps = "none"
        self.block = _native.Block()
        self.on_outermost_call: Callable[[nn.Module, bool], None] | None = None
        self._options = options
        self._backend = GpuBackend("off", "")
        self._compiled_code = CompiledCode()
        self._has_merged = False
        self._stacks = "off"
        self._places: _native.Places | None = None
        self._rank: dict[str, Any] = {}
        self._seen = RankSeen({})

    @property
    def is_recording(self) -> bool:
        """Whether it was started and not stopped; False in a fork of the process that started it."""
        return _native.is_recording(self.block)

    @property
    def has_stopped(self) -> bool:
        """Whether there is what `stop` makes a trace of, though nothing is recorded any more."""
        return self.block.recorded is not None

    @property
    def bytes(self) -> int:
        """Bytes that the recording takes so far."""
        return _native.bytes() if self.is_recording else 0

    def start(self) -> None:
        """Start to record.

        Raises:
            RecordingError: a recording is running already, or the GPU cannot be recorded in the way that ``gpu`` names.
        """
        give_way()
        options = self._options
        if flops.op_classes().users and self.counted_ops == "inputs":  # formulas of the user's own may ask for either
            self.counted_ops = "outputs"
        self._compiled_code = CompiledCode()
        self._stacks = how_stacks_are_read() if options.stacks else "off"
        backends = gpu_backends(options.gpu)
        refusals = ""
        for backend in backends:
            try:
                _native.start(
                    self.block,
                    ops=options.ops,
                    shapes=options.shapes,
                    memory=options.memory,
                    budget_bytes=options.budget,
                    module_class=nn.Module if options.modules else None,
                    flops=self.counted_ops != "none",
                    flop_outputs=self.counted_ops == "outputs",
                    aggregate=options.aggregate,
                    gpu=backend.name,
                    thread_name=_thread_name(),
                    device_type=backend.device_type,
                    held=self._held(walk(self.models) if self.models is not None else None, at_end=False),
                    evaluator_switch=_evaluator_switch() if options.modules or options.ops else None,
                    ahead_of_time=_ahead_of_time_runs(),
                    runtimes=_other_runtimes(),
                    profiler_switches=_profiler_switches() if options.memory else [],
                    loader_iter=DataLoader.__iter__,
                    run_backward=_engine(),
                    slice=_slice_of_storage() if options.memory else None,
                    on_evaluator=self._compiled_code,
                    stacks=self._stacks,
                    on_outermost_call=self.on_outermost_call,
                )
                break
            except _native.DeviceRecorderError as error:
                if backend is backends[-1]:
                    raise RecordingError(f"gpu={options.gpu!r} is not possible: {error}") from None
                refusals += f"; {backend.name} refused: {error}"
            except RuntimeError as error:
                raise RecordingError(str(error)) from None
        self._backend = GpuBackend(backend.name, backend.note + refusals)
        self._has_merged = False
        self._rank = rank_facts(self.models, stages=False)  # which take a while to find, and the recording is on
        self._seen = RankSeen(self._rank)
        self._compiled_code.start()

    def begin_step(self, number: int, *, warmup: bool) -> None:
        """A step of the loop begins."""
        if 0 < number <= FIRST_STEPS:
            _native.observe_new_classes()
        _native.begin_step(number, warmup)

    def end_step(self, *, is_between: bool = False) -> None:
        """A step of the loop has ended; ``is_between``: and the next one does not begin yet."""
        _native.end_step(may_wait(self._backend))
        self._seen.look()
        if _native.is_merge_due():
            self._merge_sums()
        if is_between and self._options.aggregate:
            _native.begin_step(BETWEEN, True)  # sums are of steps, but of those that warm up

    def _merge_sums(self) -> None:
        """Make one row of the sums of all but the first shapes of an op, with the FLOPs and bytes that each of them has.

        And of those of modules that the model does not have and that are not called any more, and of further user ranges.
        """
        tables, strings = _native.sums()
        trace = self._trace(tables, strings, {"aggregate": True}, self._flops(tables, strings))
        totals = step_totals(trace)
        moved = op_bytes(trace, totals)
        self._has_merged = True
        registered = {id(place.module) for place in walk(self.models)} if self.models is not None else set()
        _native.merge_sums(totals.op_flops.tolist(), moved.tolist(), totals.op_unknown.tolist(), registered)

    def _flops(self, tables: Tables, strings: list[str]) -> flops.Flops:
        outputs = self._options.reads_tensors or self.counted_ops == "outputs"
        return flops.evaluate(tables, strings, Dtypes(_dtypes()), outputs=outputs, hidden=self._compiled_code.hides_ops)

    def _trace(
        self, tables: Tables, strings: list[str], facts: dict[str, Any], counted: flops.Flops, model: Model | None = None
    ) -> Trace:
        return Trace(
            **tables,
            strings=strings,
            facts=facts,
            model=model,
            dtypes=Dtypes(_dtypes()),
            device_types=DeviceTypes(_native.device_types()),
            signature_flops=counted.of_signatures,
        )

    def stop(self) -> Trace:
        """Stop recording. Where an interrupt came out of it, it goes on when it is called again, until `forget`.

        Raises:
            RecordingError: the recording was stopped by something else.
            Exception: what the model raises while its parameters are read.
        """
        if self.block.recorded is None:
            self._stop()
        assert self.block.recorded is not None
        tables, strings, facts = self.block.recorded
        tables = {**tables, "steps": tables["steps"][tables["steps"]["number"] != BETWEEN]}
        # The model is described at the end: lazy modules have their parameters then.
        model = describe(self.models, self._places) if self.models is not None else None
        flops.leave_out_shape_runs(tables)
        counted = self._flops(tables, strings)
        return self._trace(tables, strings, self._facts(dict(facts), counted.problems), counted, model)

    def _stop(self) -> None:
        """Stop the compiled recorder, whose tables the block has then."""
        if self._has_merged:
            self._merge_sums()
        self._places = walk(self.models) if self.models is not None else None
        held = self._held(self._places, at_end=True)
        places = self._places if not self._options.aggregate else None
        try:
            _native.stop(self.block, held, may_wait(self._backend), places)
        except RuntimeError as error:
            raise RecordingError(str(error)) from None

    def forget(self) -> None:
        """Let go of what `stop` made its trace of."""
        self.block.forget()
        self._places = None

    def _held(self, places: _native.Places | None, *, at_end: bool) -> _native.HeldByModel:
        if places is None or not self._options.reads_tensors:
            return _native.HeldByModel()
        return held_by(places, at_end=at_end, follow=self._options.memory)

    def _facts(self, facts: dict[str, Any], flop_problems: list[str]) -> dict[str, Any]:
        """Facts of the compiled recorder, with those known here."""
        note = self._backend.note + (INTERRUPTED if facts.pop("gpu_interrupted") else "")
        if failure := facts.pop("gpu_failure"):
            note += f"; INCOMPLETE, it failed: {failure}"
        if not self._options.aggregate:
            del facts["shapes_kept"]
        if facts.pop("beside_profiler"):
            facts["memory_note"] = BESIDE_PROFILER
        if flop_problems:
            facts["flops_note"] = "; ".join(flop_problems)
        return {
            **facts,
            "torch": str(torch.__version__),
            "python": sys.version.split()[0],
            **asdict(self._options),
            "counts_flops": self._options.reads_tensors or self.counted_ops != "none",
            "compiled": self._compiled_code.compiled,
            "gpu": self._backend.name,
            "gpu_note": note,
            "stacks": self._stacks if self._stacks != "off" else False,
            **({"devices": names} if (names := device_names()) else {}),
            **self._rank_at_end(),
        }

    def _rank_at_end(self) -> dict[str, Any]:
        """The rank as it is now, or as it was where the process groups are gone, with all groups that were seen."""
        now = rank_facts(self.models)
        known = next((each for each in (now, self._rank, self._seen.facts) if "process_groups" in each), now)
        groups = self._seen.groups_with(known.get("process_groups", ()))
        return {**known, "process_groups": groups} if groups else known


def _thread_name() -> str:
    """The name of this thread; empty where Python did not start it."""
    # No generator that is left half-way: an interrupt that comes while Python closes it is printed, and lost.
    names = [thread.name for thread in threading.enumerate() if thread.ident == threading.get_ident()]
    return names[0] if names else ""


@functools.cache
def _slice_of_storage() -> torch.UntypedStorage:
    """Such as the weights of a mapped file are."""
    return torch.UntypedStorage(2)[:1]  # type: ignore[no-untyped-call, no-any-return]


@functools.cache
def how_stacks_are_read() -> str:
    """From the frames of this Python where these are what they are taken for; else Python is asked."""
    return "frames" if _native.can_read_frames() else "api"


@functools.cache
def _dtypes() -> Dtypes:
    """The dtypes of this PyTorch, by number."""
    return Dtypes({number: Dtype(*known) for number, known in _native.dtypes().items()})


@functools.cache
def _evaluator_switch() -> Any:
    """What Dynamo calls around compiled code; None where it is missing, which is said once."""
    try:
        return torch_private.evaluator_switch()
    except UnsupportedTorchError as error:
        warnings.warn(str(error), RuntimeWarning, stacklevel=4)
        return None


@functools.cache
def _engine() -> Any:
    """What runs the autograd engine; None where it is missing, which is said once."""
    try:
        return torch_private.engine()
    except UnsupportedTorchError as error:
        warnings.warn(str(error), RuntimeWarning, stacklevel=4)
        return None


@functools.cache
def _ahead_of_time_runs() -> list[Any]:
    return torch_private.ahead_of_time_runs()


@functools.cache
def _other_runtimes() -> list[Any]:
    return torch_private.other_runtimes()


@functools.cache
def _profiler_switches() -> list[Any]:
    """The functions by which PyTorch starts and ends its own profilers; none where one is missing, which is said once."""
    try:
        return torch_private.profiler_switches()
    except UnsupportedTorchError as error:
        warnings.warn(str(error), RuntimeWarning, stacklevel=4)
        return []
