"""The file of a trace: a zip archive of numpy arrays and one JSON document, with no pickle in it.

    document.npy           UTF-8 JSON: {"torchprof": FORMAT, "strings": [...], "facts": {...}, "model": [...] or null,
                           "dtypes": [[6, "float32", 4], ...], "device_types": [[0, "cpu"], ...]}
    signature_flops.npy    int64, one for each row of signatures
    ops.npy, tensors.npy, ...    the tables of ``LAYOUTS``

What is written and read here are the parts of a `Trace`: the values of its fields, by name.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from functools import partial
from typing import Any, BinaryIO, Final

import numpy as np

from torchprof.errors import ArgumentError, TraceFileError
from torchprof.paths import AnyPath, opened, text_of, written
from torchprof.trace.damage import Damage, find_damage
from torchprof.trace.facts import wrong_fact
from torchprof.trace.kinds import is_of_kind
from torchprof.trace.known import Known
from torchprof.trace.model import Model
from torchprof.trace.schema import LAYOUTS, STACKS, Rows
from torchprof.trace.type_names import DeviceTypes, Dtype, Dtypes

__all__ = ["FORMAT", "ZIP", "from_bytes", "read", "to_bytes", "write"]

ZIP: Final = b"PK\x03\x04"
"""How a zip archive begins."""
FORMAT: Final = 5
"""The version of the file format. Raised by every change that an older torchprof would misread."""
ENCRYPTED: Final = 1
"""A flag of a member of a zip archive."""


def write(path: AnyPath, parts: Mapping[str, Any]) -> None:
    """Write the parts of a trace to a file.

    Raises:
        ArgumentError: ``facts`` has something that JSON cannot hold, or the path is not a path.
        OSError: the file cannot be written.
    """
    arrays = _arrays(parts)
    with written(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def _arrays(parts: Mapping[str, Any]) -> dict[str, Rows]:
    """The members of the archive."""
    model: Model | None = parts["model"]
    document = {
        "torchprof": FORMAT,
        "strings": parts["strings"],
        "facts": parts["facts"],
        "model": model.to_json() if model is not None else None,
        "dtypes": [[number, *dtype] for number, dtype in parts["dtypes"].items()],
        "device_types": list(parts["device_types"].items()),
    }
    arrays = {name: parts[name] for name in (*LAYOUTS, "signature_flops")}
    try:
        text = json.dumps(document)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"trace.facts cannot be written as JSON ({error}): keep plain numbers, strings and lists"
        ) from error
    return {"document": np.frombuffer(text.encode(), dtype=np.uint8), **arrays}


def to_bytes(parts: Mapping[str, Any]) -> bytes:
    """What `write` would write to a file.

    Raises:
        ArgumentError: as `write`.
    """
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **_arrays(parts))
    return stream.getvalue()


def from_bytes(content: bytes, known: Known) -> dict[str, Any]:
    """What `read` would read of a file with this content.

    Raises:
        TraceFileError: as `read`.
    """
    return _told("what was sent", io.BytesIO(content), known)


def read(path: AnyPath, known: Known | None = None) -> dict[str, Any]:
    """Read the parts of a trace from a file.

    Args:
        known: what the files of other ranks have, with which this one shares what is equal.

    Raises:
        TraceFileError: the file is not a trace, is damaged or cut short, or has another format than ``FORMAT``.
        OSError: the file cannot be opened.
        ArgumentError: the path is not a path.
    """
    shown = text_of(path)
    with opened(path) as file:  # what is wrong with the path itself is an OSError
        return _told(shown, file, known if known is not None else Known())


def _told(shown: str, stream: BinaryIO, known: Known) -> dict[str, Any]:
    """The parts of a trace. ``shown`` is what errors call it."""
    begins = stream.read(len(ZIP))
    try:
        if begins != ZIP[: len(begins)]:  # a zip archive may stand at the end of any other file
            raise TraceFileError(f"{shown}: not a torchprof trace")
        return _read(shown, stream, known)
    except TraceFileError:
        raise
    except Damage as error:
        raise TraceFileError(f"{shown}: damaged: {error}") from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise TraceFileError(f"{shown}: damaged or cut short ({error})") from error
    except Exception as error:  # the readers of zip, numpy and JSON raise errors of all kinds on other files
        raise TraceFileError(f"{shown}: not a torchprof trace, or a damaged one ({error})") from error


def _read(shown: str, stream: BinaryIO, known: Known) -> dict[str, Any]:
    size = stream.seek(0, os.SEEK_END)
    with zipfile.ZipFile(stream) as archive:
        members = set(archive.namelist())
        if "document.npy" not in members:
            if members and all(name.endswith(".npy") for name in members):
                raise TraceFileError(f"{shown}: not a torchprof trace, but arrays of numpy (.npz)")
            raise TraceFileError(
                f"{shown}: a zip archive, but not a torchprof trace: unpack it first, if it has a file of torch.profiler in it"
            )
        text = _array(archive, size, "document", np.dtype(np.uint8), Known()).tobytes()
        document, model = known.document(text, partial(_check_format, shown))
        tables = {
            name: np.zeros(0, dtype=layout)
            if name in STACKS and f"{name}.npy" not in members
            else _array(archive, size, name, layout, known)
            for name, layout in LAYOUTS.items()
        }
        flops = _array(archive, size, "signature_flops", np.dtype(np.int64), known)
    if len(flops) != len(tables["signatures"]):
        raise Damage(f"it has FLOPs for {len(flops)} of {len(tables['signatures'])} signatures")
    strings, facts = document["strings"], document["facts"]
    if not is_of_kind(strings, list[str]):
        raise Damage("its strings are no list of strings")
    strings = known.strings(strings)
    if wrong := wrong_fact(facts):
        raise Damage(wrong)
    find_damage(tables, len(strings), flops, known.right)
    return {
        **tables,
        "signature_flops": flops,
        "strings": strings,
        "facts": facts,
        "model": model,
        "dtypes": Dtypes(
            {
                _number(number): Dtype(str(name), size if size is None else int(size))
                for number, name, size in document["dtypes"]
            }
        ),
        "device_types": DeviceTypes({_number(number): str(name) for number, name in document["device_types"]}),
    }


def _array(archive: zipfile.ZipFile, size: int, name: str, layout: np.dtype[Any], known: Known) -> Rows:
    """The array of a member, which must be of this layout. Nothing is allocated for rows that are not there."""
    member = archive.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & ENCRYPTED:
        raise Damage(f"{name} is compressed or encrypted, and torchprof writes neither")
    if member.compress_size != member.file_size or member.file_size > size:
        raise Damage(f"{name} is larger than the file")
    read = archive.read(member)
    shape, dtype, begin = known.header(read)
    if dtype != layout or len(shape) != 1:
        raise Damage(f"{name} has {len(shape)} dimensions of {dtype}, not rows of {layout}")
    if len(read) - begin != shape[0] * layout.itemsize:
        raise Damage(f"{name} has {len(read) - begin:,} bytes, not those of {shape[0]:,} rows")
    return known.table(name, read, layout, begin)


def _number(number: Any) -> int:
    """The number of a dtype or device type, which tables hold in a signed byte."""
    return int(np.int8(number))


def _check_format(shown: str, document: Any) -> None:
    version = document.get("torchprof") if isinstance(document, dict) else None
    if not isinstance(version, int):
        raise TraceFileError(f"{shown}: not a torchprof trace")
    if version > FORMAT:
        raise TraceFileError(
            f"{shown}: written by a newer torchprof (format {version}; this one reads format {FORMAT}): update torchprof to "
            "read it"
        )
    if version < FORMAT:
        raise TraceFileError(
            f"{shown}: written by an older torchprof (format {version}; this one reads format {FORMAT}), which did not keep "
            "everything that is read today: record it again, or read it with the version of torchprof that wrote it"
        )
