"""What is said at the end: the figures of all tests, what became of the baseline, where traces are."""

from __future__ import annotations

from typing import Any, Final

import pytest

from torchprof.integrations.pytest_plugin.settings import SETTINGS
from torchprof.wording import counted

__all__ = ["BASELINE", "Reporting"]

BASELINE = pytest.StashKey[dict[str, dict[str, Any]] | None]()
"""What the baseline says; None where nothing is compared."""
NARROWEST: Final = 60


class Reporting:
    """Collects the results of all tests, also of those that ran in workers, and tells of them at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._settings = config.stash[SETTINGS]
        self._before: dict[str, dict[str, Any]] | None = config.stash[BASELINE]
        self._results: dict[str, dict[str, Any]] = {}
        self._passed: set[str] = set()
        self._said: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        result = getattr(report, "torchprof", None)
        if report.when != "call" or result is None:
            return
        is_skip = report.skipped and not hasattr(report, "wasxfail")
        if is_skip:
            self._results.pop(report.nodeid, None)
            return
        self._results[report.nodeid] = result
        self._passed.discard(report.nodeid)
        if report.passed:
            self._passed.add(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self._settings.baseline:
            self._finish_baseline(session.config, exitstatus)
        if self._settings.save:
            kept = sum("file" in result for result in self._results.values())
            self._said.append(f"{counted(kept, 'trace')} in {self._settings.save}: torchprof show FILE, torchprof diff A B")

    def _finish_baseline(self, config: pytest.Config, exitstatus: int) -> None:
        from torchprof.integrations.pytest_plugin.baseline import write

        path = self._settings.baseline
        measured = {test: result for test, result in self._results.items() if test in self._passed and "by_op" in result}
        left_out = len(self._results) - len(measured)
        if not (self._settings.update or self._before is None):
            known = self._before
            new = [test for test in measured if test not in known]
            drifted = sum(bool(result.get("drifted")) for result in self._results.values())
            compared = sum(test in known for test in self._results)
            self._said.append(f"Baseline {path}: {counted(compared, 'test')} compared, {drifted} not as it says")
            if new:
                self._said.append(
                    f"{counted(len(new), 'test is', 'tests are')} not in it, and not compared: "
                    "--torchprof-update-baseline adds them"
                )
            return
        if exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR):
            self._said.append(f"Baseline {path}: not written, because the run was broken off")
            return
        if config.option.collectonly:
            return
        try:
            write(path, self._before_update(path), measured)
        except OSError as error:
            self._said.append(f"Baseline {path}: NOT written: {error}")
            return
        self._said.append(f"Baseline {path}: written, with {counted(len(measured), 'test')} of this run")
        if left_out:
            self._said.append(f"{counted(left_out, 'test is', 'tests are')} not in it, which failed or could not be recorded")

    def _before_update(self, path: str) -> dict[str, dict[str, Any]] | None:
        from torchprof.integrations.pytest_plugin.baseline import read

        return read(path) if self._settings.update else None

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._settings.records_all or not (self._results or self._said):
            return
        terminalreporter.section("torchprof")
        if self._settings.table and self._results:
            from torchprof.integrations.pytest_plugin.table import table_of

            width = max(terminalreporter.config.get_terminal_writer().fullwidth, NARROWEST)
            terminalreporter.write_line(table_of(self._results).to_text(width))
        for line in self._said:
            terminalreporter.write_line(line)
