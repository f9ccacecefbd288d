"""A section of the page: its sentences, figures and tables."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

from torchprof.reporting.figure import Figure
from torchprof.reporting.tables_of import table_data
from torchprof.reporting.verdict import Sentence
from torchprof.tables.table import Table

__all__ = ["Section"]


@dataclass
class Section:
    """A section of the page.

    Attributes:
        name: its anchor.
        title: its heading.
        said: lines that stand on top of the page, and so below none of its tables.
        sentences: of the verdict, that it is the place of.
        lead, notes: lines above its figures, and below its tables.
        figures, tables: by name.
        parts: names of these, in the order in which they stand.
        headings, captions: above and below these parts, where they have any.
        tree: figures of the table of modules that the icicle shows.
    """

    name: str
    title: str
    said: Collection[str] = ()
    sentences: list[Sentence] = field(default_factory=list)
    lead: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: list[tuple[str, str]] = field(default_factory=list)
    headings: dict[str, str] = field(default_factory=dict)
    captions: dict[str, list[str]] = field(default_factory=dict)
    tree: list[dict[str, Any]] = field(default_factory=list)

    def add_table(self, name: str, table: Table, heading: str = "") -> None:
        """Add a table that has rows."""
        if len(table):
            table = replace(table, footer=tuple(line for line in table.footer if line not in self.said))
            self.tables[name] = table_data(table)
            self.parts.append(("table", name))
            self.headings[name] = heading

    def color_rows(self, name: str, colors: dict[str, str]) -> None:
        """Give rows of a table, by their names, the colors that they have in a figure."""
        if name in self.tables:
            table = self.tables[name]
            roots = table.get("depths", [0] * len(table["names"]))
            table["colors"] = [colors.get(row) if not depth else None for row, depth in zip(table["names"], roots, strict=True)]

    def add_figure(self, name: str, figure: Figure, *captions: str) -> None:
        """Add a figure."""
        self.figures[name] = figure
        self.captions[name] = list(captions)
        self.parts.append(("figure", name))
