"""Places that hold more and more from step to step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from torchprof.advice.finding import Finding
from torchprof.advice.memory_accounts import memory_accounts, peak_worth
from torchprof.advice.registry import NotTold, rule
from torchprof.analysis.memory.leaks import Leak
from torchprof.analysis.memory.modules import NO_MODULE
from torchprof.rendering.units import format_bytes
from torchprof.trace.trace import Trace
from torchprof.wording import counted

__all__ = ["leaks"]

LEAST: Final = 1e-5
"""Part of the peak by which a place must grow in a step: less adds no percent of it in a thousand steps."""


@rule("memory that is never freed")
def leaks(trace: Trace) -> Iterator[Finding]:
    """A finding for each device, with every place that `MemoryAccount.leaks` says leaks."""
    unknown = None
    for account in memory_accounts(trace):
        unknown = unknown or account.leaks_unknown
        found = [leak for leak in account.leaks if leak.growth > LEAST * account.peak.bytes]
        if not found:
            continue
        growth, held = sum(leak.growth for leak in found), sum(leak.bytes for leak in found)
        modules = {leak.module for leak in found}
        yield Finding(
            "leaks",
            f"{format_bytes(round(growth))} more are held on {account.device} after every step, by "
            f"{counted(len(found), 'place')} in the program",
            _advice(found),
            "https://docs.pytorch.org/docs/stable/notes/faq.html",
            peak_worth(account, held, "what these places held at the end of the last step, and more in every further one"),
            module=_module(modules.pop()) if len(modules) == 1 else "",
            lines=tuple(dict.fromkeys(leak.line for leak in found if leak.line)),
            details=tuple(_detail(leak) for leak in found),
        )
        unknown = None
    if unknown is not None:
        raise NotTold(unknown)


def _advice(found: list[Leak]) -> str:
    of_graph = any(leak.category in ("activations", "outputs") for leak in found)
    graph = "; of a loss or an output, which keeps its graph, .item() or .detach()" if of_graph else ""
    return f"Keep no tensors from one step to the next, as in a list, or keep less of them{graph}."


def _detail(leak: Leak) -> str:
    where = " ".join(part for part in (_module(leak.module), leak.line) if part)
    blocks = f"{counted(leak.count, 'block')} of {leak.category}, {format_bytes(leak.bytes)}"
    return f"{leak.op or 'no op'}{f' in {where}' if where else ''}: {blocks}, {format_bytes(round(leak.growth))} more a step"


def _module(path: str) -> str:
    return "" if path == NO_MODULE else path
