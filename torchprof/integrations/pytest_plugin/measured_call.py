"""The call of one test, measured: from before it runs to what is said of it."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Sequence
from typing import Any

from torchprof.errors import TorchprofError
from torchprof.integrations.pytest_plugin import baseline as baselines
from torchprof.integrations.pytest_plugin.figures import Figures
from torchprof.integrations.pytest_plugin.file_names import file_name
from torchprof.integrations.pytest_plugin.graph_breaks import GraphBreaks
from torchprof.integrations.pytest_plugin.limits import NOT_OF_MODULES, Limit
from torchprof.integrations.pytest_plugin.result import Result, result_of
from torchprof.integrations.pytest_plugin.settings import Settings
from torchprof.integrations.pytest_plugin.timing import Timing
from torchprof.integrations.pytest_plugin.verdict import broken_limits
from torchprof.trace.trace import Trace

__all__ = ["MeasuredCall"]


class MeasuredCall:
    """What is recorded, counted and timed while a test is called.

    Args:
        nodeid: of the test.
        limits: that it should keep.
        settings: what is asked for.
        timing: what the fixture of the test is; None where it asks for none.
        baseline: what the baseline says of all tests; None where nothing is compared.
        function: of the test, if it has one.
    """

    def __init__(
        self,
        nodeid: str,
        limits: Sequence[Limit],
        settings: Settings,
        timing: Timing | None,
        baseline: baselines.Baseline | None,
        function: object = None,
    ) -> None:
        self._function = function
        self._nodeid, self._limits, self._settings, self._timing = nodeid, limits, settings, timing
        self._baseline = baseline
        self._breaks = GraphBreaks()
        self._counts_breaks = any(limit.figure == "graph_breaks" for limit in limits)
        self._recording: Any = None
        self._why = ""
        self._figures: Figures | None = None
        self._result: Result = {"note": ""}
        self._began = 0

    def begin(self) -> None:
        """The test is called now."""
        if self._settings.records_all or any(limit.figure not in NOT_OF_MODULES for limit in self._limits):
            self._record()
        if self._counts_breaks:
            self._breaks.begin()
        self._began = time.perf_counter_ns()

    def _record(self) -> None:
        if importlib.util.find_spec("torch") is None:
            self._why = "PyTorch is not installed here: pip install torch"
            return
        from torchprof.integrations.pytest_plugin.recording import CallRecording  # which imports PyTorch

        self._recording = CallRecording(self._function)
        self._recording.begin()
        if self._timing is not None:
            self._timing.before_timing = self._recording.end

    def end(self) -> None:
        """The test has returned, or raised."""
        took = time.perf_counter_ns() - self._began
        if self._counts_breaks:
            self._breaks.end()
        if self._recording is not None:
            self._recording.end()
            took -= self._recording.looking
            self._why = self._recording.why
            if self._recording.trace is not None:
                self._figures = Figures(self._recording.trace, self._recording.no_kernels)
        self._result["time"] = took

    def result(self) -> Result:
        """What is known of the test. Its trace is kept where that was asked for. Nothing is raised: the test may have failed
        for reasons of its own.
        """
        if self._figures is None:
            if self._why:
                self._result |= {"note": "not recorded", "because": self._why}
            return self._result
        try:
            self._result |= result_of(self._figures)
        except Exception as error:
            self._result |= {"note": "not known", "because": f"{type(error).__name__}: {error}"}
        if self._timing is not None and any(self._timing.times.values()):
            self._result |= {"note": "timed", "because": "recorded up to where times were taken"}
        if self._settings.save:
            self._save(self._figures.trace)
        return self._result

    def _save(self, trace: Trace) -> None:
        file = os.path.join(self._settings.save, file_name(self._nodeid))
        try:
            os.makedirs(self._settings.save, exist_ok=True)
            trace.save(file)
        except (OSError, TorchprofError) as error:
            self._result["not_saved"] = str(error)
        else:
            self._result["file"] = file

    def wrong(self) -> str:
        """What is wrong with the test, one thing a paragraph; empty where nothing is."""
        broken = list(broken_limits(self._limits, self._figures, self._why, self._breaks, self._timing))
        before = self._baseline.get(self._nodeid) if self._baseline is not None else None
        if before is not None:
            drifted = self._drift(before)
            if drifted:
                update = "if that is meant, run with --torchprof-update-baseline"
                broken += [f"not as in the baseline {self._settings.baseline}: {update}", *drifted]
                self._result["drifted"] = True
        if not broken:
            return ""
        self._result["over"] = bool(self._limits)
        if "file" in self._result:
            broken.append(f"Trace: {self._result['file']}")
        return "\n".join(broken)

    def _drift(self, before: dict[str, Any]) -> list[str]:
        if "by_op" not in self._result:
            return [f"there is nothing to compare: {self._result.get('because', 'it was not recorded')}"]
        return list(baselines.drift(before, self._result, self._settings.tolerances))
