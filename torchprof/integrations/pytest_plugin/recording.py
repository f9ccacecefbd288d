"""The recording of what one test does: of its call, not of its fixtures."""

from __future__ import annotations

import inspect
import os
import sys
import time
from functools import partial
from types import CodeType, FrameType
from typing import Final

from torch import nn

from torchprof._native import require_extension
from torchprof.errors import RecordingError, TorchprofError
from torchprof.integrations.pytest_plugin.settings import BUDGET
from torchprof.record.background import set_background
from torchprof.record.recorder import Options, Recorder
from torchprof.running.found_models import FoundModels
from torchprof.trace.trace import Trace

__all__ = ["CallRecording"]

OWN_RECORDING: Final = (
    "the test records itself with torchprof, which comes first: assert on what it recorded, such as "
    "torchprof.memory(prof.trace).peak.bytes"
)


class CallRecording:
    """Records from ``begin`` to ``end``, with the models that are called meanwhile.

    A recording that the test begins itself comes first: this one ends then, without a trace.

    Args:
        function: of the test. What its variables hold when it returns is read before they are let go: models that it made are
            gone otherwise, and which memory was that of their parameters cannot be told.

    Attributes:
        trace: what was recorded; None before the end, and where nothing was.
        why: why there is no trace.
        no_kernels: why kernels were not recorded as such; empty where they were.
        looking: nanoseconds that it took to find models, which are not the test's.
    """

    def __init__(self, function: object = None) -> None:
        self.trace: Trace | None = None
        self.why = ""
        self.no_kernels = ""
        self.looking = 0
        self._models = FoundModels()
        self._process = os.getpid()
        self._recorder: Recorder | None = None
        self._code = code_of(function)
        self._frame: FrameType | None = None

    def begin(self) -> None:
        """Begin, if it is possible; else ``why`` says why not. Nothing is raised: the test shall run all the same."""
        try:
            require_extension()
            try:
                self._begin("cupti")
            except RecordingError as error:  # no GPU that has kernels, or nothing at all is possible
                said = str(error).removeprefix("gpu='cupti' is not possible: ")
                self.no_kernels = said.removesuffix("; use gpu='auto' to carry on without")
                self._begin("auto")
        except TorchprofError as error:
            self.why = str(error)

    def end(self) -> None:
        """End, if it has not. What goes wrong is said by ``why``."""
        recorder, self._recorder = self._recorder, None
        if recorder is None or recorder.block.is_of_parent:
            return
        set_background(None)
        try:
            recorder.block.exit(partial(self._stop, recorder), None, None, None)
        except Exception as error:  # such as a model that raises while its parameters are read
            self.why = f"{type(error).__name__}: {error}"
        finally:
            self._frame = None

    def _begin(self, gpu: str) -> None:
        options = Options(
            ops=True, shapes=True, memory=True, modules=True, gpu=gpu, aggregate=False, budget=BUDGET, stacks=True
        )
        recorder = Recorder(options, None)
        recorder.on_outermost_call = self._called
        recorder.block.enter(recorder.start)
        self._recorder = recorder
        set_background(self._give_way)

    def _stop(self, recorder: Recorder, *_: object) -> None:
        recorder.models = self._models.living()
        self.trace = self._models.with_gone(recorder.stop())
        recorder.models = None
        recorder.forget()

    def _give_way(self) -> None:
        """The test records itself."""
        recorder, self._recorder = self._recorder, None
        self.why = OWN_RECORDING
        if recorder is not None and not recorder.block.is_of_parent:
            recorder.block.exit(lambda *_: None, None, None, None)

    def _called(self, module: nn.Module, ended: bool) -> None:
        """A module is called that is inside no other call. What goes wrong here must not reach the test."""
        if os.getpid() != self._process:
            return
        began = time.perf_counter_ns()
        try:
            if ended:
                self._models.describe(module)
            else:
                self._models.meet(module)
                if self._frame is None and self._code is not None:
                    self._frame = frame_of(self._code)
        except Exception as error:
            self.why = f"{type(error).__name__}: {error}"
        self.looking += time.perf_counter_ns() - began

    _called._torchdynamo_disable = True  # type: ignore[attr-defined]


def code_of(function: object) -> CodeType | None:
    """The code of a function, below its decorators; None where it has none."""
    try:
        inner = inspect.unwrap(function) if callable(function) else None
    except ValueError:  # decorators in a circle
        inner = None
    code = getattr(getattr(inner, "__func__", inner), "__code__", None)
    return code if isinstance(code, CodeType) else None


def frame_of(code: CodeType) -> FrameType | None:
    """The innermost frame of this thread that runs this code."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame
