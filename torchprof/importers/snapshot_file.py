"""The file of a CUDA memory snapshot: the pickle that ``torch.cuda.memory._dump_snapshot`` writes, plain or in gzip.

A pickle can name any function to be called when it is read. A snapshot is made of dicts, lists, numbers and texts, for which
nothing needs to be imported: every import is refused.
"""

from __future__ import annotations

import gzip
import io
import pickle
from collections.abc import Mapping
from typing import Any, BinaryIO, Final, NoReturn

from torchprof.errors import TraceFileError
from torchprof.importers.folders import SNAPSHOTS, refuse_folder
from torchprof.importers.other_files import BEGINNING, MODEL, PICKLE, packed, what_else
from torchprof.paths import AnyPath, opened, text_of

__all__ = ["LARGEST", "is_snapshot", "read_snapshot"]

GZIP: Final = b"\x1f\x8b"
LARGEST: Final = 16 * 2**30
"""Bytes of a pickle: a history of a million entries with their frames has less than 2 GiB."""
WAY_OUT: Final = "torch.cuda.memory._dump_snapshot(path) writes what is needed"


def is_snapshot(begins: bytes) -> bool:
    """Whether a file that begins so is a pickle, also in gzip."""
    inner = packed(begins)
    return (begins if inner is None else inner).startswith(PICKLE)


def read_snapshot(path: AnyPath) -> Any:
    """What is in the file: of a snapshot, a dict; of ``torch.cuda.memory_snapshot()``, a list.

    Raises:
        TraceFileError: the file is no pickle, is damaged or cut short, is larger than ``LARGEST``, or imports something.
        OSError: the file cannot be opened.
        ArgumentError: the path is not a path.
    """
    name = text_of(path)
    refuse_folder(path, SNAPSHOTS)
    with opened(path) as file:
        content: BinaryIO = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == GZIP else file  # type: ignore[assignment]
        try:
            return _read(name, io.BufferedReader(_Limited(name, content), 2**20))
        except TraceFileError:
            raise
        except MemoryError as error:
            raise TraceFileError(f"{name}: does not fit into memory, or is damaged: {WAY_OUT}") from error
        except Exception as error:  # pickle raises errors of all kinds on what is no pickle
            raise TraceFileError(f"{name}: damaged or cut short, or no memory snapshot ({error}): {WAY_OUT}") from error


def _read(name: str, content: io.BufferedReader) -> Any:
    begins = content.peek(BEGINNING)[:BEGINNING]
    what = what_else(begins, name)
    if not begins.startswith(PICKLE) or what == MODEL:
        raise TraceFileError(f"{name}: not a memory snapshot of CUDA, but {what or 'no pickle'}; {WAY_OUT}")
    found = _PlainUnpickler(name, content).load()
    if not isinstance(found, Mapping | list):
        raise TraceFileError(f"{name}: a pickle, but of {type(found).__name__}, and no memory snapshot: {WAY_OUT}")
    return found


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, name: str, file: io.BufferedReader) -> None:
        super().__init__(file)
        self._name = name

    def find_class(self, module: str, name: str, /) -> NoReturn:
        raise TraceFileError(
            f"{self._name}: asks to import {module}.{name}, and importing can run any code: no memory snapshot needs that, so "
            f"the file is not read. {WAY_OUT}"
        )


class _Limited(io.RawIOBase):
    """A file that is read up to ``LARGEST`` bytes: what gzip makes large is not known before."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        super().__init__()
        self._name, self._file, self._read = name, file, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count: int = self._file.readinto(buffer)  # type: ignore[attr-defined]
        self._read += count
        if self._read > LARGEST:
            raise TraceFileError(
                f"{self._name}: has more than {LARGEST // 2**30} GiB: record fewer entries, such as with "
                "torch.cuda.memory._record_memory_history(max_entries=100_000)"
            )
        return count
