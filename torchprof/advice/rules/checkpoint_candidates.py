"""Modules whose activations a checkpoint would drop for the least recomputation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from torchprof.advice.finding import Finding
from torchprof.advice.memory_accounts import memory_accounts, peak_worth
from torchprof.advice.registry import NotTold, rule
from torchprof.analysis.gpu.kernels import call_kernel_times
from torchprof.analysis.memory.account import MemoryAccount
from torchprof.analysis.memory.checkpoints import Drops, drops, peak_without
from torchprof.analysis.model.flops import call_flops
from torchprof.analysis.model.kinds import kind_of
from torchprof.analysis.model.module_tree import paths
from torchprof.analysis.steps import active_steps, step_of
from torchprof.analysis.time.calls import call_costs
from torchprof.rendering.units import format_bytes, format_flops, format_ns
from torchprof.trace.trace import Trace
from torchprof.wording import counted

__all__ = ["checkpoint_candidates"]

LEAST_SHARE: Final = 0.5
"""Part of the peak that activations are: of less, checkpointing is not the first thing to do."""
LEAST_PEAK: Final = 2**30
"""Bytes of a peak below which memory limits nothing, so that time is better not spent on it."""
LEAST_DROPPED: Final = 0.02
"""Part of the peak that the checkpoints of modules of one kind must drop."""


@rule("activations that checkpoints would drop most cheaply")
def checkpoint_candidates(trace: Trace) -> Iterator[Finding]:
    """Modules, those of one kind together, by the bytes that they drop for the time of their forward.

    Of a module inside another the one with more bytes for its time is named. The whole model is none: what it drops, it holds
    again at once.
    """
    account = memory_accounts(trace)[0]
    if account.saved_unknown is not None:
        raise NotTold(account.saved_unknown)
    if trace.losses.get("module_calls") or not len(trace.module_calls):
        raise NotTold("not all module calls were recorded")
    if trace.facts.get("outputs") is False:
        raise NotTold("it is not known what modules return")
    peak = account.peak.bytes
    if peak < LEAST_PEAK or account.by_category["activations"] < LEAST_SHARE * peak:
        return
    what = drops(account)
    found = _best(_candidates(account, what), LEAST_DROPPED * peak)
    if not found:
        return
    named = np.array([any(path in each.modules for each in found) for path in paths(trace)[1]], dtype=np.bool_)
    without = peak_without(account, np.unique(what.rows[named[what.calls]]))
    time, largest = sum(each.time for each in found), max(each.largest for each in found)
    yield Finding(
        "checkpoint_candidates",
        f"{account.by_category['activations'] / peak:.0%} of the peak of {format_bytes(peak)} are activations; checkpoints "
        f"would drop {format_bytes(sum(each.bytes for each in found))} for {format_ns(time)} of recomputation in a step",
        "If memory is what limits the batch: torch.utils.checkpoint.checkpoint(module, ..., use_reentrant=False) of these "
        "modules, the first of which give most bytes for their time.",
        "https://docs.pytorch.org/docs/stable/checkpoint.html",
        peak_worth(
            account,
            peak - without,
            "the peak without what they drop; at least, beside what the largest of them recomputes",
            low=max(0, peak - without - largest),
            measured=False,
        ),
        details=tuple(each.text for each in found),
    )


@dataclass
class Candidate:
    """Modules of one kind, such as ``blocks.*.mlp``.

    Attributes:
        modules: their paths.
        bytes, largest: that they drop, all of them and in one call.
        time, flops: of their forward in a step.
    """

    kind: str
    modules: set[str] = field(default_factory=set)
    bytes: int = 0
    largest: int = 0
    time: int = 0
    flops: int = 0

    @property
    def value(self) -> float:
        return self.bytes / max(1, self.time)

    @property
    def text(self) -> str:
        rate = f"{format_bytes(round(1e6 * self.value))} per ms"
        flops = f" and {format_flops(self.flops)}FLOPs" if self.flops else ""
        several = f" ({counted(len(self.modules), 'module')})" if len(self.modules) > 1 else ""
        return f"{self.kind}{several}: {format_bytes(self.bytes)} for {format_ns(self.time)}{flops} a step, {rate}"


def _candidates(account: MemoryAccount, what: Drops) -> list[Candidate]:
    trace = account.trace
    active = active_steps(trace)
    steps = max(1, len(active))
    dropped, flops = what.bytes_by_call(account, account.held_at_peak), call_flops(trace).forward
    time = call_kernel_times(trace)[0] if len(trace.kernels) else call_costs(trace).forward
    counts = step_of(trace.module_calls["start"], trace, active) >= 0
    of_calls = paths(trace)[1]
    found: dict[str, Candidate] = {}
    paths_that_drop = {of_calls[row] for row in np.flatnonzero(dropped).tolist()} - {""}
    rows = [row for row, path in enumerate(of_calls) if path in paths_that_drop]
    for row in rows:
        kind = kind_of(of_calls[row])
        each = found.setdefault(kind, Candidate(kind))
        each.modules.add(of_calls[row])
        each.bytes += int(dropped[row])
        each.largest = max(each.largest, int(dropped[row]))
        if counts[row]:
            each.time += int(time[row])
            each.flops += int(flops[row])
    for each in found.values():
        each.time, each.flops = each.time // steps, each.flops // steps
    return list(found.values())


def _best(candidates: list[Candidate], least: float) -> list[Candidate]:
    """The best that drop enough, none of them inside another."""
    found: list[Candidate] = []
    for each in sorted(candidates, key=lambda each: -each.value):
        apart = all(
            f"{each.kind}.".startswith(f"{other.kind}.") == f"{other.kind}.".startswith(f"{each.kind}.") for other in found
        )
        if each.bytes >= least and apart:
            found.append(each)
    return found
