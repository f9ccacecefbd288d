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
        if self._settings.baseline and not session.config.option.collectonly:
            broken_off = exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
            self._finish_baseline(broken_off or bool(session.shouldfail or session.shouldstop))
        if self._settings.save:
            kept = sum("file" in result for result in self._results.values())
            self._said.append(f"{counted(kept, 'trace')} in {self._settings.save}: torchprof show FILE, torchprof diff A B")
            lost = [result["not_saved"] for result in self._results.values() if "not_saved" in result]
            if lost:
                self._said.append(f"{counted(len(lost), 'trace')} NOT kept: {lost[0]}")

    def _finish_baseline(self, broken_off: bool) -> None:
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
        if broken_off or not measured:
            why = "the run was broken off" if broken_off else "no test that was measured passed"
            self._said.append(f"Baseline {path}: not written, because {why}")
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
