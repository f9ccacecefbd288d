"""`torchprof.load`: a trace from a file, by what is in it: torchprof's own format, or what ``torch.profiler`` wrote."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import BinaryIO, Final

from torchprof.errors import TraceFileError
from torchprof.importers.kineto.beginning import may_be_kineto
from torchprof.importers.other_files import what_else
from torchprof.importers.snapshot_file import is_snapshot
from torchprof.terminal import is_terminal
from torchprof.trace import file
from torchprof.trace.trace import Trace

__all__ = ["load"]

LONGEST_BEGINNING: Final = 2**12
LONG: Final = 32 * 2**20
"""Bytes of a file that takes long enough to read to show how far it is."""


def load(path: str | os.PathLike[str]) -> Trace:
    """Read a trace: what ``Trace.save`` wrote, or what ``torch.profiler`` exported.

    Needs neither PyTorch, the compiled recorder nor the model. Which of the two a file is, is told by its contents, not by its
    name. Of torch.profiler, these are read: JSON of ``export_chrome_trace`` and ``tensorboard_trace_handler``, plain or
    ``.gz``, from 2021 to today, with CUDA or ROCm. What such a file does not know is unknown in the trace, and
    ``trace.facts["notes"]`` says what was left out of it. It is read twice as fast where msgspec is installed.

    Raises:
        TraceFileError: the file is neither, is damaged or cut short, or was written by an older or a newer torchprof.
        OSError: the file cannot be opened.
        ArgumentError: the path is not a path.

    Example:
        >>> trace = torchprof.load("step.torchprof")
        >>> print(torchprof.by_module(trace))
    """
    with file.opened(path, "rb") as stream:  # what is wrong with the path itself is an OSError
        begins = stream.read(LONGEST_BEGINNING)
        stream.seek(0)
        if not is_snapshot(begins) and may_be_kineto(begins):
            from torchprof.importers.kineto.read import read_kineto

            with _progress(stream) as advance:
                return read_kineto(os.fspath(path), stream, advance)
    if is_snapshot(begins):
        raise TraceFileError(
            f"{os.fspath(path)}: not a torchprof trace; a memory snapshot of CUDA is read by torchprof.memory(path)"
        )
    if begins[: len(file.ZIP)] != file.ZIP[: len(begins)] or not begins:
        what = what_else(begins)
        raise TraceFileError(
            f"{os.fspath(path)}: not a torchprof trace, nor a file of torch.profiler{', but ' if what else ''}{what}"
        )
    return Trace(**file.read(path))


@contextmanager
def _progress(stream: BinaryIO) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, if that is a terminal and the file is large."""
    size = os.fstat(stream.fileno()).st_size
    if size < LONG or not is_terminal(sys.stderr):
        yield lambda read: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    text = "reading" if find_spec("msgspec") is not None else "reading (faster with msgspec: pip install msgspec)"
    shown = (TextColumn(text), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*shown, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=size)
        yield lambda read: bar.advance(task, read)
