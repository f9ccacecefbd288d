"""Two rows of the same thing, or one that only one side has."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torchprof.comparison.side import Row

__all__ = ["How", "Pair"]

How = Literal["same", "renamed", "moved", "added", "removed"]


class Pair(NamedTuple):
    """One row of the comparison.

    Attributes:
        a, b: the rows of both sides; None where there is none.
        how: how they were found to belong together: ``"same"`` name, ``"renamed"`` (the same under another name), ``"moved"``
            (a line with the same text elsewhere in its function); or ``"added"`` and ``"removed"``.
    """

    a: Row | None
    b: Row | None
    how: How

    @property
    def row(self) -> Row:
        """The row of B, or of A where B has none."""
        found = self.b if self.b is not None else self.a
        assert found is not None
        return found

    @property
    def note(self) -> str:
        """What a reader must know of it."""
        if self.a is None or self.b is None:
            return self.how
        notes = [f"{self.how} from {self.a.label}"] if self.how != "same" else []
        types = self.a.record.get("type"), self.b.record.get("type")
        if types[0] != types[1]:
            notes.append(f"was {types[0]}")
        return ", ".join(notes)
