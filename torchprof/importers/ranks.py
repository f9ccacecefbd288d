"""Reads the traces of many ranks: those in a folder, or in a list of files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from torchprof.errors import ArgumentError, TorchprofError, TraceFileError
from torchprof.importers.folders import files_in
from torchprof.importers.progress import reading
from torchprof.paths import AnyPath, text_of
from torchprof.terminal import printable
from torchprof.trace.known import Known
from torchprof.trace.rank import rank_of
from torchprof.trace.ranks import Ranks
from torchprof.trace.trace import Trace
from torchprof.wording import counted

__all__ = ["load_ranks"]


def load_ranks(of: str | Sequence[AnyPath], read: Callable[[AnyPath, Callable[[int], None], Known], Trace]) -> Ranks:
    """The traces in a folder, or in these files.

    Args:
        read: reads one file, says how far it is, and shares with the others what is equal.

    Raises:
        TraceFileError: there is no trace, or none that can be read; or there are several, and none is of a rank.
        ArgumentError: there are no files, or one is not a path.
        OSError: the folder cannot be read.
    """
    paths = files_in(of) if isinstance(of, str) else [text_of(path) for path in of]
    if not paths:
        raise ArgumentError("path=[] names no file: give the files of the ranks, or their folder")
    sizes = {path: os.path.getsize(path) if os.path.isfile(path) else 0 for path in paths}
    traces, files, problems, known = [], [], [], Known()
    with reading(sum(sizes.values())) as advance:
        for path in paths:
            done = 0

            def count(read: int) -> None:
                nonlocal done
                done += read
                advance(read)

            try:
                traces.append(read(path, count, known))
                files.append(path)
            except (TorchprofError, OSError) as error:
                name = os.path.basename(path) if isinstance(of, str) else path
                problems.append(f"{name} is left out: {_reason(error, path)}")
            advance(sizes[path] - done)
    if not traces:
        more = f" ({counted(len(problems) - 1, 'more file')} like it)" if len(problems) > 1 else ""
        where = f"{of}: " if isinstance(of, str) else ""
        raise TraceFileError(f"{where}no file of a rank can be read: {problems[0]}{more}")
    if len(traces) > 1 and all(rank_of(trace.facts) is None for trace in traces):
        where = f"{of}: is a folder, and" if isinstance(of, str) else f"of {len(paths)} files"
        raise TraceFileError(f"{where} no trace is of a rank: give one file, such as {files[0]}")
    return Ranks.of(traces, files, problems)


def _reason(error: Exception, path: str) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).removeprefix(f"{printable(path)}: ")  # as messages of errors are
