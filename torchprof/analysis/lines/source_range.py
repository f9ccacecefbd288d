"""The lines of what somebody names: a function, a class, a module, a file."""

from __future__ import annotations

import functools
import inspect
import os
import types
from typing import Any, Final, NamedTuple

from torchprof.errors import ArgumentError

__all__ = ["SourceRange", "source_range"]

PARALLEL: Final = ("torch.nn.parallel.", "torch.distributed.fsdp.")
"""Where modules are defined that run another one in parallel."""
WHAT: Final = "a function, method, class, module, nn.Module, code object or the path of a file"


class SourceRange(NamedTuple):
    """Lines of a file.

    Attributes:
        name: of the function or the like; empty for a whole file.
        file: as Python names it.
        first: the first line, of a decorator if there is one; of a whole file, 1.
        last: that Python knows of; what belongs to the definition may go on. None: of a whole file, or not known.
    """

    name: str
    file: str
    first: int
    last: int | None


def source_range(what: Any) -> SourceRange:
    """Where this is defined.

    Raises:
        ArgumentError: it is none of these, or it is written in C.
    """
    if isinstance(what, str | os.PathLike):
        return SourceRange("", os.fspath(what), 1, None)
    if isinstance(what, types.ModuleType):
        if not (file := getattr(what, "__file__", None)):
            raise ArgumentError(f"what={what!r} has no file: it is built into Python, or a folder of modules")
        return SourceRange("", file, 1, None)
    if isinstance(what, type):
        return _of_class(what)
    code = _code_of(what)
    if code is None:
        why = "is written in C, and has no source" if callable(what) else f"must be {WHAT}"
        raise ArgumentError(f"what={what!r} {why}")
    if code.co_name == "<module>":
        return SourceRange("", code.co_filename, 1, None)
    return SourceRange(code.co_qualname, code.co_filename, code.co_firstlineno, _last_line(code))


def _code_of(what: Any) -> types.CodeType | None:
    """The code of a function, whatever is wrapped around it; None: there is none."""
    seen: set[int] = set()
    while id(what) not in seen:
        seen.add(id(what))
        if isinstance(what, types.CodeType):
            return what
        if isinstance(what, functools.partial | functools.partialmethod):
            what = what.func
        elif isinstance(what, property):
            what = what.fget
        elif isinstance(what, functools.cached_property):
            what = what.func
        elif hasattr(what, "__wrapped__"):  # functools.wraps, lru_cache, staticmethod and classmethod
            what = what.__wrapped__
        elif (original := getattr(what, "_torchdynamo_orig_callable", None)) is not None:  # torch.compile
            what = original
        elif isinstance(what, types.MethodType):
            what = what.__func__
        elif isinstance(what, types.FunctionType):
            return what.__code__
        elif isinstance(what, types.GeneratorType | types.CoroutineType | types.AsyncGeneratorType):
            what = next(code for name in ("gi_code", "cr_code", "ag_code") if (code := getattr(what, name, None)) is not None)
        elif (original := getattr(what, "_orig_mod", None)) is not None:  # a module in torch.compile
            what = original
        elif type(what).__module__.startswith(PARALLEL) and hasattr(what, "module"):
            what = what.module
        elif not isinstance(what, type) and callable(forward := getattr(what, "forward", None)):  # an nn.Module
            what = forward
        elif not isinstance(what, type) and isinstance(call := _call_of(what), types.FunctionType):
            what = call
        else:
            return None
    return None


def _call_of(what: Any) -> Any:
    """The method by which an object is called, as its class has it."""
    return next((vars(cls)["__call__"] for cls in type(what).__mro__ if "__call__" in vars(cls)), None)


def _of_class(what: type) -> SourceRange:
    try:
        file = inspect.getfile(what)
    except (TypeError, OSError):
        file = ""
    codes = [code for value in vars(what).values() if (code := _own_code(value, what)) is not None]
    file = codes[0].co_filename if codes else file
    if not file:
        raise ArgumentError(f"what={what!r} is written in C, and has no source")
    try:
        lines, first = inspect.getsourcelines(what)
    except (OSError, TypeError):
        if not codes:
            raise ArgumentError(f"what={what!r}: the source of {file} is not there") from None
        return SourceRange(what.__qualname__, file, min(code.co_firstlineno for code in codes), max(map(_last_line, codes)))
    return SourceRange(what.__qualname__, file, first, first + len(lines) - 1)


def _own_code(value: Any, owner: type) -> types.CodeType | None:
    """The code of a method that was defined in the body of this class."""
    is_method = isinstance(value, types.FunctionType | staticmethod | classmethod | property)
    code = _code_of(value) if is_method else None
    return code if code is not None and code.co_qualname.startswith(f"{owner.__qualname__}.") else None


def _last_line(code: types.CodeType) -> int:
    """The last line of a function and of all that is defined in it."""
    lines = [end for _, end, _, _ in code.co_positions() if end is not None]
    inside = [_last_line(const) for const in code.co_consts if isinstance(const, types.CodeType)]
    return max([code.co_firstlineno, *lines, *inside])
