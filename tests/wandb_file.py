"""What a run of Weights & Biases stored while it was offline: the records of its ``.wandb`` file."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["history"]

HEADER, BLOCK = 7, 32768
LONGEST = 60
"""Seconds to wait for its end."""
LAST = (1, 4)
"""Kinds of a part of a record that end it: the whole one, and the last."""


def history(folder: Path) -> list[dict[str, Any]]:
    """The rows of the history of a run that was finished, as the charts show them.

    The process that writes it may still be at it.
    """
    (path,) = folder.glob("**/*.wandb")
    end = time.monotonic() + LONGEST
    while True:
        records = [(record.WhichOneof("record_type"), record) for record in _records(path.read_bytes())]
        if any(kind == "exit" for kind, _ in records):
            break
        assert time.monotonic() < end, f"{path} has no end"
        time.sleep(0.05)
    rows = [record.history for kind, record in records if kind == "history"]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item} for row in rows]


def _records(data: bytes) -> Iterator[Any]:
    """The format is that of LevelDB's logs: blocks of 32 KiB, in them parts with checksum, length and kind before each."""
    from wandb.proto.wandb_internal_pb2 import Record

    at, parts = HEADER, b""
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in LAST:
            yield Record.FromString(parts)
            parts = b""
