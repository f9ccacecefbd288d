"""`torchprof.load`: a trace from a file, by what is in it: torchprof's own format, or what ``torch.profiler`` wrote."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, overload

from torchprof.errors import TraceFileError
from torchprof.importers.folders import refuse_folder
from torchprof.importers.kineto.beginning import may_be_kineto
from torchprof.importers.other_files import BEGINNING, MODEL, what_else
from torchprof.importers.progress import reading
from torchprof.importers.ranks import load_ranks
from torchprof.importers.snapshot_file import is_snapshot
from torchprof.paths import AnyPath, opened, text_of
from torchprof.trace import file
from torchprof.trace.known import Known
from torchprof.trace.ranks import Ranks
from torchprof.trace.trace import Trace

__all__ = ["load", "load_trace"]


# Of a path, what is in it is known by the person who wrote it, and not by a type checker: Any takes part in what it returns.
@overload
def load(path: AnyPath) -> Trace | Any: ...


@overload
def load(path: list[Any] | tuple[Any, ...]) -> Ranks: ...


def load(path: AnyPath | list[Any] | tuple[Any, ...]) -> Trace | Ranks | Any:
    """Read a trace: what ``Trace.save`` wrote, or what ``torch.profiler`` exported. Of a folder, or several files: all ranks.

    Needs neither PyTorch, the compiled recorder nor the model. Which of the two a file is, is told by its contents, not by its
    name. Of torch.profiler, these are read: JSON of ``export_chrome_trace`` and ``tensorboard_trace_handler``, plain or
    ``.gz``, from 2021 to today, with CUDA or ROCm. What such a file does not know is unknown in the trace, and
    ``trace.facts["notes"]`` says what was left out of it. It is read twice as fast where msgspec is installed.

    Args:
        path: a file, of which this returns the `Trace`; or a folder, or a list of files, with one file of each rank of a
            distributed program, of which it returns `Ranks`. Of a folder, the files whose names end in ``.torchprof``,
            ``.json`` or ``.json.gz`` are read. Files that cannot be read, or are of another run, are left out, and
            ``ranks.problems`` says which and why, and which ranks are missing.

    Raises:
        TraceFileError: the file is neither, is damaged or cut short, or was written by an older or a newer torchprof; or there
            is no trace in the folder, or among the files; or there are several, and none is of a rank.
        OSError: the file or the folder cannot be opened.
        ArgumentError: the path is not a path, or the list has none.

    Example:
        >>> trace = torchprof.load("step.torchprof")
        >>> print(torchprof.by_module(trace))
        >>> ranks = torchprof.load("run/")
        >>> print(torchprof.by_rank(ranks))
    """
    if isinstance(path, list | tuple):
        return load_ranks(path, _read)
    if os.path.isdir(text := text_of(path).replace("\0", "")):
        return load_ranks(text, _read)
    return load_trace(path)


def load_trace(path: AnyPath) -> Trace:
    """As `load`, of one file: a folder is refused."""
    refuse_folder(path)
    with opened(path) as stream:  # what is wrong with the path itself is an OSError
        begins, size = stream.read(BEGINNING), os.fstat(stream.fileno()).st_size
    with reading(size, of_profiler=begins[: len(file.ZIP)] != file.ZIP) as advance:
        return _read(path, advance)


def _read(path: AnyPath, advance: Callable[[int], None], known: Known | None = None) -> Trace:
    """Read a file.

    Args:
        advance: called with the number of bytes that were read since.
        known: what the files of other ranks have.
    """
    with opened(path) as stream:
        begins = stream.read(BEGINNING)
        stream.seek(0)
        if not is_snapshot(begins) and may_be_kineto(begins):
            from torchprof.importers.kineto.read import read_kineto

            return read_kineto(text_of(path), stream, advance)
        size = os.fstat(stream.fileno()).st_size
    if is_snapshot(begins):
        raise TraceFileError(f"{text_of(path)}: not a torchprof trace, but {what_else(begins)}")
    what = what_else(begins, text_of(path))
    if begins[: len(file.ZIP)] != file.ZIP[: len(begins)] or not begins or what == MODEL:
        raise TraceFileError(
            f"{text_of(path)}: not a torchprof trace, nor a file of torch.profiler{', but ' if what else ''}{what}"
        )
    parts = file.read(path, known)
    try:
        trace = Trace(**parts)
    except TraceFileError as error:  # of tables that do not go together
        raise TraceFileError(f"{text_of(path)}: damaged: {error}") from None
    advance(size)
    return trace
