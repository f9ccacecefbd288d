"""Tables as HTML, for notebooks: real tables, whose trees fold.

One string for each output, with its own style and nothing to load. It needs no id, so two of them never meet: what is clicked
is found from the event. Where scripts are taken out (static pages, notebooks that are not trusted) everything is visible and
nothing looks as if it could be clicked: the triangles are drawn only beside the handler. Where styles are taken out too,
spaces still show the tree.

Colors are those of the notebook: JupyterLab's, VS Code's and Colab's, or the system's where there are none, which are dark
where the reader prefers it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html import escape
from itertools import chain, repeat
from typing import Final

from torchprof.rendering.grid import Grid, Part, Verbatim
from torchprof.terminal import printable

__all__ = ["as_html", "as_page"]

# The class stands twice: notebooks have rules of their own for tables, and the more specific one wins.
STYLE: Final = """
.torchprof.torchprof{
--bg:var(--jp-layout-color0,var(--vscode-editor-background,var(--colab-primary-surface-color,Canvas)));
--fg:var(--jp-content-font-color1,var(--vscode-editor-foreground,var(--colab-primary-text-color,CanvasText)));
color-scheme:light dark;color:var(--fg);font-size:13px;line-height:1.5;
font-family:var(--jp-content-font-family,var(--vscode-font-family,system-ui,sans-serif))}
[data-jp-theme-light=false] .torchprof,.vscode-dark .torchprof,[data-vscode-theme-kind*=dark] .torchprof,\
[data-theme=dark] .torchprof,[theme=dark] .torchprof{color-scheme:dark}
[data-jp-theme-light=true] .torchprof,.vscode-light .torchprof,[data-vscode-theme-kind$=light] .torchprof,\
[data-theme=light] .torchprof,[theme=light] .torchprof{color-scheme:light}
.torchprof .torchprof-box{max-width:100%;width:fit-content;overflow:auto;background:var(--bg);margin:.5em 0}
.torchprof.torchprof table{border-collapse:separate;border-spacing:0;margin:0;font-size:inherit;color:inherit;border:0;\
font-variant-numeric:tabular-nums;width:auto;table-layout:auto}
.torchprof.torchprof table th,.torchprof.torchprof table td{text-align:right;white-space:nowrap;max-width:none;border:0;\
padding:.1em .6em;vertical-align:baseline;color:inherit;background:var(--bg);line-height:inherit}
.torchprof.torchprof table tr{background:none;border:0}
.torchprof.torchprof table tr>:first-child,.torchprof.torchprof table .l{text-align:left}
.torchprof.torchprof table .l{white-space:pre}
.torchprof.torchprof table .n{white-space:normal;min-width:20em}
.torchprof.torchprof table thead th{position:sticky;top:0;z-index:2;font-weight:600;\
border-bottom:1px solid rgba(128,128,128,.6)}
.torchprof.torchprof table tr>:first-child{position:sticky;left:0;z-index:1}
.torchprof.torchprof table thead tr>:first-child{z-index:3}
.torchprof.torchprof table tbody tr:hover td{background:linear-gradient(rgba(128,128,128,.18),rgba(128,128,128,.18)),var(--bg)}
.torchprof.torchprof table tfoot td{border-top:1px solid rgba(128,128,128,.6);padding-top:.4em;white-space:normal}
.torchprof.torchprof table tr.root td{font-weight:600}
.torchprof.torchprof table tr.dim td{color:color-mix(in srgb,var(--fg) 60%,var(--bg))}
.torchprof.torchprof table tr.failed td{color:#e5484d;font-weight:600}
.torchprof.torchprof i{font-style:normal;font-weight:400;opacity:.65}
.torchprof.torchprof p{margin:.3em 0}
.torchprof.torchprof button{visibility:hidden;width:1em;padding:0;border:0;background:none;color:inherit;font:inherit;\
cursor:pointer;text-align:left}
.torchprof.torchprof tbody[onclick] button{visibility:visible}
.torchprof.torchprof button::before{content:"▾"}
.torchprof.torchprof tr[aria-expanded=false] button::before{content:"▸"}
.torchprof.torchprof tr[hidden]{display:none}
.torchprof .torchprof-long{max-height:60em}
@media print{.torchprof .torchprof-long{max-height:none}}
"""

# Folds and unfolds the rows below the one whose button was clicked; with the Alt key, all that is below them too.
FOLD: Final = (
    "var b=event.target.closest('button'),r=b&&b.closest('tr');if(r){"
    "var level=function(n){return +n.getAttribute('aria-level')},own=level(r),"
    "open=r.getAttribute('aria-expanded')=='false',shut=open?1/0:own;"
    "r.setAttribute('aria-expanded',open);"
    "for(var n=r.nextElementSibling;n&&level(n)>own;n=n.nextElementSibling){"
    "if(event.altKey&&n.hasAttribute('aria-expanded'))n.setAttribute('aria-expanded',open);"
    "n.hidden=level(n)>shut;"
    "if(!n.hidden)shut=n.getAttribute('aria-expanded')=='false'?level(n):1/0}}"
)

LONG: Final = 100
"""Rows of a table that does not scroll by itself."""
LONG_NOTE: Final = 40
"""Characters of a note that does not break into lines."""
INDENT: Final = "\u2003"
"""As wide as the button of a row that folds."""


def as_html(parts: Iterable[Part]) -> str:
    """What is printed, as one HTML element."""
    return "".join(chain((f'<div class="torchprof"><style>{STYLE}</style>',), map(_part, parts), ("</div>",)))


def as_page(title: str, parts: Iterable[Part]) -> str:
    """What is printed, as a page that needs nothing else, light or dark as the reader prefers it."""
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        f'<meta name="viewport" content="width=device-width"><title>{_text(title)}</title></head>'
        f'<body style="margin:1.5em">{as_html(parts)}</body></html>'
    )


def _part(part: Part) -> str:
    if isinstance(part, Grid):
        long = " torchprof-long" if len(part.names) > LONG else ""
        return f'<div class="torchprof-box{long}">{"".join(_table(part))}</div>'
    if isinstance(part, Verbatim):
        return f"<pre>{'<br>'.join(map(_text, part.text.split(chr(10))))}</pre>"
    return f"<p>{_sentence(part)}</p>"


def _table(grid: Grid) -> Iterator[str]:
    has_notes = any(grid.notes) or grid.details is not None
    yield '<table role="treegrid">' if grid.depths is not None else "<table>"
    yield f"<thead><tr><th>{_text(grid.title)}"
    for column in grid.columns:
        aligned = ' class="l"' if column.left else ""
        yield f'<th{aligned} title="{escape(column.meaning)}">{_text(column.header)}'
    yield "<th>" if has_notes else ""
    yield "</thead>"
    is_tree = (grid.depths is not None and max(grid.depths, default=0) > 0) or grid.details is not None
    yield f'<tbody onclick="{escape(FOLD)}">' if is_tree else "<tbody>"
    yield from _rows(grid, has_notes)
    yield "</tbody>"
    if grid.footer:
        lines = "<br>".join(map(_sentence, grid.footer))
        yield f'<tfoot><tr><td colspan="{1 + len(grid.columns) + has_notes}">{lines}</tfoot>'
    yield "</table>"


def _rows(grid: Grid, has_notes: bool) -> Iterator[str]:
    # End tags that HTML does not need are left out: they would be a quarter of a long table.
    opening = ['<td class="l">' if column.left else "<td>" for column in grid.columns]
    columns = [map(tag.__add__, map(_text, column.texts)) for tag, column in zip(opening, grid.columns, strict=True)]
    cells = map("".join, zip(*columns, strict=True)) if columns else repeat("")
    depths = grid.depths if grid.depths is not None else [0] * len(grid.names)
    for row, (name, depth, kind, text) in enumerate(zip(grid.names, depths, grid.kinds, cells, strict=False)):
        details = grid.details[row] if grid.details is not None else ()
        is_parent = bool(details) or (row + 1 < len(depths) and depths[row + 1] > depth)
        yield "<tr" if kind == "row" else f'<tr class="{kind}"'
        if grid.depths is not None:
            yield f" aria-level={depth + 1}"
        if is_parent:
            yield " aria-expanded=true>"
            yield f"<td>{INDENT * depth}<button></button>{_name(name)}"
        else:
            yield f"><td>{INDENT * (depth + 1) if grid.depths is not None else ''}{_name(name)}"
        yield text
        if grid.notes[row]:
            yield f'<td class="{"l n" if len(grid.notes[row]) > LONG_NOTE else "l"}">{_text(grid.notes[row])}'
        for detail, note in details:
            yield f'<tr class="dim" aria-level={depth + 2}><td>{INDENT * (depth + 2)}{_text(detail)}'
            yield f'{"<td>" * len(grid.columns)}<td class="l">{_text(note)}' if note else ""


def _text(text: str) -> str:
    return escape(printable(text), quote=False)


def _name(name: str) -> str:
    """A name, with the class of the module lighter."""
    return re.sub(r" (\([^()]*\))", r" <i>\1</i>", _text(name), count=1)


def _sentence(text: str) -> str:
    """A line, in which what stands before a colon is its subject."""
    return re.sub(r"^([^:]+:)", r"<b>\1</b>", _text(text))
