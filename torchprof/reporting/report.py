"""`torchprof.report`: what a trace says, as one HTML file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from torchprof._version import __version__
from torchprof.advice.finding import Finding
from torchprof.advice.findings import Findings, findings, worth_text
from torchprof.analysis.gpu.backend import has_kernels
from torchprof.analysis.steps import warmup_count
from torchprof.errors import ArgumentError, MissingPackageError
from torchprof.paths import AnyPath, text_of, written
from torchprof.rendering.units import format_ns
from torchprof.reporting.ranks_page import rank_sections, said_of_ranks
from torchprof.reporting.section import Section
from torchprof.reporting.sections import sections_of
from torchprof.reporting.snapshot_page import snapshot_sections
from torchprof.tables.checks import check_ceilings, check_trace
from torchprof.tables.footer import remarks
from torchprof.tables.snapshot_memory import SnapshotMemory
from torchprof.terminal import printable
from torchprof.trace.ceilings import Ceilings
from torchprof.trace.ranks import Ranks
from torchprof.trace.trace import Trace
from torchprof.wording import counted, shown

__all__ = ["report"]

NEEDED = 'report needs {}, which is not installed: pip install "torchprof-recorder[report]", or plotly and jinja2'
ORDER = ("ranks", "stragglers", "steps", "memory", "gpu")
"""Of the sentences of the verdict."""
PLACES = {"peak memory": "memory", "step time": "steps", "device time": "gpu"}
"""Sections that findings lead to which name no module and no line."""
OF_RULES = {"straggler": "stragglers", "imbalance": "imbalance"}
"""Sections that findings of these rules lead to."""


def report(
    trace: Trace | Ranks | SnapshotMemory, path: AnyPath, *, title: str | None = None, ceilings: Ceilings | None = None
) -> None:
    """Write what a trace says as one HTML file, to open in a browser: it needs no network and nothing beside it.

    On top stand a verdict and what `torchprof.findings` found, each leading to its place. Below are the module tree, memory
    over time, steps, devices, lines, ops, kernels and the roofline: tables that sort, search and unfold, and charts. What the
    trace does not have is left out, or a sentence says how to record it. What is large is summed up before it is written, so
    that a page of a million ops opens like any other.

    Args:
        trace: of `torchprof.profile` or `torchprof.load`; or what `torchprof.memory` says of a CUDA memory snapshot, whose page
            shows memory alone; or `Ranks`, whose page shows what all of them together tell.
        path: the file to write, such as ``"report.html"``.
        title: of the page; by default the name of the model.
        ceilings: of `torchprof.ceilings`, measured on the machine that the trace is of: adds the utilization of every module
            (MFU), and what the device could do to the roofline.

    Raises:
        ModuleTypeError: this is no trace.
        ArgumentError: the title is no text, the path is no path, or the ceilings are a CPU's where a device did the work, or
            given for the page of `Ranks`.
        MissingPackageError: plotly or jinja2 is not installed.
        OSError: the file cannot be written.

    Example:
        >>> torchprof.report(prof.trace, "report.html")
    """
    if not isinstance(trace, SnapshotMemory | Ranks):
        check_trace(trace)
    text_of(path)
    if title is not None and not isinstance(title, str):
        raise ArgumentError(f"title={shown(title)} is no text: give a str, or None for the name of the model")
    if ceilings is not None:
        if isinstance(trace, Ranks):
            raise ArgumentError(f"ceilings={shown(ceilings)} are for the page of one trace, such as ranks[0]: leave them out")
        check_ceilings(ceilings, of_device=isinstance(trace, SnapshotMemory) or has_kernels(trace))
    template, plotly = _template(), _plotly()
    filled = (
        snapshot_contents(trace)
        if isinstance(trace, SnapshotMemory)
        else contents_of_ranks(trace)
        if isinstance(trace, Ranks)
        else contents(trace, ceilings)
    )
    name = printable(title) if title is not None else filled["title"]
    page = template.render(**{**filled, "title": name, "version": __version__, "plotly": plotly})
    with written(path) as file:
        file.write(page.encode())


def snapshot_contents(account: SnapshotMemory) -> dict[str, Any]:
    """What the template is filled with for a memory snapshot."""
    filled = _filled(list(snapshot_sections(account)))
    return {
        **filled,
        "title": f"Memory of {account.device}",
        "facts": ["CUDA memory snapshot"],
        "remarks": [],
        "findings": None,
    }


def contents(trace: Trace, ceilings: Ceilings | None) -> dict[str, Any]:
    """What the template is filled with for a trace."""
    return {
        **_with_findings(list(sections_of(trace, ceilings)), findings(trace)),
        "title": _name(trace),
        "facts": list(map(printable, _facts(trace))),
        "remarks": list(map(printable, remarks(trace))),
    }


def contents_of_ranks(ranks: Ranks) -> dict[str, Any]:
    """What the template is filled with for several ranks."""
    first = ranks[0]
    when = [fact for fact in _facts(first) if not fact.endswith((" op", " ops"))]
    return {
        **_with_findings(list(rank_sections(ranks)), findings(ranks)),
        "title": f"{_name(first)}, {counted(len(ranks), 'rank')}",
        "facts": list(map(printable, when)),
        "remarks": list(map(printable, said_of_ranks(ranks))),
    }


def _with_findings(sections: list[Section], found: Findings) -> dict[str, Any]:
    return {
        **_filled(sections),
        "findings": [_finding(finding, sections) for finding in found],
        "nothing_found": _nothing(found),
        "not_told": list(map(printable, _not_told(found))),
    }


def _filled(sections: list[Section]) -> dict[str, Any]:
    data = {
        "tables": {name: table for section in sections for name, table in section.tables.items()},
        "figures": {name: figure for section in sections for name, figure in section.figures.items()},
        "tree": [each for section in sections for each in section.tree],
    }
    sentences = [each for section in sections for each in section.sentences]
    return {"sections": sections, "verdict": sorted(sentences, key=lambda each: ORDER.index(each.of)), "data": _json(data)}


def _name(trace: Trace) -> str:
    name = trace.model.modules[0].type if trace.model is not None and trace.model.modules else ""
    return printable(name) or "Recording"


def _facts(trace: Trace) -> Iterator[str]:
    """What was recorded, in a few words each."""
    facts = trace.facts
    if began := facts.get("origin_unix_ns"):
        with suppress(ValueError, OverflowError, OSError, TypeError):  # of a damaged file
            yield datetime.fromtimestamp(int(began) / 1e9, UTC).strftime("%Y-%m-%d %H:%M UTC")
    if "source" in facts:
        yield str(facts["source"])
    else:
        yield from (f"{name} {facts[key]}" for name, key in (("PyTorch", "torch"), ("Python", "python")) if facts.get(key))
    yield from dict.fromkeys(name for name in facts.get("devices", ()) if name)
    if facts.get("duration_ns"):
        yield format_ns(int(facts["duration_ns"]))
    if len(trace.steps):
        warmup = warmup_count(trace)
        yield counted(len(trace.steps), "step") + (f", {warmup:,} of them warm-up" if warmup else "")
    if ops := len(trace.ops) or int(trace.op_totals["count"].sum()):
        yield counted(ops, "op")


def _finding(finding: Finding, sections: list[Section]) -> dict[str, Any]:
    tables = {name: set(table["keys"]) for section in sections for name, table in section.tables.items()}
    places = []
    of_module = [finding.module] if finding.module else []
    for table, what, keys in (("modules", "module ", of_module), ("lines", "", list(finding.lines))):
        for key in map(printable, keys):
            places.append({"text": f"{what}{key}", "table": table if key in tables.get(table, ()) else None, "key": key})
    of = OF_RULES.get(finding.rule) or (PLACES.get(finding.worth.of) if finding.worth is not None else None)
    section = next((section for section in sections if section.name == of), None)
    if section is not None:
        places.append({"text": section.title, "section": section.name, "table": None})
    return {
        "rule": printable(finding.rule),
        "what": printable(finding.what),
        "advice": printable(finding.advice),
        "why": finding.why if finding.why.startswith(("https://", "http://")) else None,
        "worth": printable(worth_text(finding.worth)) if finding.worth is not None else None,
        "share": finding.worth.share if finding.worth is not None else 0.0,
        "places": places,
        "details": list(map(printable, finding.details)),
    }


def _nothing(found: Findings) -> str:
    if not found.looked_for:
        return "Nothing could be looked for."
    looked = f"{counted(len(found.looked_for), 'rule')} looked"
    not_told = f", and {len(found.not_told):,} could not tell all that they look for" if found.not_told else ""
    return f"Nothing to improve was found: {looked}{not_told}."


def _not_told(found: Findings) -> Iterator[str]:
    for reason, names in found.reasons().items():
        yield f"{', '.join(name.replace('_', ' ') for name in names)}: {reason}"


def _json(data: Any) -> str:
    """JSON that may stand in a script element."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _template() -> Any:
    try:
        import jinja2
    except ImportError:
        raise MissingPackageError(NEEDED.format("jinja2")) from None
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["printable"] = printable
    return environment.get_template("page.html.j2")


@cache
def _file(name: str) -> str:
    return (files("torchprof.reporting") / "templates" / name).read_text(encoding="utf-8")


def _plotly() -> str:
    """The source of plotly.js."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise MissingPackageError(NEEDED.format("plotly")) from None
    return str(get_plotlyjs())
