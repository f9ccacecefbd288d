"""The file of a CUDA memory snapshot: the pickle that ``torch.cuda.memory._dump_snapshot`` writes, plain or in gzip.

A pickle can name any function to be called when it is read. A snapshot is made of dicts, lists, numbers and texts, for which
nothing needs to be imported: every import is refused.
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO, Final, NoReturn

from torchprof.errors import ArgumentError, TraceFileError

__all__ = ["LARGEST", "is_snapshot", "read_snapshot"]

PICKLE: Final = b"\x80"
"""How a pickle of protocol 2 and newer begins."""
GZIP: Final = b"\x1f\x8b"
OTHERS: Final = (
    (b"PK\x03\x04", "a zip archive: what torchprof or torch.save wrote; read a trace with torchprof.load(path)"),
    (b"<", "a page such as that of memory_viz"),
    (b"{", "JSON"),
    (b"[", "JSON"),
)
LARGEST: Final = 16 * 2**30
"""Bytes of a pickle: a history of a million entries with their frames has less than 2 GiB."""
WAY_OUT: Final = "torch.cuda.memory._dump_snapshot(path) writes what is needed"


def is_snapshot(begins: bytes) -> bool:
    """Whether a file that begins so is a pickle, also in gzip."""
    if begins.startswith(GZIP):
        try:
            begins = zlib.decompressobj(31).decompress(begins, 2)  # 31: with the header of gzip
        except zlib.error:
            return False
    return begins.startswith(PICKLE)


def read_snapshot(path: str | os.PathLike[str]) -> Any:
    """What is in the file: of a snapshot, a dict; of ``torch.cuda.memory_snapshot()``, a list.

    Raises:
        TraceFileError: the file is no pickle, is damaged or cut short, is larger than ``LARGEST``, or imports something.
        OSError: the file cannot be opened.
        ArgumentError: the path is not a path.
    """
    shown = os.fsdecode(path)
    try:
        opened = open(path, "rb")  # noqa: SIM115
    except ValueError as error:  # not an OSError, as where it contains a null character
        raise ArgumentError(f"path={path!r} is not a path: {error}") from None
    with opened as file:
        content: BinaryIO = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == GZIP else file  # type: ignore[assignment]
        try:
            return _read(shown, io.BufferedReader(_Limited(shown, content), 2**20))
        except TraceFileError:
            raise
        except MemoryError as error:
            raise TraceFileError(f"{shown}: does not fit into memory, or is damaged: {WAY_OUT}") from error
        except Exception as error:  # pickle raises errors of all kinds on what is no pickle
            raise TraceFileError(f"{shown}: damaged or cut short, or no memory snapshot ({error}): {WAY_OUT}") from error


def _read(shown: str, content: io.BufferedReader) -> Any:
    begins = content.peek(4)[:4]
    if not begins.startswith(PICKLE):
        found = next((what for mark, what in OTHERS if begins.startswith(mark)), "no pickle" if begins else "empty")
        raise TraceFileError(f"{shown}: not a memory snapshot of CUDA, but {found}: {WAY_OUT}")
    found = _PlainUnpickler(shown, content).load()
    if not isinstance(found, Mapping | list):
        raise TraceFileError(f"{shown}: a pickle, but of {type(found).__name__}, and no memory snapshot: {WAY_OUT}")
    return found


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, shown: str, file: io.BufferedReader) -> None:
        super().__init__(file)
        self._shown = shown

    def find_class(self, module: str, name: str, /) -> NoReturn:
        raise TraceFileError(
            f"{self._shown}: asks to import {module}.{name}, and importing can run any code: no memory snapshot needs that, so "
            f"the file is not read. {WAY_OUT}"
        )


class _Limited(io.RawIOBase):
    """A file that is read up to ``LARGEST`` bytes: what gzip makes large is not known before."""

    def __init__(self, shown: str, file: BinaryIO) -> None:
        super().__init__()
        self._shown, self._file, self._read = shown, file, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count: int = self._file.readinto(buffer)  # type: ignore[attr-defined]
        self._read += count
        if self._read > LARGEST:
            raise TraceFileError(
                f"{self._shown}: has more than {LARGEST // 2**30} GiB: record fewer entries, such as with "
                "torch.cuda.memory._record_memory_history(max_entries=100_000)"
            )
        return count
