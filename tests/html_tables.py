"""Reads the tables of HTML, as a browser would: cells end where the next one begins."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

__all__ = ["HtmlRow", "HtmlTable", "tables_of"]


@dataclass
class HtmlRow:
    """A row: its attributes and the texts of its cells."""

    attributes: dict[str, str | None]
    cells: list[str] = field(default_factory=list)
    classes: list[str | None] = field(default_factory=list)


@dataclass
class HtmlTable:
    """A table: the rows of its head, body and foot."""

    attributes: dict[str, str | None]
    thead: list[HtmlRow] = field(default_factory=list)
    tbody: list[HtmlRow] = field(default_factory=list)
    tfoot: list[HtmlRow] = field(default_factory=list)
    body: dict[str, str | None] = field(default_factory=dict)

    @property
    def headers(self) -> list[str]:
        return self.thead[0].cells

    def column(self, header: str) -> list[str]:
        """The texts below a header."""
        at = self.headers.index(header)
        return [row.cells[at] for row in self.tbody]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: list[HtmlTable] = []
        self.section = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "table":
            self.tables.append(HtmlTable(attributes))
        elif tag in ("thead", "tbody", "tfoot"):
            self.section = tag
            if tag == "tbody":
                self.tables[-1].body = attributes
        elif tag == "tr":
            getattr(self.tables[-1], self.section).append(HtmlRow(attributes))
        elif tag in ("td", "th"):
            row = getattr(self.tables[-1], self.section)[-1]
            row.cells.append("")
            row.classes.append(attributes.get("class"))
        elif tag == "br":
            self.handle_data("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("thead", "tbody", "tfoot"):
            self.section = ""

    def handle_data(self, data: str) -> None:
        if self.section:
            getattr(self.tables[-1], self.section)[-1].cells[-1] += data


def tables_of(html: str) -> list[HtmlTable]:
    """The tables of a document."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.tables
