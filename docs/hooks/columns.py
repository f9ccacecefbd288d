"""Tables of columns, made from where they are declared when the documentation is built, so that there is one place to change.

``<!-- columns of ops -->`` becomes a section for the table ``ops`` of a trace: its meaning and its columns from the comments in
``csrc/**/rows.h`` and ``enums.h``, their types from ``torchprof.trace.schema``. ``<!-- columns of printed tables -->`` is
replaced by the list of columns that a `Table` may show, and ``<!-- columns of figures -->`` by that of `torchprof.figures`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchprof.reporting.step_figures import FIGURES
from torchprof.tables.columns import COLUMNS
from torchprof.trace import schema
from torchprof.trace.schema import LAYOUTS

ROOT = Path(__file__).parents[2]
PLACE = re.compile(r"^<!-- columns of (.+?) -->$", re.MULTILINE)
UNSAID = {
    "start": "when it began",
    "end": "when it ended; -1: not seen",
    "time": "when",
    "n_inputs": "how many",
    "n_outputs": "how many",
    "flags": "bits, see below",
    "uses": "bits, see below",
    "bytes": "its size",
    "address": "where it is",
    "stream": "its number",
    "grid": "blocks in each dimension",
    "block": "threads in each dimension",
    "thread": "row of threads",
    "device_type": "`c10::DeviceType`",
    "device_index": "-1: the only one",
    "count": "how many",
    "min": "the shortest",
    "max": "the longest",
    "self_time": "without",
    "outputs": "as inputs",
    "results": "as arguments",
    "first": "first row of dims",
    "first_line": "where its definition begins; -1: not known",
    "ndim": "how many",
    "module": "row of modules",
    "phase": "Phase",
    "kind": "Activity",
    "direction": "Direction",
}
OF_ALL = "of all together"
HEADERS = ("enums.h", "rows.h")
PADDING = ("reserved", "padding")
WHILE_RECORDING = "while recording:"
"""How the comment of a member begins that no table has."""
ENUMS = (schema.Activity, schema.Direction, schema.Phase, schema.RuntimeCallKind)
TYPES = {
    "u8": "uint64",
    "i8": "int64",
    "u4": "uint32",
    "i4": "int32",
    "u2": "uint16",
    "u1": "uint8",
    "i1": "int8",
    "f8": "float64",
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs with the text of every page."""
    return PLACE.sub(lambda place: made(place[1]), markdown)


def made(what: str) -> str:
    lists = {"printed tables": printed_columns, "figures": named_figures}
    return lists[what]() if what in lists else section(what)


def named_figures() -> str:
    return "\n".join(["| name | what it is |", "| --- | --- |", *(f"| `{name}` | {text} |" for name, text in FIGURES.items())])


def printed_columns() -> str:
    rows = [
        f"| `{name}` | {column.header or '(no header)'} | {column.quantity.unit} | {column.meaning} |"
        for name, column in COLUMNS.items()
    ]
    return "\n".join(["| name | header | unit in rows | meaning |", "| --- | --- | --- | --- |", *rows])


@dataclass
class Struct:
    """A struct of ``rows.h``: the comment above it, and each member's."""

    about: str
    members: dict[str, str] = field(default_factory=dict)


def section(table: str) -> str:
    source = "".join(path.read_text(encoding="utf-8") for name in HEADERS for path in ROOT.glob(f"csrc/**/{name}"))
    layout = LAYOUTS[table]
    name, struct = struct_with(structs(source), layout.names or ())
    plain = plain_words(source)
    rows = [f"### {table}", "", plain(struct.about), "", "| column | type | meaning |", "| --- | --- | --- |"]
    for column in layout.names or ():
        dtype, _ = layout.fields[column][:2]  # type: ignore[index]
        size = f"[{dtype.shape[0]}]" if dtype.shape else ""
        unsaid = OF_ALL if column in ("time", "bytes") and "count" in (layout.names or ()) else UNSAID.get(column, "")
        meaning = plain(struct.members[column]) or unsaid
        for enum in ENUMS:
            if meaning == enum.__name__:
                meaning = ", ".join(f"{member.value} {member.name.lower().replace('_', ' ')}" for member in enum)
        rows.append(f"| `{column}` | {TYPES[dtype.base.str[1:]]}{size} | {meaning} |")
    for column in layout.names or ():
        if column in ("flags", "uses") and (values := flags(source, name, column)):
            rows += ["", f"`{column}` has these bits:", "", "| bit | name | meaning |", "| --- | --- | --- |"]
            rows += [f"| {value} | {flag} | {plain(meaning)} |" for value, flag, meaning in values]
    return "\n".join([*rows, "", f"One row has {layout.itemsize} bytes."])


def structs(source: str) -> dict[str, Struct]:
    found: dict[str, Struct] = {}
    about: list[str] = []
    inside: Struct | None = None
    last = ""
    for line in source.splitlines():
        text = line.strip()
        if inside is None:
            if opening := re.fullmatch(r"struct (\w+) \{", text):
                inside = found[opening[1]] = Struct(" ".join(about))
            about = [*about, text.removeprefix("//").strip()] if text.startswith("//") else []
        elif text == "};":
            inside = None
        elif member := re.fullmatch(r"\w+ (\w+)(?:\[\d+\])?;(?:\s*//\s*(.*))?", text):
            last = member[1]
            inside.members[last] = member[2] or ""
        elif text.startswith("//") and last:
            inside.members[last] += " " + text.removeprefix("//").strip()
    return found


def struct_with(found: dict[str, Struct], columns: tuple[str, ...]) -> tuple[str, Struct]:
    """The struct with these members, aside from padding and what it has while recording only."""
    for name, struct in found.items():
        kept = (member for member, meaning in struct.members.items() if not meaning.startswith(WHILE_RECORDING))
        if tuple(member for member in kept if member in columns or member not in PADDING) == columns:
            return name, struct
    raise LookupError(f"no struct of rows.h has the columns {columns}")


def flags(source: str, struct: str, column: str) -> list[tuple[int, str, str]]:
    """The named bits of a column: the constants below the comment ``// Struct::column``."""
    block = re.search(rf"^// {struct}::{column}\b.*\n((?:inline constexpr .*\n)+)", source, re.MULTILINE)
    found = re.findall(r"constexpr \w+ k(\w+) = (\d+);\s*(?://\s*(.*))?", block[1]) if block else []
    return [(int(value), words(name), meaning) for name, value, meaning in found if name != "PhaseShift"]


def words(name: str) -> str:
    """``ReturnedSequence`` -> ``returned sequence``."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name).lower()


def plain_words(source: str) -> Any:
    """A function that writes a comment of ``rows.h`` without the names of its constants, and names of C++ as code."""
    numbers = {"UINT16_MAX": str(2**16 - 1), "UINT32_MAX": str(2**32 - 1)}
    constants = dict(re.findall(r"(k[A-Z]\w+) = (-?\w+)[;,]", source))

    def plain(text: str) -> str:
        def written(constant: re.Match[str]) -> str:
            value = constants.get(constant[0], "")
            return numbers.get(value, value) if value.startswith(("-", "U")) else f"*{words(constant[0][1:])}*"

        text = re.sub(r"\bk[A-Z]\w+\b", written, text)
        text = re.sub(r"(?<!`)\b(\w+::\w+(?:\(\))?|id\(\w+\))(?!`)", r"`\1`", text)
        return text.replace("|", "\\|")

    return plain
