"""Programs that are recorded while single allocations of torchprof's own fail: run with ``failing_new.cpp`` loaded before all else.

    LD_PRELOAD=failing_new.so python out_of_memory.py plain 1 200 1        allocations 1, 2, ... 199

Every number is tried in a child of its own. Prints what came of it, as JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import torchprof
from torchprof import _C, Trace

torch.set_num_threads(1)  # OpenMP does not outlive a fork
failing = ctypes.CDLL(None)
failing.end_failing.restype = ctypes.c_int64
failing.failures.restype = ctypes.c_int64
STEPS = 4
SECONDS = 6
TABLES = "ops module_calls allocations steps marks op_totals call_totals".split()


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
    """Some of everything: shapes that change, threads, views, backward, memory of others. It is the program's own: nothing of
    torchprof's may be raised here."""
    try:
        results: list[float] = []
        x = torch.arange(4.0 * (step + 2)).view(step + 2, 4) / 16
        loss = model(x).sum()
        loss.backward()
        results.append(loss.item())
        box: list[float] = []
        thread = threading.Thread(target=lambda: box.append((torch.ones(3) + step).sum().item()))
        thread.start()
        thread.join()
        import numpy as np

        given = torch.from_numpy(np.arange(8.0 + step))
        results += [*box, float((given * 2).sum()), float(torch.cat([given, given]).sum())]
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


def figures(traces: list[Trace]) -> list[Any]:
    """What does not differ between two recordings of the same program."""
    found = []
    for trace in traces:
        names = Counter(trace.strings[trace.signatures["name"][op]] for op in trace.ops["signature"].tolist()) if len(trace.ops) else {}
        totals = Counter[str]()
        for row in trace.op_totals:
            totals[trace.strings[trace.signatures["name"][row["signature"]]]] += int(row["count"])
        found.append(
            {
                **{name: len(getattr(trace, name)) for name in TABLES},
                "names": dict(names),
                "totals": dict(totals),
                "operands": len(trace.operands) if len(trace.ops) else 0,
                "ended": int((trace.ops["end"] >= 0).sum()),
                "stacks": int((trace.op_stacks >= 0).sum()) if len(trace.op_stacks) else 0,
                "modules": [(row["name"], row["calls"], row["flops"]) for row in torchprof.by_module(trace).rows],
                "held": trace.steps["held"].tolist(),
            }
        )
    return found


def tables(traces: list[Trace]) -> None:
    for trace in traces:
        for table in (torchprof.by_module, torchprof.by_op, torchprof.by_step, torchprof.by_line):
            try:
                str(table(trace))
            except torchprof.TorchprofError:
                pass
        try:
            str(torchprof.memory(trace))
        except torchprof.TorchprofError:
            pass


def outcome(name: str, number: int, all_after: bool, expected: list[Any], right: list[list[float]]) -> dict[str, Any]:
    program, results, traces = PROGRAMS[name], [], []
    model = made()
    said: dict[str, Any] = {}
    before = _C.installed(nn.Module)
    failing.fail_allocation(b"torchprof/_C", ctypes.c_int64(number), ctypes.c_bool(all_after))
    try:
        traces = program(model, results)
    except Wrong as error:
        said["wrong"] = f"raised in the program: {error}"
    except (MemoryError, torchprof.TorchprofError) as error:
        said["raised"] = f"{type(error).__name__}: {error}"
    except BaseException as error:
        said["wrong"] = f"{type(error).__name__}: {error}"
    failing.end_failing()
    said["failed"] = int(failing.failures())
    if results != right[: len(results)]:
        said["wrong"] = f"results {results}"
    if (after := _C.installed(nn.Module)) != before:
        said["left"] = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
    if traces:
        tables(traces)
        said["losses"] = [dict(trace.facts["losses"]) for trace in traces]
        said["told"] = any(any(each.values()) for each in said["losses"])
        found = figures(traces)
        said["complete"] = found == expected
        if not said["complete"]:
            said["missing"] = [
                {key: (was.get(key), now.get(key)) for key in was if was[key] != now[key]}
                for was, now in zip(expected, found, strict=False)
            ]
    again: list[list[float]] = []
    traces = PROGRAMS[name](made(), again)
    if again != right or figures(traces) != expected:
        said["again"] = "another recording is not what it was"
    return said


def bad(said: dict[str, Any]) -> str:
    if "signal" in said:
        return f"signal {said['signal']}"
    for what in ("wrong", "left", "again"):
        if what in said:
            return what
    if not said.get("complete", True) and not said["told"] and "raised" not in said:
        return "silent"
    return ""


def main(name: str, first: int, last: int, stride: int, all_after: bool) -> None:
    PROGRAMS[name](made(), [])  # what is made once is made
    PROGRAMS[name](made(), right := [])
    expected = figures(PROGRAMS[name](made(), []))
    failing.fail_allocation(b"torchprof/_C", ctypes.c_int64(0), ctypes.c_bool(False))
    PROGRAMS[name](made(), [])
    count = int(failing.end_failing())
    outcomes: dict[int, dict[str, Any]] = {}
    for number in range(first, min(last or count, count) + 1, stride):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            signal.alarm(SECONDS)
            said = outcome(name, number, all_after, expected, right)
            os.write(write, json.dumps(said).encode()[:60000])
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            text = pipe.read()
        status = os.waitpid(child, 0)[1]
        code = os.waitstatus_to_exitcode(status)
        outcomes[number] = json.loads(text) if text else {"signal": code}
    print(json.dumps({"count": count, "outcomes": outcomes}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), "all" in sys.argv[5:])
