"""What is not in an estimate, in words."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from torchprof.record.modules import walk
from torchprof.record.opaque import opaque_because

__all__ = ["in_short", "notes_of"]

SHOWN = 3
"""Names of modules in one note."""


def notes_of(model: nn.Module, ran: Iterable[str], *, compiled: bool) -> Iterable[str]:
    """What an estimate says is not in it, for what the program does.

    Args:
        model: the user's own.
        ran: the ops that ran for real.
        compiled: whether what is compiled is estimated as that.
    """
    if names := sorted(ran):
        yield f"what other values would change: {', '.join(names)} worked on stand-ins"
    inside = [place.path or "the model" for place in walk(model) if opaque_because(place.module) == "compiled"]
    if inside and not compiled:
        yield f"what torch.compile saves and fuses in {in_short(inside)}: compile=True predicts it for the whole model"


def in_short(names: list[str]) -> str:
    """The first of these names, and how many there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
