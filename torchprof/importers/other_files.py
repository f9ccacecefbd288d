"""What a file is that is none of those that are wanted, by how it begins, and what reads it: for messages."""

from __future__ import annotations

import zlib
from typing import Final

from torchprof.importers.kineto.beginning import is_json

__all__ = ["BEGINNING", "MODEL", "PICKLE", "packed", "what_else"]

BEGINNING: Final = 2**12
"""Bytes of a file that tell what it is."""
ZIP: Final = b"PK\x03\x04"
GZIP: Final = b"\x1f\x8b"
PICKLE: Final = b"\x80"
"""How a pickle of protocol 2 and newer begins."""
MODEL: Final = "what torch.save wrote, a model or tensors: torchprof.summary(model) shows a model"
MODEL_MAGIC: Final = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The number with which files of ``torch.save`` begin since before they were zip archives."""
OF_SNAPSHOTS: Final = (b"segments", b"device_traces", b"total_size")
OF_PROFILER: Final = (b'"traceEvents"', b'"schemaVersion"', b'"deviceProperties"')
_UTF_16: Final = "text in UTF-16, such as PowerShell writes: convert it, as with iconv -f UTF-16 -t UTF-8"
_BEGINNINGS: Final = (
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x28\xb5\x2f\xfd", "packed by Zstandard: unpack it first"),
    (b"BZh", "packed by bzip2: unpack it first"),
    (b"\xfd7zXZ", "packed by xz: unpack it first"),
    (b"\xff\xfe", _UTF_16),
    (b"\xfe\xff", _UTF_16),
    (b"{\x00", _UTF_16),
    (b"[\x00", _UTF_16),
    (b"\x00{", _UTF_16),
    (b"\x00[", _UTF_16),
    (b"version https://git-lfs", "a pointer of Git LFS: get the file itself with git lfs pull"),
    (b"SQLite format 3", "a database, as nsys export makes of a report of Nsight Systems"),
    (b"\x89HDF", "a file of HDF5, as Keras saves models in"),
    (b"\x93NUMPY", "an array of numpy"),
    (b"\x7fELF", "a compiled program or library"),
    (b"<", "a page, such as a report of torchprof or that of memory_viz: give the recording that it was made of"),
)


def what_else(begins: bytes, path: str = "") -> str:
    """What a file with this beginning is, and what reads it; empty where that is not known.

    Args:
        path: of the file, where its name tells more.
    """
    if not begins:
        return "empty"
    inner = packed(begins)
    if inner is not None:
        return what_else(inner) if not inner.startswith(GZIP) else "packed by gzip twice: unpack it first"
    if begins.startswith(ZIP):
        return _archive(begins)
    if begins.startswith(PICKLE):
        return _pickle(begins)
    if is_json(begins):
        is_of_profiler = any(name in begins for name in OF_PROFILER)
        return f"{'a file of torch.profiler' if is_of_profiler else 'JSON'}: torchprof.load(path) reads those of torch.profiler"
    if begins[8:10] == b'{"' and not any(begins[6:8]):
        return "weights in safetensors: torchprof.summary(model) shows the model that they are of"
    text = begins.removeprefix(b"\xef\xbb\xbf").lstrip()
    found = next((what for mark, what in _BEGINNINGS if begins.startswith(mark) or text.startswith(mark)), "")
    if not found and path.endswith(".py"):
        return "a program: torchprof run records one"
    return found


def packed(begins: bytes) -> bytes | None:
    """How what is packed by gzip begins, as far as these bytes tell; None where nothing is."""
    if not begins.startswith(GZIP):
        return None
    try:
        return zlib.decompressobj(31).decompress(begins, BEGINNING)  # 31: with the header of gzip
    except zlib.error:
        return None


def _archive(begins: bytes) -> str:
    """A zip archive, by the name of its first file."""
    first = begins[30 : 30 + int.from_bytes(begins[26:28], "little")].decode("utf-8", "replace")
    if first == "document.npy":
        return "a trace of torchprof: torchprof.load(path) reads it"
    if first.endswith(("/data.pkl", "/.format_version", "/.data/version", "/byteorder")):
        return MODEL
    if first.endswith(".npy"):
        return "arrays of numpy (.npz)"
    return "a zip archive: unpack it first"


def _pickle(begins: bytes) -> str:
    if any(name in begins for name in OF_SNAPSHOTS):
        return "a memory snapshot of CUDA: torchprof.memory(path) reads it"
    if MODEL_MAGIC in begins[:32]:
        return MODEL
    return "a pickle: torchprof.memory(path) reads those that torch.cuda.memory._dump_snapshot wrote"
