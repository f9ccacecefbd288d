"""Where classes are defined: the file and the line of the ``class`` statement.

It is looked for in the text of the file, which is not parsed, since every recording ends with it: before the first method that
the class has of its own or, where it has none, where its module has one class of this name and that is it. Classes that are
made without a ``class`` statement have no line, and neither have those whose file is not there.
"""

from __future__ import annotations

import inspect
import linecache
import re
import sys
from collections.abc import Iterator
from types import CodeType
from typing import Any
from weakref import WeakKeyDictionary

from torchprof.record.source_files import cell_of

__all__ = ["definition_of"]

_known: WeakKeyDictionary[type, str | None] = WeakKeyDictionary()


def definition_of(kind: type) -> str | None:
    """``/home/me/my_network.py:14``, or ``In[3]:14`` of a cell of a notebook; None where it is not known."""
    if kind not in _known:
        try:
            _known[kind] = _definition(kind)
        except Exception:  # attributes of classes may be code of the program
            _known[kind] = None
    return _known[kind]


def _definition(kind: type) -> str | None:
    codes = list(_codes_of_methods(kind))
    module = sys.modules.get(kind.__module__)
    if codes:
        first = min(codes, key=lambda code: code.co_firstlineno)
        file, before = first.co_filename, first.co_firstlineno
    elif getattr(module, kind.__name__, None) is kind and getattr(module, "__file__", None):
        file, before = str(module.__file__), None  # type: ignore[union-attr]
    else:
        return None
    indent = r"\s*" if codes else ""  # without methods, it is the module's
    statement = re.compile(rf"{indent}class\s+{re.escape(kind.__name__)}\b")
    text = linecache.getlines(file, getattr(module, "__dict__", None))
    found = [number for number, line in enumerate(text[:before], start=1) if statement.match(line)]
    if not found or (before is None and len(found) > 1):
        return None
    return f"{cell_of(file) or file}:{found[-1]}"


def _codes_of_methods(kind: type) -> Iterator[CodeType]:
    """Of the functions that were defined in the class, not those that were set later or generated, as by ``dataclass``."""
    for name, member in vars(kind).items():
        function: Any = inspect.unwrap(getattr(member, "__func__", getattr(member, "fget", None) or member))
        code = getattr(function, "__code__", None)
        if isinstance(code, CodeType) and code.co_qualname == f"{kind.__qualname__}.{name}":
            yield code
