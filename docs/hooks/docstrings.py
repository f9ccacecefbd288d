"""What griffe, which reads the docstrings, does not know of their style."""

from __future__ import annotations

import re
from typing import Any

import griffe

import torchprof

SHARED = re.compile(r"^( *)((?:\w+,\s+)+\w+): (.+(?:\n\1 +.+)*)", re.MULTILINE)
EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
NAME = re.compile(r"(?<!`)`((?:torchprof\.)?(\w+))`(?!`)")


class TorchprofDocstrings(griffe.Extension):
    """``a, b: text`` becomes a line for each name, ``Example:`` becomes ``Examples:``, and public names become links."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            text = EXAMPLE.sub(r"\1Examples:", SHARED.sub(a_line_each, obj.docstring.value))
            obj.docstring.value = NAME.sub(linked, text)


def a_line_each(found: re.Match[str]) -> str:
    indent, names, text = found.groups()
    return "\n".join(f"{indent}{name}: {text}" for name in re.split(r",\s+", names))


def linked(found: re.Match[str]) -> str:
    return f"[`{found[1]}`][torchprof.{found[2]}]" if found[2] in torchprof.__all__ else found[0]
