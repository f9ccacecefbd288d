"""`torchprof.findings`: what could be better, and how much that is worth, to print."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial

from torchprof.advice.finding import Finding, Worth
from torchprof.advice.loop import loop_of
from torchprof.advice.registry import NotTold, all_rank_rules, all_rules
from torchprof.analysis.records import Record
from torchprof.rendering.grid import Entry, Parts
from torchprof.rendering.printed import Printed
from torchprof.rendering.units import format_bytes, format_ns
from torchprof.tables.across_ranks import of_ranks
from torchprof.tables.checks import check_trace
from torchprof.tables.clocks import clock_lines
from torchprof.tables.footer import remarks
from torchprof.trace.ranks import Ranks
from torchprof.trace.trace import Trace

__all__ = ["Findings", "findings", "worth_text"]

DETAILS_SHOWN = 6
LINES_SHOWN = 3


@dataclass(frozen=True)
class Findings(Printed):
    """What could be better in a program. ``str()`` is the printed text.

    Attributes:
        found: the findings, what is worth most first; those whose worth is unknown last.
        looked_for: what was looked for, by the name of the rule.
        not_told: why a rule could not tell, by its name.
        remarks: what must be said of the recording.
        of_step: what the time of a step is, where it is not that of the host; else empty.
    """

    found: tuple[Finding, ...]
    looked_for: dict[str, str]
    not_told: dict[str, str]
    remarks: tuple[str, ...] = ()
    of_step: str = ""

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.found)

    def __bool__(self) -> bool:
        return bool(self.found)

    def to_dict(self) -> list[Record]:
        """The findings, as plain data."""
        return [asdict(finding) for finding in self.found]

    def reasons(self) -> dict[str, list[str]]:
        """The rules that could not tell, by why; ``imbalance in part`` of one that looked for some of what it looks for."""
        reasons: dict[str, list[str]] = {}
        for name, reason in self.not_told.items():
            reasons.setdefault(reason, []).append(f"{name} in part" if name in self.looked_for else name)
        return reasons

    def parts(self) -> Parts:
        if not self.found:
            yield self._nothing()
            yield from [f"Looked for: {'; '.join(self.looked_for.values())}"] if self.looked_for else []
        for number, finding in enumerate(self.found, 1):
            yield from [""] if number > 1 else []
            yield Entry(number, finding.what, list(_facts(finding)))
        below = list(self._below())
        yield from ["", *below] if self.found and below else below

    def _nothing(self) -> str:
        if not self.looked_for:
            return "The trace does not tell what could be better"
        return "Nothing to improve was found" + (" in what the recording tells" if self.not_told else "")

    def _below(self) -> Iterator[str]:
        """What must be said of all findings, of what was not looked for, and of the recording."""
        if self.of_step and any(finding.worth is not None and finding.worth.of != "peak memory" for finding in self.found):
            yield self.of_step
        if len(self.found) > 1:
            yield "Findings overlap: what they are worth does not add up"
        for reason, names in self.reasons().items():
            yield f"Not looked for: {', '.join(names)} ({reason})"
        yield from self.remarks


def _facts(finding: Finding) -> Iterator[tuple[str, str]]:
    """What is said of a finding: what it is worth, where, what to do, and why."""
    if finding.worth is not None:
        yield "Worth", worth_text(finding.worth)
    where = [*([finding.module] if finding.module else []), *finding.lines[:LINES_SHOWN]]
    if where:
        left = len(finding.lines) - LINES_SHOWN
        yield "At", f"{', '.join(where)}{f' and {left:,} more' if left > 0 else ''}"
    yield from (("", detail) for detail in finding.details[:DETAILS_SHOWN])
    if (left := len(finding.details) - DETAILS_SHOWN) > 0:
        yield "", f"{left:,} more"
    yield "Do", finding.advice
    yield "Why", finding.why


def worth_text(worth: Worth) -> str:
    """In words: ``up to 12.3% of the step time, 4.10 ms (measured: the time in which data was waited for)``."""
    write = format_bytes if worth.of == "peak memory" else format_ns
    amount = _from_to(worth, write(worth.low), write(worth.high))
    if worth.whole:
        low, high = (f"{100 * value / worth.whole:.1f}" for value in (worth.low, worth.high))
        share = _from_to(worth, low, high)
        amount = f"{share}% of the {worth.of}, {amount.removeprefix('up to ')}"
    return f"{amount} ({'measured' if worth.measured else 'estimated'}: {worth.basis})"


def _from_to(worth: Worth, low: str, high: str) -> str:
    """The two ends of the range, or what both are."""
    return high if low == high else f"{low} to {high}" if worth.low else f"up to {high}"


def findings(trace: Trace | Ranks) -> Findings:
    """Say what could be better in a program: what, how much it is worth, where, what to do, and why.

    Rules look at the trace, each for one thing. What a change is worth is measured in the recording, or an estimated range,
    and says which. Where nothing is found, it says so; what a rule could not tell, as the trace does not have it, is named.

    Of `Ranks`, rules look at what only all of them together tell: ranks that come late, and ranks with more work or memory.
    What each rank could do better by itself, the findings of its own trace tell: ``torchprof.findings(ranks[0])``.

    Args:
        trace: of `torchprof.profile` or `torchprof.load`, best of some steps of a training loop; or `Ranks`.

    Raises:
        ModuleTypeError: this is neither.

    Example:
        >>> print(torchprof.findings(prof.trace))
        >>> [(finding.rule, finding.lines) for finding in torchprof.findings(prof.trace)]
    """
    if isinstance(trace, Ranks):
        said = (*of_ranks(trace), *clock_lines(trace))
        return Findings(*_found((rule.name, rule.looks_for, partial(rule.find, trace)) for rule in all_rank_rules()), said)
    check_trace(trace)
    found = _found((rule.name, rule.looks_for, partial(rule.find, trace)) for rule in all_rules())
    return Findings(*found, tuple(remarks(trace)), _of_step(trace))


def _found(
    rules: Iterable[tuple[str, str, Callable[[], Iterator[Finding]]]],
) -> tuple[tuple[Finding, ...], dict[str, str], dict[str, str]]:
    """What rules found, what each looked for, and why one could not tell.

    Args:
        rules: the name of each, what it looks for, and how.
    """
    found: list[Finding] = []
    looked_for: dict[str, str] = {}
    not_told: dict[str, str] = {}
    for name, looks_for, find in rules:
        try:
            found += find()
            looked_for[name] = looks_for
        except NotTold as reason:
            not_told[name] = str(reason)
            if reason.looked_for:
                looked_for[name] = reason.looked_for
    found.sort(key=lambda finding: -finding.worth.share if finding.worth is not None else 0.0)
    return tuple(found), looked_for, not_told


def _of_step(trace: Trace) -> str:
    try:
        loop = loop_of(trace)
    except NotTold:
        return ""
    if not loop.of_devices:
        return ""
    step, host = format_ns(loop.time), format_ns(loop.host)
    return f"Step time: {step}, that of the device; the host takes {host}, and gains little by what it alone saves"
