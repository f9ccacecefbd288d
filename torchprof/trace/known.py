"""What several files have alike: read once, and kept once.

The ranks of a run train the same model by the same lines. What is equal by its bytes in their files, tables, strings, and the
model but for the addresses of its modules, is one object in memory, and what is looked through to read it is not looked through
again.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from torchprof.trace.damage import Right
from torchprof.trace.model import Model, ModuleInfo
from torchprof.trace.schema import Rows

__all__ = ["Known"]

ADDRESS: Final = re.compile(rb'"address": -?(?:0|[1-9][0-9]*)')
NO_ADDRESS: Final = b'"address": 0'
MODEL: Final = b'"model": '
AFTER_MODEL: Final = b', "dtypes": '
"""Around the model in a document, if it is as torchprof writes it. In a string, quotes have a backslash before them."""
PLACE: Final = ModuleInfo._fields.index("address")
MOST_MODELS: Final = 64
"""That are kept: every stage of a pipeline has another."""
MOST_TABLES: Final = 256
"""Tables that are kept to be compared: of ranks that have nothing in common, each has others."""


class Known:
    """What the files that were read so far have.

    Attributes:
        right: the tables that were found right last, by name: see `find_damage`.
    """

    def __init__(self) -> None:
        self.right: dict[str, Right] = {}
        self._tables: dict[tuple[str, bytes], Rows] = {}
        self._headers: dict[bytes, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        self._strings: list[str] = []
        self._models: dict[bytes, Model] = {}

    def table(self, name: str, member: bytes, layout: np.dtype[Any], begin: int = 0) -> Rows:
        """The table with these bytes, from ``begin`` on."""
        key = name, member
        if key not in self._tables and len(self._tables) >= MOST_TABLES:
            del self._tables[next(iter(self._tables))]
        found = self._tables.pop(key, None)
        self._tables[key] = found if found is not None else np.frombuffer(member, dtype=layout, offset=begin)
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

    def document(self, text: bytes, check: Callable[[Any], None]) -> tuple[Any, Model | None]:
        """What the JSON document of a file says, without its model, and the model: where another file has the same one, but for
        the addresses of its modules, that is shared and not read again.

        Args:
            check: called with the document before its model is looked at: raises where it is of another format.

        Raises:
            ValueError: it is no JSON, or its model is none: names the module.
        """
        addresses = [each.rpartition(b" ")[2] for each in ADDRESS.findall(text)]
        bare = ADDRESS.sub(NO_ADDRESS, text)
        begin, end = bare.find(MODEL) + len(MODEL), bare.rfind(AFTER_MODEL)
        is_found = bare.count(MODEL) == bare.count(AFTER_MODEL) == 1 and begin < end
        section = bare[begin:end]
        known = self._models.get(section) if is_found else None
        if known is not None and len(known.modules) == len(addresses) == section.count(NO_ADDRESS):
            document = json.loads(bare[:begin] + b"null" + bare[end:])
            check(document)
            return document, _at(known, [int(address) for address in addresses])
        document = json.loads(text)
        check(document)
        if (told := document["model"]) is None:
            return document, None
        model = Model.from_json(told)
        if is_found and len(self._models) < MOST_MODELS and json.loads(section) == [{**each, "address": 0} for each in told]:
            self._models[section] = model
        return document, model


def _at(model: Model, addresses: list[int]) -> Model:
    """The model with modules at other addresses."""
    columns = zip(model.modules, addresses, strict=True)
    return Model(tuple(ModuleInfo._make((*each[:PLACE], address, *each[PLACE + 1 :])) for each, address in columns))
