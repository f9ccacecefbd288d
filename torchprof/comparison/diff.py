"""`torchprof.diff`: two recordings, estimates, summaries or accounts of memory side by side."""

from __future__ import annotations

import os
from typing import Any

from torchprof.comparison.difference import Diff
from torchprof.comparison.side import BYS, By
from torchprof.comparison.sides.side_of import comparable, kind_of, side_of, usual_by
from torchprof.errors import ArgumentError, ModuleTypeError
from torchprof.paths import text_of
from torchprof.wording import shown

__all__ = ["diff"]


def diff(a: Any, b: Any, *, by: By | None = None, names: tuple[str, str] | None = None) -> Diff:
    """Say what is different between two traces, estimates, summaries or accounts of memory, and whether it is noise.

    Rows are matched by module path, name of op, line or kernel; what was renamed, added and removed is shown as that. Of
    times, the steps of both say how large the difference may be, in an interval of 95% confidence: Welch's, of means of steps
    that are taken to be independent but for the correlation of neighbors; see `torchprof.comparison.noise`. It knows what
    varies from step to step, not what varies from run to run: so a time is called slower or faster only beyond 5%, and
    where the same ops ran on both sides, that is said with it. In a table, all intervals hold together.

    Args:
        a, b: before and after: two `Trace`, `Estimate`, `Summary`, `Memory` or `SnapshotMemory`, or the paths of two files:
            what `torchprof.load` reads, or memory snapshots.
        by: what rows are: ``"module"``, ``"op"``, ``"line"``, ``"function"``, ``"kernel"`` or ``"category"`` (of memory at the
            peak). By default by module, of traces without modules by op, of snapshots by line, of other memory by category.
        names: what to call them in the text; by default the paths of files.

    Raises:
        ModuleTypeError: these are not two of the same of these kinds.
        ArgumentError: ``by`` is unknown, or they do not have such rows.
        TraceFileError, OSError: a file cannot be read.

    Example:
        >>> print(torchprof.diff(trace, prof.trace))
        >>> torchprof.diff(trace, prof.trace, by="op").failures("time > +5%", "peak > +200 MiB")
    """
    if by is not None and (not isinstance(by, str) or by not in BYS):
        raise ArgumentError(f"by={shown(by)} is unknown: use one of {', '.join(map(repr, BYS))}")
    if names is not None and not (
        isinstance(names, tuple | list) and len(names) == 2 and all(isinstance(each, str) for each in names)
    ):
        raise ArgumentError(f"names={shown(names)} must be two texts, such as ('before', 'after'), or None")
    if names is None:
        names = _name(a), _name(b)
    a, b = comparable(a, "a"), comparable(b, "b")
    if kind_of(a) != kind_of(b):
        raise ModuleTypeError(f"a is a {type(a).__name__} and b a {type(b).__name__}: compare two of the same kind")
    by = usual_by(a, b) if by is None else by
    return Diff(side_of(a, by), side_of(b, by), *names)


def _name(value: Any) -> str:
    return text_of(value) if isinstance(value, str | bytes | os.PathLike) else ""
