"""What several files have alike: read once, and kept once.

The ranks of a run train the same model by the same lines. What is equal by its bytes in their files, tables, strings, and the
model but for the addresses of its modules, is one object in memory, and what is looked through to read it is not looked through
again.
"""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np

from torchprof.trace.kinds import is_of_kind
from torchprof.trace.model import Model
from torchprof.trace.schema import Rows

__all__ = ["Known"]

ADDRESS: Final = "address"
MOST_TABLES: Final = 256
"""Tables that are kept to be compared: of ranks that have nothing in common, each has others."""


class Known:
    """What the files that were read so far have."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, bytes], Rows] = {}
        self._headers: dict[bytes, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        self._strings: list[str] = []
        self._document: list[dict[str, Any]] = []
        self._model: Model | None = None

    def table(self, name: str, rows: bytes, layout: np.dtype[Any]) -> Rows:
        """The table with these bytes."""
        key = name, rows
        if key not in self._tables and len(self._tables) >= MOST_TABLES:
            del self._tables[next(iter(self._tables))]
        found = self._tables.pop(key, None)
        self._tables[key] = found if found is not None else np.frombuffer(rows, dtype=layout)
        return self._tables[key]

    def header(self, member: bytes) -> tuple[tuple[int, ...], np.dtype[Any], int]:
        """The shape and dtype that the header of a numpy array says, and how many bytes it has.

        Raises:
            ValueError: it is none.
        """
        stream = io.BytesIO(member)
        version = np.lib.format.read_magic(stream)
        width = 2 if version == (1, 0) else 4
        begin = stream.tell()
        end = begin + width + int.from_bytes(member[begin : begin + width], "little")
        text = member[:end]
        if text not in self._headers:
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
            if len(self._headers) >= MOST_TABLES:
                self._headers.clear()
            self._headers[text] = shape, dtype
        return *self._headers[text], end

    def strings(self, strings: list[str]) -> list[str]:
        """These strings."""
        if strings != self._strings:
            self._strings = strings
        return self._strings

    def model(self, document: Any) -> Model:
        """The model of such data: as `Model.from_json`, with what is not an address shared with the last one, if that is equal.

        Raises:
            ValueError: it is no such data: names the module.
        """
        if not isinstance(document, list) or not all(isinstance(module, dict) for module in document):
            return Model.from_json(document)
        addresses = [module.pop(ADDRESS, None) for module in document]
        if self._model is not None and document == self._document and is_of_kind(addresses, list[int]):
            columns = zip(self._model.modules, addresses, strict=True)
            return Model(tuple(module._replace(address=address) for module, address in columns))
        whole = [
            module if address is None else {**module, ADDRESS: address}
            for module, address in zip(document, addresses, strict=True)
        ]
        self._model = Model.from_json(whole)
        self._document = document
        return self._model
