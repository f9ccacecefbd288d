"""Runs of pytest inside a test, with the plugin loaded, and what they print."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import pkgutil
import re
from pathlib import Path
from typing import Final

import pytest

import torchprof.integrations.pytest_plugin as package

__all__ = ["ENTRY_POINT", "MODULE", "failures", "loaded", "run", "summary"]

ENTRY_POINT: Final = "torchprof"
MODULE: Final = "torchprof.integrations.pytest_plugin.plugin"
WIDE: Final = "200"
ROOT: Final = Path(__file__).parents[1]

# A run inside this process forgets what it was the first to import; a second import would make other classes of it.
for _found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
    importlib.import_module(_found.name)


def loaded() -> tuple[str, ...]:
    """The arguments that load the plugin: none where an installed torchprof has it loaded already."""
    known = {point.value for point in importlib.metadata.entry_points(group="pytest11")}
    return () if MODULE in known else ("-p", MODULE)


def run(pytester: pytest.Pytester, source: str, *arguments: str, apart: bool = False) -> pytest.RunResult:
    """Run the tests of a file. Lines are wide, so that none is cut.

    Args:
        apart: in a process of their own, for tests that make PyTorch import more of itself: a run in this process forgets what
            it was the first to import, and some of it cannot be imported twice.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", WIDE)
        patch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(ROOT / "tests"))))
        pytester.makepyfile(test_it=source)
        start = pytester.runpytest_subprocess if apart else pytester.runpytest_inprocess
        return start(*loaded(), "-p", "no:cacheprovider", "-p", "no:benchmark", "-W", "ignore", "-q", *arguments)


def failures(result: pytest.RunResult) -> str:
    """What is printed of tests that failed, or could not begin."""
    found = re.search(
        r"^=+ (?:ERRORS|FAILURES) =+$\n(.*?)^=+ (?:torchprof|short test summary info|warnings summary) =+$",
        text(result),
        re.S | re.M,
    )
    assert found is not None, text(result)
    return re.sub(r"^_{3,}( .* )_{3,}$", r"___\1___", found[1].rstrip(), flags=re.M)


def summary(result: pytest.RunResult) -> str:
    """What torchprof prints at the end."""
    found = re.search(r"^=+ torchprof =+$\n(.*?)(?:^=+ .* =+$|^\d+ (?:passed|failed)|\Z)", text(result), re.S | re.M)
    return found[1].rstrip() if found is not None else ""


def text(result: pytest.RunResult) -> str:
    return "\n".join(result.outlines) + "\n"
