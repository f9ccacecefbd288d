"""Programs that are recorded while single allocations of torchprof's own fail: run with ``failing_new.cpp`` preloaded.

    LD_PRELOAD=failing_new.so python out_of_memory.py plain 1 29        allocations 1, 30, 59, ...
    LD_PRELOAD=failing_new.so python out_of_memory.py plain 1 29 all    each of these, and all after it

Every number is tried in a child of its own. Prints how many there are, and what came of those that were tried, as JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

import torchprof
from torchprof import _C, Trace

torch.set_num_threads(1)  # OpenMP does not outlive a fork
failing = ctypes.CDLL(None)
failing.end_failing.restype = ctypes.c_int64
STEPS = 4
SECONDS = 60
"""After which a child hangs."""
COUNTED = "ops module_calls allocations steps marks op_totals call_totals".split()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x).relu()) + x


class Wrong(Exception):
    """The program came to a wrong result, or an error that is not torchprof's reached it."""


def work(model: nn.Module, step: int) -> list[float]:
    """Some of everything: shapes that change, threads, views, backward, memory of others. Nothing of torchprof's is called."""
    try:
        x = torch.arange(4.0 * (step + 2)).view(step + 2, 4) / 16
        loss = model(x).sum()
        loss.backward()
        results = [loss.item()]
        thread = threading.Thread(target=lambda: results.append((torch.ones(3) + step).sum().item()))
        thread.start()
        thread.join()
        given = torch.from_numpy(np.arange(8.0 + step))
        results += [float((given * 2).sum()), float(torch.cat([given, given]).sum())]
        mapped = torch.ones(8).share_memory_()
        results.append(float(mapped.sum()))
        del given, mapped
        with torch.profiler.record_function(f"range {step}"):
            results.append(float(torch.nn.functional.conv1d(torch.ones(1, 1, 5), torch.ones(1, 1, 2)).sum()))
        return results
    except BaseException as error:
        raise Wrong(f"{type(error).__name__}: {error}") from error


def recorded(model: nn.Module, results: list[list[float]], **options: Any) -> list[Trace]:
    prof = torchprof.profile(model, **options)
    with prof:
        for step in range(STEPS):
            results.append(work(model, step))
            prof.mark("done")
            prof.step()
    return prof.traces


def plain(model: nn.Module, results: list[list[float]]) -> list[Trace]:
    return recorded(model, results)


def without_stacks(model: nn.Module, results: list[list[float]]) -> list[Trace]:
    return recorded(model, results, stacks=False)


def aggregated(model: nn.Module, results: list[list[float]]) -> list[Trace]:
    return recorded(model, results, aggregate=True)


def cycles(model: nn.Module, results: list[list[float]]) -> list[Trace]:
    return recorded(model, results, schedule=torchprof.schedule(wait=1, active=1, repeat=2))


def summary(model: nn.Module, results: list[list[float]]) -> list[Trace]:
    torchprof.summary(model, input_data=torch.ones(2, 4))
    results.extend(work(model, step) for step in range(STEPS))
    return []


PROGRAMS: dict[str, Callable[[nn.Module, list[list[float]]], list[Trace]]] = {
    each.__name__: each for each in (plain, without_stacks, aggregated, cycles, summary)
}


def made() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block())


def names_of(trace: Trace, signatures: Iterable[int]) -> list[str]:
    return [trace.strings[trace.signatures["name"][signature]] for signature in signatures]


def figures(traces: list[Trace]) -> list[dict[str, Any]]:
    """What does not differ between two recordings of the same program."""
    return [
        {
            **{name: len(getattr(trace, name)) for name in COUNTED},
            "names": Counter(names_of(trace, trace.ops["signature"].tolist())),
            "totals": sorted(
                zip(names_of(trace, trace.op_totals["signature"].tolist()), trace.op_totals["count"].tolist(), strict=True)
            ),
            "operands": len(trace.operands) if len(trace.ops) else 0,
            "ended": int((trace.ops["end"] >= 0).sum()),
            "with stacks": int((trace.op_stacks >= 0).sum()),
            "modules": [(row["name"], row["calls"], row["flops"]) for row in torchprof.by_module(trace).rows],
            "held": trace.steps["held"].tolist(),
        }
        for trace in traces
    ]


def print_tables(trace: Trace) -> None:
    for table in (torchprof.by_module, torchprof.by_op, torchprof.by_step, torchprof.by_line, torchprof.memory):
        with contextlib.suppress(torchprof.TorchprofError):
            str(table(trace))


def fail(number: int, *, all_after: bool = False) -> None:
    failing.fail_allocation(b"torchprof/_C", ctypes.c_int64(number), ctypes.c_bool(all_after))


def outcome(name: str, number: int, all_after: bool, expected: list[dict[str, Any]], right: list[list[float]]) -> str:
    """What came of a recording one of whose allocations failed; it begins with "bad" where that must not be."""
    results: list[list[float]] = []
    traces: list[Trace] = []
    raised = ""
    before, model = _C.installed(nn.Module), made()
    fail(number, all_after=all_after)
    try:
        traces = PROGRAMS[name](model, results)
    except (MemoryError, torchprof.TorchprofError) as error:
        raised = f"{type(error).__name__}: {error}"
    except Wrong as error:
        return f"bad: the program raised {error}"
    finally:
        failing.end_failing()
    if results != right[: len(results)]:
        return f"bad: the results of the program are {results}"
    if _C.installed(nn.Module) != before:
        return f"bad: left behind is {_C.installed(nn.Module)}"
    for trace in traces:
        print_tables(trace)
    again: list[list[float]] = []
    if figures(PROGRAMS[name](made(), again)) != expected or again != right:
        return "bad: another recording is not what it was"
    if raised:
        return f"raised {raised}"
    if figures(traces) == expected:
        return "complete"
    return "incomplete, and told" if any(trace.losses for trace in traces) else "bad: incomplete, and not told"


def in_a_child(function: Callable[[], str]) -> str:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        os.write(write, function().encode()[:2000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return text if code == 0 else f"bad: exit code {code}"


def main(name: str, first: int, stride: int, all_after: bool) -> None:
    PROGRAMS[name](made(), [])  # what is made once is made
    right: list[list[float]] = []
    expected = figures(PROGRAMS[name](made(), right))
    fail(0)
    PROGRAMS[name](made(), [])
    count = int(failing.end_failing())
    numbers = range(first, count + 1, stride)
    found = {number: in_a_child(lambda number=number: outcome(name, number, all_after, expected, right)) for number in numbers}
    print(json.dumps({"allocations": count, "outcomes": found}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), "all" in sys.argv[4:])
