"""The file of a trace: a zip archive of numpy arrays and one JSON document, with no pickle in it.

    document.npy           UTF-8 JSON: {"torchprof": FORMAT, "strings": [...], "facts": {...}, "model": [...] or null,
                           "dtypes": [[6, "float32", 4], ...], "device_types": [[0, "cpu"], ...]}
    signature_flops.npy    int64, one for each row of signatures
    ops.npy, tensors.npy, ...    the tables of ``LAYOUTS``

What is written and read here are the parts of a `Trace`: the values of its fields, by name.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO, Final, Literal

import numpy as np

from torchprof.errors import ArgumentError, TraceFileError
from torchprof.trace.model import Model
from torchprof.trace.schema import LAYOUTS, STACKS, Rows
from torchprof.trace.type_names import DeviceTypes, Dtype, Dtypes

__all__ = ["FORMAT", "opened", "read", "write"]

ZIP: Final = b"PK\x03\x04"
"""How a zip archive begins."""
FORMAT: Final = 5
"""The version of the file format. Raised by every change that an older torchprof would misread."""

STRING_COLUMNS: Final = (
    ("signatures", "name"),
    ("modules", "type"),
    ("marks", "name"),
    ("kernels", "name"),
    ("runtime_calls", "name"),
    ("functions", "name"),
    ("functions", "file"),
)
"""Columns that are a row of the list of strings, or -1."""


def write(path: str | os.PathLike[str], parts: Mapping[str, Any]) -> None:
    """Write the parts of a trace to a file.

    Raises:
        ArgumentError: ``facts`` has something that JSON cannot hold, or the path is not a path.
        OSError: the file cannot be written.
    """
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
    encoded = np.frombuffer(text.encode(), dtype=np.uint8)
    with opened(path, "wb") as file:
        np.savez(file, allow_pickle=False, document=encoded, **arrays)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the parts of a trace from a file.

    Raises:
        TraceFileError: the file is not a trace, is damaged or cut short, or has another format than ``FORMAT``.
        OSError: the file cannot be opened.
        ArgumentError: the path is not a path.
    """
    shown = os.fspath(path)
    with opened(path, "rb") as file:  # what is wrong with the path itself is an OSError
        begins = file.read(len(ZIP))
    try:
        if begins != ZIP[: len(begins)]:  # numpy takes any other file for a pickle, and recommends to load it as one
            raise TraceFileError(f"{shown}: not a torchprof trace")
        return _read(shown)
    except TraceFileError:
        raise
    except (zipfile.BadZipFile, EOFError) as error:
        raise TraceFileError(f"{shown}: damaged or cut short ({error})") from error
    except Exception as error:  # the readers of zip, numpy and JSON raise errors of all kinds on other files
        raise TraceFileError(f"{shown}: not a torchprof trace, or a damaged one ({error})") from error


def opened(path: str | os.PathLike[str], mode: Literal["rb", "wb"]) -> BinaryIO:
    """The file at this path.

    Raises:
        OSError: it cannot be opened.
        ArgumentError: the path is not a path.
    """
    if not isinstance(path, str | os.PathLike):  # open() takes numbers for open files
        raise ArgumentError(f"path={path!r} is not a path")
    try:
        return open(path, mode)
    except ValueError as error:  # not an OSError, as where it contains a null character
        raise ArgumentError(f"path={path!r} is not a path: {error}") from None


def _read(shown: str) -> dict[str, Any]:
    with np.load(shown, allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile) or "document" not in archive:
            raise TraceFileError(f"{shown}: not a torchprof trace")
        document = json.loads(archive["document"].tobytes())
        _check_format(shown, document)
        tables: dict[str, Rows] = {
            name: archive[name].astype(layout, copy=False)
            for name, layout in LAYOUTS.items()
            if name in archive or name not in STACKS
        }
        tables |= {name: np.zeros(0, dtype=layout) for name, layout in STACKS.items() if name not in tables}
        flops = archive["signature_flops"].astype(np.int64, copy=False)
    if len(flops) != len(tables["signatures"]):
        raise TraceFileError(f"{shown}: damaged: it has FLOPs for {len(flops)} of {len(tables['signatures'])} signatures")
    strings, facts, model = document["strings"], document["facts"], document["model"]
    if not (isinstance(facts, dict) and isinstance(strings, list) and all(isinstance(text, str) for text in strings)):
        raise TraceFileError(f"{shown}: damaged: its document has other contents than a trace's")
    names = np.concatenate([tables[table][column] for table, column in STRING_COLUMNS])
    if names.max(initial=0) >= max(1, len(strings)):
        raise TraceFileError(f"{shown}: damaged: rows name strings that are not there")
    _check_references(shown, tables)
    return {
        **tables,
        "signature_flops": flops,
        "strings": strings,
        "facts": facts,
        "model": Model.from_json(model) if model is not None else None,
        "dtypes": Dtypes(
            {
                _number(number): Dtype(str(name), size if size is None else int(size))
                for number, name, size in document["dtypes"]
            }
        ),
        "device_types": DeviceTypes({_number(number): str(name) for number, name in document["device_types"]}),
    }


def _check_references(shown: str, tables: Mapping[str, Rows]) -> None:
    """Analyses follow these from row to row: what is around a row comes before it, so they come to an end."""
    for name in ("ops", "module_calls", "stacks"):
        parent = tables[name]["parent"]
        if (parent >= np.arange(len(parent))).any():
            raise TraceFileError(f"{shown}: damaged: rows of {name} are not inside others that began before them")
    signatures, operands, shapes = tables["signatures"], tables["operands"], tables["shapes"]
    references = [
        ("signatures", tables["ops"]["signature"], len(signatures)),
        ("modules", tables["module_calls"]["module"], len(tables["modules"])),
        ("tensors", operands, len(tables["tensors"])),
        ("shapes", tables["tensors"]["shape"], len(shapes)),
        ("dims", shapes["first"].astype(np.int64) + shapes["ndim"], len(tables["dims"]) + 1),
        ("calls", tables["ops"]["module_call"], len(tables["module_calls"])),
        ("functions", tables["stacks"]["function"], len(tables["functions"])),
        *(("stacks", tables[name], len(tables["stacks"])) for name in ("op_stacks", "call_stacks", "allocation_stacks")),
    ]
    for name, rows, count in references:
        if rows.max(initial=0) >= max(1, count):
            raise TraceFileError(f"{shown}: damaged: rows name {name} that are not there")


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
