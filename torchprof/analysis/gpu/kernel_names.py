"""Short names of kernels: demangled C++ without namespaces, parameters and details of data access."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Final

__all__ = ["short_name"]

MOST_ARGUMENTS: Final = 2
DEEPEST: Final = 3

PLUMBING: Final = frozenset(
    "array Array TrivialOffsetCalculator OffsetCalculator LoadWithoutCast StoreWithoutCast LoadWithCast StoreWithCast "
    "TensorInfo PhiloxCudaState integral_constant".split()
)
"""Template arguments that say how data is accessed, not what is computed. All names that end in ``Metadata`` are too."""
_BUILT_IN: Final = frozenset("bool char short int long float double".split())
_CPP: Final = re.compile(r"::|<|\w\(")  # does not match "Memcpy HtoD (Pageable -> Device)"
_OPENS, _CLOSES = "<({[", ">)}]"
_LAMBDA: Final = re.compile(r"\{lambda[^{}]*\}#?\d*|'lambda\d*'|\{unnamed type#\d+\}")


@functools.lru_cache(maxsize=65536)
def short_name(name: str) -> str:
    """The part of a kernel's name that says what it computes. A name that is not C++ is returned unchanged.

    Kept are the name of the function, and the first two of its template arguments that are types and say what is computed. A
    lambda gets the name of the function that it is defined in.

    Example:
        >>> short_name("void at::native::reduce_kernel<512, 1, at::native::MaxOps<float>, std::array<char*, 3ul> >(...)")
        'reduce_kernel<MaxOps<float>>'
    """
    if not _CPP.search(name):
        return name
    try:
        short = _shortened(name, DEEPEST)
    except ValueError:  # brackets do not match: the name was cut off, or is not C++
        return name
    return short or name


def _shortened(text: str, depth: int) -> str:
    """The last part of a qualified name, with the template arguments worth keeping."""
    text = _LAMBDA.sub("", text).replace("(anonymous namespace)::", "").replace("operator()", "").strip()
    parts = [part for part in _split(_without_parameters(text), "::") if part.strip()]
    if not parts:
        return ""
    last = parts[-1].strip()
    base, bracket, rest = last.partition("<")
    base = base.split(" ")[-1] if not _is_built_in(base) else base.strip()
    if base == "kernel" and len(parts) > 1:  # too general by itself, as in gemvx::kernel
        base = f"{parts[-2].split(' ')[-1]}::{base}"
    if not bracket or not depth:
        return base
    kept: list[str] = []
    for argument in _split(rest[: rest.rindex(">")], ","):
        short = _argument(argument.strip(), depth - 1)
        if short and short not in kept:
            kept.append(short)
    return f"{base}<{', '.join(kept[:MOST_ARGUMENTS])}>" if kept else base


def _argument(text: str, depth: int) -> str:
    """A template argument in short; empty where it is a number, a pointer or in ``PLUMBING``."""
    if not text or not (text[0].isalpha() or text[0] in "_({") or text in ("true", "false") or text.endswith("*"):
        return ""
    if re.match(r"\([^()]*\)\S", text) and not text.startswith("(anonymous namespace)"):
        return ""  # an enum value or a number, as in (bool)1
    short = _shortened(text, depth)
    base = short.partition("<")[0]
    return "" if base in PLUMBING or base.endswith("Metadata") else short


def _is_built_in(text: str) -> bool:
    words = text.split()
    return bool(words) and words[-1] in _BUILT_IN and all(word in _BUILT_IN | {"unsigned", "signed"} for word in words)


def _without_parameters(text: str) -> str:
    """The text without parameters, which are the parentheses outside of template arguments, and without ``const``."""
    kept = "".join(part for part, level, opened in _levels(text) if opened != "(")
    return kept.replace(" const", "")


def _levels(text: str) -> Iterator[tuple[str, int, str]]:
    """Every character, with the number of brackets that are open there, and the outermost of them.

    Raises:
        ValueError: brackets do not match.
    """
    open_brackets: list[str] = []
    previous = ""
    for character in text:
        if character in _OPENS:
            open_brackets.append(character)
        yield character, len(open_brackets), "".join(open_brackets[:1])
        if (
            character in _CLOSES
            and not (character == ">" and previous == "-")
            and not (open_brackets and _OPENS.index(open_brackets.pop()) == _CLOSES.index(character))
        ):
            raise ValueError(text)
        previous = character
    if open_brackets:
        raise ValueError(text)


def _split(text: str, separator: str) -> list[str]:
    """Split the text at separators outside of all brackets."""
    levels = [level for _, level, _ in _levels(text)]
    parts, begin, at = [], 0, 0
    while (at := text.find(separator, at)) >= 0:
        if levels[at] == 0:
            parts.append(text[begin:at])
            begin = at + len(separator)
        at += len(separator)
    return [*parts, text[begin:]]
