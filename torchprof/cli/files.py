"""The files that subcommands read: traces of torchprof and torch.profiler, and memory snapshots of CUDA."""

from __future__ import annotations

import os
import shlex
from typing import Final

import torchprof
from torchprof.cli.arguments import UsageError
from torchprof.cli.progress import working
from torchprof.errors import TraceFileError
from torchprof.importers.folders import ENDINGS, SNAPSHOTS, refuse_folder
from torchprof.importers.other_files import BEGINNING, what_else
from torchprof.importers.snapshot_file import is_snapshot
from torchprof.paths import opened
from torchprof.terminal import printable

__all__ = ["beside", "folder_of_ranks", "holds_snapshot", "is_trace", "quoted", "ranks_of", "refuse_to_overwrite", "trace_of"]

ZIP: Final = b"PK"
"""How a trace of torchprof's own begins."""
WHERE_FROM: Final = "give a file that Trace.save(), torch.profiler or torch.cuda.memory._dump_snapshot wrote"


def holds_snapshot(path: str) -> bool:
    """Whether this is a memory snapshot, and no trace.

    Raises:
        OSError: it cannot be read.
        TraceFileError: it is something else that people try.
    """
    refuse_folder(path, (*ENDINGS, *SNAPSHOTS))
    with opened(path) as file:
        begins = file.read(BEGINNING)
    if not begins:
        raise TraceFileError(f"{path}: is empty: {WHERE_FROM}")
    if path.endswith(".py") and not begins.startswith(ZIP):
        raise TraceFileError(f"{path}: a program, not a recording: torchprof run {quoted(path)} records one")
    return is_snapshot(begins)


def trace_of(path: str, lacking: str = "ops") -> torchprof.Trace:
    """The trace in a file.

    Args:
        lacking: what the subcommand needs that memory snapshots do not have.

    Raises:
        OSError, TraceFileError: it cannot be read, or is a memory snapshot.
    """
    if holds_snapshot(path):
        raise TraceFileError(f"{path}: memory snapshots have no {lacking}: torchprof memory {quoted(path)}")
    with opened(path) as file:
        is_own = file.read(len(ZIP)) == ZIP
    if not is_own:
        return torchprof.load(path)  # which shows how far it is by itself
    with working(f"reading {path}"):
        return torchprof.load(path)


def is_trace(path: str) -> bool:
    """Whether this seems to be a trace, of torchprof or of torch.profiler."""
    with opened(path) as file:
        return what_else(file.read(BEGINNING)).startswith(("a trace of", "a file of torch.profiler"))


def ranks_of(path: str) -> torchprof.Ranks | None:
    """The ranks in a folder; None where this is no folder.

    Raises:
        OSError, TraceFileError: there are none.
    """
    ranks = torchprof.load(path) if os.path.isdir(path) else None
    return ranks if isinstance(ranks, torchprof.Ranks) else None


def folder_of_ranks(path: str) -> torchprof.Ranks:
    """The ranks in a folder.

    Raises:
        OSError, TraceFileError: there are none, or this is no folder.
    """
    ranks = ranks_of(path)
    if ranks is None:
        trace_of(path)  # which says what else is wrong with it
        raise TraceFileError(f"{path}: is of one process: give the folder with the files of all ranks")
    return ranks


def quoted(path: str) -> str:
    """A path for a shell."""
    return printable(shlex.quote(path))


def beside(path: str, ending: str) -> str:
    """The name of what is made of a file, in the current folder: ``step.html`` for ``runs/step.torchprof``; of a folder
    too: ``run.html`` for ``run/``.
    """
    name = os.path.basename(os.path.abspath(path))
    for known in (".gz", ".json", ".torchprof", ".pt.trace"):
        name = name.removesuffix(known) or name
    return f"{name}{ending}"


def refuse_to_overwrite(source: str, path: str, option: str = "-o") -> None:
    """Raise UsageError where what is written would take the place of what it is made of."""
    if os.path.exists(path) and os.path.samefile(source, path):
        raise UsageError(f"{option} {path}: this is FILE itself, which would be lost: give another name")
