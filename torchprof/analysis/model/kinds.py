"""Modules of one kind: those whose paths differ in numbers alone, as the layers of a list do."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["kind_of"]

NUMBERS: Final = re.compile(r"(?<![^.])\d+(?![^.])")


def kind_of(path: str) -> str:
    """The path with a star for every number in it: ``blocks.*.mlp``."""
    return NUMBERS.sub("*", path)
