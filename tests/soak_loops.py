"""The loops that `soak.py` runs: each records something that comes and goes, as programs that run for days have it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Final

import torch
from torch import Tensor, nn
from torch.profiler import record_function

import torchprof

__all__ = ["ENDS", "STEPS", "Network", "Recorded"]

Step = Callable[[torchprof.profile, random.Random, int], None]
Recorded = tuple[int, int]
"""How many rows a recording has, and how many it lost."""


class Network(nn.Module):
    """One that is trained, and makes modules while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        return nn.Sequential(nn.Dropout(0.1), nn.Tanh())(self.body(x))


def rows_of(trace: torchprof.Trace) -> Recorded:
    rows = len(trace.ops) + len(trace.module_calls) + len(trace.allocations) + len(trace.op_totals) + len(trace.call_totals)
    return rows, sum(trace.losses.values())


# Steps of a loop that is recorded. The number is that of the step, counted over all recordings.


def shapes(prof: torchprof.profile, chance: random.Random, number: int) -> None:
    """A shape that there was not before."""
    x = torch.empty(number + 1, chance.randrange(1, 100), device="meta")
    (x * 2 + x).relu_()


def modules(prof: torchprof.profile, chance: random.Random, number: int) -> None:
    """Modules that are made, called and dropped; some lie where no module was before, as others are kept for a while."""
    made = [nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(chance.randrange(1, 6))]
    kept = KEPT[number % len(KEPT)] = [made, [object() for _ in range(chance.randrange(1000))]]
    for each in made:
        each(torch.ones(2, 4)).sum().backward()
    del kept


KEPT: Final[list[list[object]]] = [[] for _ in range(13)]


def threads(prof: torchprof.profile, chance: random.Random, number: int) -> None:
    """Threads that work and end, one of which outlives the step."""

    def work() -> None:
        torch.ones(chance.randrange(1, 100)).add_(1).sum()

    started = [threading.Thread(target=work) for _ in range(3)]
    for thread in started:
        thread.start()
    LATE.append(started.pop())
    for thread in started:
        thread.join()
    while len(LATE) > 3:
        LATE.pop(0).join()


LATE: Final[list[threading.Thread]] = []


def ranges(prof: torchprof.profile, chance: random.Random, number: int) -> None:
    """A name that there was not before."""
    with record_function(f"range {number}"):
        torch.ones(3).neg_()
    prof.mark(f"mark {number}")


def code(prof: torchprof.profile, chance: random.Random, number: int) -> None:
    """Code that is compiled, run and dropped, at a line where others were before."""
    source = "\n" * chance.randrange(50) + "def f(x):\n    return x.neg().add_(1)"
    made: dict[str, Callable[[Tensor], Tensor]] = {"torch": torch}  # type: ignore[dict-item]
    exec(compile(source, "<made>", "exec"), made)
    made["f"](torch.ones(2))


def training(prof: torchprof.profile, chance: random.Random, number: int) -> None:
    """What loops do otherwise."""
    model, update = TRAINED
    model(torch.ones(chance.randrange(1, 9), 8)).sum().backward()
    update.step()
    update.zero_grad()


MODEL: Final = Network()
TRAINED: Final = (MODEL, torch.optim.AdamW(MODEL.parameters()))

STEPS: Final[tuple[Step, ...]] = (shapes, modules, threads, ranges, code, training)


# What is recorded from start to end.


def recording(chance: random.Random, number: int) -> Recorded:
    """Some steps, with some of the options."""
    options = {name: chance.random() < 0.7 for name in ("ops", "shapes", "memory", "modules", "stacks", "aggregate")}
    with torchprof.profile(chance.choice((None, MODEL)), **options, budget=2**25) as prof:  # type: ignore[arg-type]
        for _ in range(20):
            chance.choice(STEPS)(prof, chance, number)
            prof.step()
    if options["modules"] or options["ops"]:
        str(torchprof.by_step(prof.trace))
    return rows_of(prof.trace)


def cycles(chance: random.Random, number: int) -> Recorded:
    """A schedule that repeats, whose traces are let go."""
    found: list[Recorded] = []

    def ready(prof: torchprof.profile) -> None:
        found.append(rows_of(prof.trace))
        prof.traces.clear()

    schedule = torchprof.schedule(wait=1, warmup=1, active=2, repeat=0)
    with torchprof.profile(MODEL, schedule=schedule, aggregate=chance.random() < 0.5, on_trace_ready=ready) as prof:
        for _ in range(20):
            chance.choice(STEPS)(prof, chance, number)
            prof.step()
    return sum(rows for rows, _ in found), sum(lost for _, lost in found)


def watched(chance: random.Random, number: int) -> Recorded:
    """A model that is made in the block."""
    with torchprof.profile() as prof:
        model = Network()
        prof.watch(model)
        model(torch.ones(2, 8)).sum().backward()
    str(torchprof.by_module(prof.trace))
    str(torchprof.memory(prof.trace))
    return rows_of(prof.trace)


def summary(chance: random.Random, number: int) -> Recorded:
    """The table of a model that is not kept, on some tensors or on `meta`."""
    with torch.device("meta") if chance.random() < 0.5 else nullcontext():
        model = Network()
    report = torchprof.summary(model, (chance.randrange(1, 20), 8), verbose=0)
    return len(str(report).splitlines()), sum(report.totals.losses.values())


def estimate(chance: random.Random, number: int) -> Recorded:
    """What a step of a model that is not kept would take."""
    found = torchprof.estimate(Network(), (chance.randrange(1, 20), 8), optimizer=torch.optim.AdamW)
    return len(str(found).splitlines()), 0


def failing(chance: random.Random, number: int) -> Recorded:
    """A block that ends with an exception, inside a module."""
    prof = torchprof.profile(MODEL, aggregate=chance.random() < 0.5)
    try:
        with prof:
            prof.step()
            MODEL(torch.ones(3, 5))
    except RuntimeError:
        return rows_of(prof.trace)
    raise AssertionError("shapes that do not fit were multiplied")


ENDS: Final[tuple[Callable[[random.Random, int], Recorded], ...]] = (recording, cycles, watched, summary, estimate, failing)
