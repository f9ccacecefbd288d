"""Handlers that write a file for every trace."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from torchprof.analysis.steps import active_steps
from torchprof.errors import ArgumentError
from torchprof.exporters.chrome import export_chrome
from torchprof.handlers.has_trace import HasTrace
from torchprof.paths import AnyPath, new_file, text_of
from torchprof.record.rank import current_rank
from torchprof.reporting.report import report
from torchprof.running.rank import stem_of_rank
from torchprof.trace.rank import Rank
from torchprof.trace.trace import Trace
from torchprof.wording import shown

__all__ = ["Files", "chrome", "html", "save", "stem_of", "with_rank", "write_new"]

Write = Callable[[Trace, str], object]


class Files:
    """Writes a file for every trace that it is given.

    Attributes:
        files: paths of those that were written, in order.
        needs_ops: what it is called, if it needs single ops, as recordings with ``aggregate=True`` do not have.
    """

    def __init__(self, folder: AnyPath, name: str, suffix: str, write: Write, needs_ops: str = "") -> None:
        self._folder = text_of(folder, "folder")
        self._name = check_name(name)
        self._suffix = suffix
        self._write = write
        self.needs_ops = needs_ops
        self.files: list[str] = []

    def __call__(self, prof: HasTrace) -> None:
        """Write the latest trace.

        Raises:
            OSError: the file cannot be written.
        """
        rank = current_rank()
        trace = with_rank(prof.trace, rank)
        self.files.append(write_new(trace, self._folder, self._name, self._suffix, self._write, rank))


def save(folder: AnyPath, name: str = "trace") -> Files:
    """A handler that saves every trace as a file, which `torchprof.load` and the command line read.

    Args:
        folder: to write to; it is made where it is not there.
        name: how the names of the files begin.

    Raises:
        ArgumentError: the folder is no path, or the name is no part of one.

    Example:
        >>> keep = torchprof.handlers.save("traces")
        >>> schedule = torchprof.schedule(wait=1, active=2, repeat=0)
        >>> with torchprof.profile(model, schedule=schedule, on_trace_ready=keep) as prof:
        ...     for batch in batches:
        ...         train_step(batch)
        ...         prof.step()
        >>> keep.files
        ['traces/trace.steps1-2.torchprof', 'traces/trace.steps4-5.torchprof']
    """
    return Files(folder, name, ".torchprof", Trace.save)


def chrome(folder: AnyPath, name: str = "trace", *, libraries: bool = False) -> Files:
    """A handler that writes the timeline of every trace for https://ui.perfetto.dev and ``chrome://tracing``, packed by gzip.
    It needs single ops: `torchprof.profile` and `torchprof.watch` refuse it with ``aggregate=True``.

    Args:
        folder, name: as of `save`.
        libraries: whether lines of libraries are shown: see `torchprof.export_chrome`.

    Raises:
        ArgumentError: the folder is no path, or the name is no part of one.

    Example:
        >>> with torchprof.profile(model, on_trace_ready=torchprof.handlers.chrome("timelines")) as prof:
        ...     train_step(batches[0])
    """
    return Files(
        folder, name, ".json.gz", lambda trace, path: export_chrome(trace, path, libraries=libraries), "handlers.chrome"
    )


def html(folder: AnyPath, name: str = "trace", *, title: str | None = None) -> Files:
    """A handler that writes every trace as a page to open in a browser: see `torchprof.report`, which needs plotly and jinja2.

    Args:
        folder, name: as of `save`.
        title: of the pages; by default the name of the model.

    Raises:
        ArgumentError: the folder is no path, the name is no part of one, or the title is no text.

    Example:
        >>> with torchprof.profile(model, on_trace_ready=torchprof.handlers.html("pages", title="A first try")) as prof:
        ...     train_step(batches[0])
    """
    if title is not None and not isinstance(title, str):
        raise ArgumentError(f"title={shown(title)} is no text: give a str, or None for the name of the model")
    return Files(folder, name, ".html", lambda trace, path: report(trace, path, title=title))


def write_new(trace: Trace, folder: str, name: str, suffix: str, write: Write, rank: Rank | None) -> str:
    """Write a trace as a file with a new name, which is returned."""
    with new_file(folder, stem_of_rank(stem_of(name, trace), rank), suffix) as path:
        write(trace, path)
    return path


def stem_of(name: str, trace: Trace) -> str:
    """A name with the numbers of the steps in the trace: ``trace.steps8-10``."""
    numbers = active_steps(trace)["number"]
    if not len(numbers):
        return name
    first, last = int(numbers[0]), int(numbers[-1])
    return f"{name}.step{first}" if first == last else f"{name}.steps{first}-{last}"


def with_rank(trace: Trace, rank: Rank | None) -> Trace:
    """The trace, which says of which rank it is, if it does not already and there are several."""
    if rank is not None:
        trace.facts.setdefault("rank", rank.number)
        trace.facts.setdefault("world_size", rank.size)
    return trace


def check_name(name: Any) -> str:
    """A name that files begin with.

    Raises:
        ArgumentError: it is none.
    """
    if not isinstance(name, str) or name in (".", ".."):
        why = ""
    elif not name:
        why = ": it is empty"
    elif name != os.path.basename(name):
        why = f": it has {os.sep!r} in it, which is not allowed, as a folder is an argument of its own"
    elif "\0" in name:
        why = ": it has a null character in it"
    else:
        return name
    raise ArgumentError(f'name={shown(name)} must be how the names of files begin, such as "trace"{why}')
