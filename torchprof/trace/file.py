"""The file of a trace: a zip archive of numpy arrays and one JSON document, with no pickle in it."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import fields
from typing import Final

import numpy as np

from torchprof.errors import TraceFileError
from torchprof.trace.model import Model
from torchprof.trace.schema import LAYOUTS
from torchprof.trace.trace import Trace

__all__ = ["FORMAT", "load", "save"]

FORMAT: Final = 3
"""The version of the file format. Raised by every change that an older torchprof would misread."""


def save(trace: Trace, path: str | os.PathLike[str]) -> None:
    """Write a trace to a file."""
    document = {
        "torchprof": FORMAT,
        "strings": trace.strings,
        "facts": trace.facts,
        "model": trace.model.to_json() if trace.model is not None else None,
    }
    arrays = {item.name: getattr(trace, item.name) for item in fields(trace) if item.name in LAYOUTS}
    encoded = np.frombuffer(json.dumps(document).encode(), dtype=np.uint8)
    with open(path, "wb") as file:
        np.savez(file, allow_pickle=False, document=encoded, **arrays)


def load(path: str | os.PathLike[str]) -> Trace:
    """Read a trace that ``Trace.save`` wrote. Needs neither the compiled recorder nor the model.

    Raises:
        TraceFileError: the file is no trace, is damaged or cut short, or was written by a newer torchprof.
        OSError: the file cannot be opened.
    """
    shown = os.fspath(path)
    with open(path, "rb"):  # what is wrong with the path itself is an OSError
        pass
    try:
        return _read(shown)
    except TraceFileError:
        raise
    except (zipfile.BadZipFile, EOFError) as error:
        raise TraceFileError(f"{shown}: damaged or cut short ({error})") from error
    except Exception as error:  # the readers of zip, numpy and JSON raise all kinds on what is no file of theirs
        raise TraceFileError(f"{shown}: not a torchprof trace, or a damaged one ({error})") from error


def _read(shown: str) -> Trace:
    with np.load(shown, allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile) or "document" not in archive:
            raise TraceFileError(f"{shown}: not a torchprof trace")
        document = json.loads(archive["document"].tobytes())
        version = document.get("torchprof") if isinstance(document, dict) else None
        if not isinstance(version, int):
            raise TraceFileError(f"{shown}: not a torchprof trace")
        if version > FORMAT:
            raise TraceFileError(
                f"{shown}: written by a newer torchprof (format {version}; this one reads up to {FORMAT}): "
                "update torchprof to read it"
            )
        if version < FORMAT:
            raise TraceFileError(f"{shown}: written by an older torchprof (format {version}; this one reads {FORMAT})")
        tables = {name: archive[name].astype(layout, copy=False) for name, layout in LAYOUTS.items()}
    strings, facts, model = document["strings"], document["facts"], document["model"]
    if not (isinstance(facts, dict) and isinstance(strings, list) and all(isinstance(text, str) for text in strings)):
        raise TraceFileError(f"{shown}: damaged: its document has other contents than a trace's")
    named = (("signatures", "name"), ("modules", "type"), ("marks", "name"), ("kernels", "name"), ("runtime_calls", "name"))
    names = np.concatenate([tables[table][column] for table, column in named])
    if names.max(initial=0) >= max(1, len(strings)):
        raise TraceFileError(f"{shown}: damaged: rows name strings that are not there")
    return Trace(**tables, strings=strings, facts=facts, model=Model.from_json(model) if model is not None else None)
