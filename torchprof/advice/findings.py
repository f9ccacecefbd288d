"""`torchprof.findings`: what could be better, and how much that is worth, to print."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from torchprof.advice.finding import Finding, Worth
from torchprof.advice.registry import NotTold, all_rules
from torchprof.analysis.records import Record
from torchprof.rendering.grid import Parts
from torchprof.rendering.printed import Printed
from torchprof.rendering.units import format_bytes, format_ns
from torchprof.tables.checks import check_trace
from torchprof.tables.footer import remarks
from torchprof.trace.trace import Trace
from torchprof.wording import counted

__all__ = ["Findings", "findings", "worth_text"]

DETAILS_SHOWN = 6


@dataclass(frozen=True)
class Findings(Printed):
    """What could be better in a program. ``str()`` is the printed text.

    Attributes:
        found: the findings, what is worth most first; those whose worth is unknown last.
        looked_for: what was looked for, by the name of the rule.
        not_told: why a rule could not tell, by its name.
        remarks: what must be said of the recording.
    """

    found: tuple[Finding, ...]
    looked_for: dict[str, str]
    not_told: dict[str, str]
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.found)

    def __bool__(self) -> bool:
        return bool(self.found)

    def to_dict(self) -> list[Record]:
        """The findings, as plain data."""
        return [asdict(finding) for finding in self.found]

    def parts(self) -> Parts:
        if not self.found:
            yield f"Nothing to improve was found: {counted(len(self.looked_for), 'rule')} looked"
        for number, finding in enumerate(self.found, 1):
            yield f"{number}. {finding.what}"
            if finding.worth is not None:
                yield f"   Worth: {worth_text(finding.worth)}"
            place = ", ".join([*([finding.module] if finding.module else []), *finding.lines])
            if place:
                yield f"   At: {place}"
            yield from (f"   - {detail}" for detail in finding.details[:DETAILS_SHOWN])
            if left := len(finding.details) - DETAILS_SHOWN:
                yield from [f"   - {left:,} more"] if left > 0 else []
            yield f"   {finding.advice}"
            yield f"   Why: {finding.why}"
            yield ""
        reasons: dict[str, list[str]] = {}
        for name, reason in self.not_told.items():
            reasons.setdefault(reason, []).append(name)
        for reason, names in reasons.items():
            yield f"Not looked for, {reason}: {', '.join(names)}"
        yield from self.remarks


def worth_text(worth: Worth) -> str:
    """In words: ``12.3% of the step time, 4.10 ms (measured: the time that the host waited)``."""
    write = format_bytes if worth.of == "peak memory" else format_ns
    amount = write(worth.high) if worth.low == worth.high else f"{write(worth.low)} to {write(worth.high)}"
    if worth.whole:
        low, high = 100 * worth.low / worth.whole, 100 * worth.high / worth.whole
        share = f"{high:.1f}%" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f} to {high:.1f}%"
        amount = f"{share} of the {worth.of}, {amount}"
    return f"{amount} ({'measured' if worth.measured else 'estimated'}: {worth.basis})"


def findings(trace: Trace) -> Findings:
    """Say what could be better in a program: what, how much it is worth, where, what to do, and why.

    Rules look at the trace, each for one thing. What a change is worth is measured in the recording, or an estimated range,
    and says which. Where nothing is found, it says so; what a rule could not tell, as the trace does not have it, is named.

    Args:
        trace: of `torchprof.profile` or `torchprof.load`, best of some steps of a training loop.

    Raises:
        ModuleTypeError: this is no trace.

    Example:
        >>> print(torchprof.findings(prof.trace))
        >>> [(finding.rule, finding.lines) for finding in torchprof.findings(prof.trace)]
    """
    check_trace(trace)
    found: list[Finding] = []
    looked_for: dict[str, str] = {}
    not_told: dict[str, str] = {}
    for rule in all_rules():
        try:
            found += rule.find(trace)
            looked_for[rule.name] = rule.looks_for
        except NotTold as reason:
            not_told[rule.name] = str(reason)
    found.sort(key=lambda finding: -finding.worth.share if finding.worth is not None else 0.0)
    return Findings(tuple(found), looked_for, not_told, tuple(remarks(trace)))
