"""Graphs of autograd that no parameter needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.advice.finding import Finding, Worth
from torchprof.advice.loop import loop_of
from torchprof.advice.memory_accounts import memory_accounts, peak_worth
from torchprof.advice.op_sums import op_sums
from torchprof.advice.ops_of import check_ops
from torchprof.advice.registry import NotTold, rule
from torchprof.analysis.autograd import forward_and_backward_ops
from torchprof.analysis.lines.where import lines_of_ops, most_first
from torchprof.analysis.lookups import modules_of_calls
from torchprof.analysis.memory.categories import CATEGORIES
from torchprof.analysis.memory.graphs import node_creators
from torchprof.analysis.model.module_tree import paths
from torchprof.analysis.model.registered import registered
from torchprof.analysis.steps import active_steps, step_of
from torchprof.rendering.units import format_bytes, format_ns
from torchprof.trace.schema import CALL_COMPILED, CALL_LOADED_DATA, CALL_RAISED, CALL_RECOMPUTED, Phase, phases
from torchprof.trace.trace import Trace
from torchprof.wording import counted

__all__ = ["frozen_graph"]

WHY: Final = "https://docs.pytorch.org/docs/stable/notes/autograd.html#locally-disabling-gradient-computation"
ENGINE: Final = "autograd::engine::evaluate_function"
ANOTHER_KIND: Final = CALL_COMPILED | CALL_LOADED_DATA | CALL_RAISED | CALL_RECOMPUTED

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@rule("graphs that no parameter needs")
def frozen_graph(trace: Trace) -> Iterator[Finding]:
    """Frozen layers before everything that is trained which build a graph; and calls whose graph no backward pass runs."""
    check_ops(trace)
    if not len(trace.module_calls):
        raise NotTold("no module calls were recorded")
    if trace.facts.get("compiled"):
        raise NotTold("compiled code has graphs of its own")
    creators = node_creators(trace)
    creators = creators[(phases(trace.ops) == Phase.FORWARD)[creators]]
    if not len(creators):
        return
    yield from _frozen_layers(trace, creators)
    yield from _never_run(trace, creators)


def _frozen_layers(trace: Trace, creators: Ints) -> Iterator[Finding]:
    """Layers that come before all that is trained, and in which the graph begins: their input requires a gradient."""
    if trace.model is None or trace.facts.get("parameters") is False:
        return
    trains, frozen = _kinds(trace)
    module = modules_of_calls(trace, trace.ops["module_call"][creators])
    step = step_of(trace.ops["start"][creators], trace, active_steps(trace))
    found: set[int] = set()
    after: set[int] = set()
    for number in np.unique(step[step >= 0]).tolist():
        of_step = np.flatnonzero(step == number)
        of_step = of_step[np.argsort(trace.ops["start"][creators[of_step]], kind="stable")]
        modules = module[of_step]
        trained = np.flatnonzero(trains[modules])
        if not len(trained) or not frozen[modules[0]]:
            return  # nothing is trained, or the graph begins with something else
        found |= {row for row in modules[: trained[0]].tolist() if frozen[row]}
        after |= set(modules[trained[0] :].tolist())
    rows = sorted(found - after)
    if not rows:
        return
    loop, sums = loop_of(trace), op_sums(trace)
    of_engine = np.array([name.startswith(ENGINE) for name in trace.strings], dtype=np.bool_)
    of_engine = of_engine[trace.signatures["name"][sums["signature"]]]
    backward = sums[of_engine & np.isin(sums["module"], rows) & (sums["phase"] == Phase.BACKWARD)]
    column = "device_time" if backward["device_time"].any() else "time"
    time = int(backward[column].sum()) // loop.steps
    if loop.is_small(time):
        return
    in_all = {paths(trace)[0][row] for row in rows}
    names = sorted(path for path in in_all if path.rpartition(".")[0] not in in_all)  # and what is inside them
    used = creators[np.isin(module, rows)]
    yield Finding(
        "frozen_graph",
        f"{counted(len(names), 'frozen module builds', 'frozen modules build')} a graph, as their input requires a gradient, "
        f"though nothing before them is trained: their backward takes {format_ns(time)} of a step",
        "Run them under torch.no_grad(), or give them an input that requires no gradient: x.detach().",
        WHY,
        loop.worth(time, "the backward of these layers", low=time if column == "time" else 0),
        module=names[0] if len(names) == 1 else "",
        lines=tuple(most_first((line, 1) for line in lines_of_ops(trace, used))),
        details=tuple(names),
    )


def _kinds(trace: Trace) -> tuple[Flags, Flags]:
    """Which rows of ``trace.modules`` have parameters to be trained, and which lie in modules that have frozen ones alone.

    The last value is of no module.
    """
    assert trace.model is not None
    infos = trace.model.modules
    trains = [any(each.trainable for each in info.parameters) for info in infos]
    has_some, trains_below = [bool(info.parameters) for info in infos], list(trains)
    for row in range(len(infos) - 1, 0, -1):  # children come after their parents
        if (parent := infos[row].parent) >= 0:
            has_some[parent] |= has_some[row]
            trains_below[parent] |= trains_below[row]
    frozen: list[bool] = []
    for row, info in enumerate(infos):
        frozen.append(not trains_below[row] and (has_some[row] or (info.parent >= 0 and frozen[info.parent])))
    rows = (*registered(trace), -1)
    of_rows = [np.array([row >= 0 and each[row] for row in rows], dtype=np.bool_) for each in (trains, frozen)]
    return of_rows[0], of_rows[1]


def _never_run(trace: Trace, creators: Ints) -> Iterator[Finding]:
    """Outermost calls with a graph that no backward pass runs, though later calls are run; or, in evaluation, none at all."""
    calls = trace.module_calls
    outermost = _outermost(calls["parent"], trace.ops["module_call"][creators].astype(np.int64))
    run, _ = forward_and_backward_ops(trace)
    has_graph, is_run = np.zeros(len(calls) + 1, dtype=np.bool_), np.zeros(len(calls) + 1, dtype=np.bool_)
    has_graph[outermost] = True
    is_run[_outermost(calls["parent"], trace.ops["module_call"][run].astype(np.int64))] = True
    counts = (calls["flags"] & ANOTHER_KIND == 0) & (calls["end"] >= 0)
    counts &= step_of(calls["start"], trace, active_steps(trace)) >= 0
    unused = np.flatnonzero(has_graph[:-1] & ~is_run[:-1] & counts)
    trains = (phases(trace.ops) == Phase.BACKWARD).any()
    if trains:
        last = int(calls["start"][is_run[:-1]].max(initial=-1))
        unused = unused[calls["end"][unused] <= last]
    elif trace.model is None or trace.model.modules[0].training is not False:
        return  # only forward was recorded, of what may be trained
    if not len(unused):
        return
    loop = loop_of(trace)
    time = int((calls["end"] - calls["start"])[unused].sum()) // loop.steps
    size, worth = _held(trace, unused)
    labels = dict.fromkeys(paths(trace)[1][row] or "the model" for row in unused.tolist())
    of_unused = creators[np.isin(outermost, unused)]
    yield Finding(
        "frozen_graph",
        f"{counted(round(len(unused) / loop.steps) or 1, 'call')} in a step, of {format_ns(time)}, "
        "build a graph that no backward pass runs" + (f", and hold {format_bytes(size)} for it at the peak" if size else ""),
        "Run what needs no gradient, such as evaluation or a teacher, under torch.inference_mode() or torch.no_grad().",
        WHY,
        worth,
        module=next(iter(labels)) if len(labels) == 1 and "the model" not in labels else "",
        lines=tuple(most_first((line, 1) for line in lines_of_ops(trace, of_unused)))[:3],
        details=tuple(labels),
    )


def _held(trace: Trace, calls: Ints) -> tuple[int, Worth | None]:
    """What is held at the peak for the backward of these outermost calls; None where that is not known."""
    try:
        account = memory_accounts(trace)[0]
    except NotTold:
        return 0, None
    held = account.allocations[account.held_at_peak & (account.category == CATEGORIES.index("activations"))]
    around = _outermost(trace.module_calls["parent"], held["module_call"].astype(np.int64))
    size = int(held["bytes"][np.isin(around, calls)].sum())
    return size, peak_worth(account, size, "what was held at the peak for their backward", low=size) if size else None


def _outermost(parent: Ints, calls: Ints) -> Ints:
    """The outermost call around each of these; -1 for none."""
    found = np.where(calls < len(parent), calls, -1)
    above = np.append(parent.astype(np.int64), -1)
    while len(left := np.flatnonzero((found >= 0) & (above[found] >= 0))):
        found[left] = above[found[left]]
    return found
