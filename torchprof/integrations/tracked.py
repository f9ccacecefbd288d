"""What all trackers are sent of a trace: its figures by name, the number of the step, and its report."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torchprof
from torchprof.arguments import is_integral
from torchprof.errors import ArgumentError, MissingPackageError
from torchprof.trace.ceilings import Ceilings
from torchprof.trace.trace import Trace
from torchprof.wording import shown

__all__ = ["check_step", "last_step", "missing", "named_figures", "report_file"]

PREFIX: Final = re.compile(r"[\w. -]*[\w-](/[\w. -]*[\w-])*")
"""What every tracker takes: MLflow, whose names may become paths of files, takes the least."""
LONGEST: Final = 200


def named_figures(trace: Trace, *, of_step: int | None, ceilings: Ceilings | None, prefix: str) -> dict[str, float]:
    """The figures of a trace, each named ``prefix/name``.

    Raises:
        ArgumentError: trackers do not take the prefix; or as `torchprof.figures`.
    """
    if not isinstance(prefix, str) or len(prefix) > LONGEST or (prefix and not PREFIX.fullmatch(prefix)):
        raise ArgumentError(
            f"prefix={shown(prefix)} is no name that all trackers take: use letters, digits, spaces and _ - . with single "
            f"slashes between, at most {LONGEST} characters, such as 'torchprof' or 'train/torchprof'"
        )
    figures = torchprof.figures(trace, of_step=of_step, ceilings=ceilings)
    return {f"{prefix}/{name}" if prefix else name: value for name, value in figures.items()}


def check_step(step: Any) -> int | None:
    """The number of a step as an int; None of None.

    Raises:
        ArgumentError: it is no whole number.
    """
    if step is not None and not is_integral(step):
        raise ArgumentError(f"step={shown(step)} is no whole number: give that of the training loop, or None")
    return None if step is None else int(step)


def last_step(trace: Trace, of_step: int | None) -> int:
    """The number of the step that the figures are of, of several that of the last; 0 where the trace has no steps."""
    if of_step is not None:
        return int(of_step)
    return int(trace.steps["number"][-1]) if len(trace.steps) else 0


@contextmanager
def report_file(trace: Trace, ceilings: Ceilings | None) -> Iterator[Path | None]:
    """The report of a trace, as a file that is there until the block ends. None, and a warning, where plotly is missing."""
    with tempfile.TemporaryDirectory(prefix="torchprof-") as folder:
        path = Path(folder, "report.html")
        try:
            torchprof.report(trace, path, ceilings=ceilings)
        except MissingPackageError as error:
            said = f"the figures were logged, and no report: {error}; or log with report=False"
            warnings.warn(said, RuntimeWarning, stacklevel=4)
            yield None
        else:
            yield path


def missing(tracker: str, packages: str) -> MissingPackageError:
    """What is raised where the package of a tracker is not installed.

    Args:
        packages: what to install, in words.
    """
    return MissingPackageError(
        f"torchprof.integrations.{tracker}.log needs {tracker}, which is not installed: "
        f'pip install "torchprof-recorder[trackers]", or {packages}'
    )
