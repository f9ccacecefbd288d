"""Graph breaks of a test: where Dynamo gave up on one graph and began another."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from torchprof.errors import UnsupportedTorchError
from torchprof.integrations.pytest_plugin.torch_private import compile_counters

__all__ = ["GraphBreaks"]

RESUMED: Final = "torch_dynamo_resume_in_"
NOTHING_COMPILED: Final = (
    "nothing was compiled while the test ran: compile and call in the test itself, after torch.compiler.reset() where it was "
    "compiled before"
)
CLEARED: Final = "what Dynamo counts was cleared while the test ran"


@dataclass
class GraphBreaks:
    """The graph breaks between ``begin`` and ``end``.

    Attributes:
        count: how many; None where it is not known.
        unknown: why.
        reasons: the first line of what Dynamo says of each, and how often.
        places: after which lines the code goes on: ``forward, line 12``.
    """

    count: int | None = None
    unknown: str = ""
    reasons: Counter[str] = field(default_factory=Counter)
    places: list[str] = field(default_factory=list)
    _before: dict[str, Counter[str]] = field(default_factory=dict)

    def begin(self) -> None:
        """From here on."""
        self._before = self._counted()

    def end(self) -> None:
        """Until here."""
        after = self._counted()
        if self.unknown:
            return
        new = {kind: Counter(after[kind]) for kind in after}
        for kind, before in self._before.items():
            new[kind].subtract(before)
        if any(count < 0 for counts in new.values() for count in counts.values()):
            self.unknown = CLEARED
        elif new["frames"]["total"] <= 0:
            self.unknown = NOTHING_COMPILED
        else:
            self.count = sum(new["graph_break"].values())
            for reason, count in (+new["graph_break"]).items():
                self.reasons[reason.partition("\n")[0]] += count
            self.places = [place(name) for name in +new["resumes"]]

    def _counted(self) -> dict[str, Counter[str]]:
        kinds = ("frames", "graph_break", "resumes")
        try:
            counters = compile_counters()
        except UnsupportedTorchError as error:
            self.unknown = str(error)
            counters = None
        return {kind: Counter(counters[kind] if counters is not None and kind in counters else ()) for kind in kinds}


def place(name: str) -> str:
    """``torch_dynamo_resume_in_forward_at_12`` -> ``forward, line 12``."""
    function, _, line = name.removeprefix(RESUMED).rpartition("_at_")
    return f"{function}, line {line}" if function else name
