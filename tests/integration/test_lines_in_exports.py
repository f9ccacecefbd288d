"""Flame graphs and timelines by line of recorded programs, and the lines that an account of memory says."""

from __future__ import annotations

import inspect
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from line_programs import PROGRAMS
from torch import Tensor, nn

import torchprof
from torchprof import Trace
from torchprof.analysis.time.self_times import nested_self_times
from torchprof.tables.columns import COLUMNS

HOW: list[dict[str, bool]] = [{}, {"libraries": True}, {"backward_at_call": True}]


def recorded(name: str) -> Trace:
    torch.manual_seed(0)
    model, run = PROGRAMS[name]()
    run()
    with torchprof.profile(model, stacks=True) as prof:
        run()
    return prof.trace


def folded(trace: Trace, folder: Path, by: str, **options: Any) -> dict[str, int]:
    torchprof.export_folded(trace, folder / "out.folded", by, **options)
    lines = [line.rpartition(" ") for line in (folder / "out.folded").read_text().splitlines()]
    return {stack: int(value) for stack, _, value in lines}


@pytest.mark.parametrize("name", PROGRAMS)
def test_flame_graphs_by_line_add_up_to_those_by_module(name: str, tmp_path: Path) -> None:
    trace = recorded(name)
    for by in ("time", "flops", "bytes", "allocated", "peak"):
        of_modules = sum(folded(trace, tmp_path, by).values())
        assert of_modules > 0
        for how in HOW:
            assert sum(folded(trace, tmp_path, by, functions=True, **how).values()) == of_modules, (by, how)


@pytest.mark.parametrize("name", PROGRAMS)
def test_bytes_at_the_peak_are_those_of_the_account(name: str, tmp_path: Path) -> None:
    trace = recorded(name)
    account = torchprof.memory(trace)
    assert sum(folded(trace, tmp_path, "peak", functions=True).values()) == account.peak.bytes
    assert sum(row["at_peak"] for row in account.peak_lines.rows) == account.peak.bytes


@pytest.mark.parametrize("name", PROGRAMS)
def test_flops_of_a_line_are_those_of_the_table_by_line(name: str, tmp_path: Path) -> None:
    """A table has those of one step, or of the recording where it has no steps."""
    trace = recorded(name)
    torchprof.export_speedscope(trace, tmp_path / "out.json", "flops", functions=True)
    document = json.loads((tmp_path / "out.json").read_text())
    frames, (profile,) = document["shared"]["frames"], document["profiles"]
    found: Counter[tuple[str, int]] = Counter()
    for sample, weight in zip(profile["samples"], profile["weights"], strict=True):
        of_python = [frames[at] for at in sample if "line" in frames[at]]
        if of_python:
            found[of_python[-1]["file"], of_python[-1]["line"]] += weight
    of_table = {(row["file"], row["line"]): row["flops_self"] for row in torchprof.by_line(trace).rows}
    assert found == {place: flops for place, flops in of_table.items() if place[1] is not None and flops}


def python_slices(trace: Trace, folder: Path, **options: Any) -> dict[int, list[dict[str, Any]]]:
    torchprof.export_chrome(trace, folder / "out.json", **options)
    tracks: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for event in json.loads((folder / "out.json").read_text())["traceEvents"]:
        if event.get("cat") == "python":
            tracks[event["tid"]].append(event)
    return tracks


@pytest.mark.parametrize("libraries", [False, True])
@pytest.mark.parametrize("name", PROGRAMS)
def test_slices_of_every_track_nest(name: str, libraries: bool, tmp_path: Path) -> None:
    tracks = python_slices(recorded(name), tmp_path, libraries=libraries)
    assert tracks
    for events in tracks.values():
        open_until: list[int] = []
        for event in events:
            start = round(1000 * event["ts"])
            end = start + round(1000 * event["dur"])
            while open_until and open_until[-1] <= start:
                open_until.pop()
            assert not open_until or end <= open_until[-1], event
            open_until.append(end)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(8, 16), nn.Linear(16, 1)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        self.seen.append(x.detach().square())
        return self.out(x.tanh())


def train(model: Net, prof: torchprof.profile) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        loss = model(torch.randn(64, 8)).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        prof.step()


def line(function: Any, text: str) -> int:
    lines, first = inspect.getsourcelines(function)
    return next(first + at for at, each in enumerate(lines) if text in each)


@pytest.fixture(scope="module")
def trained() -> Trace:
    model = Net()
    with torchprof.profile(model, stacks=True) as prof:
        train(model, prof)
    return prof.trace


def test_a_leak_says_the_line_that_made_it(trained: Trace) -> None:
    (leak,) = torchprof.memory(trained).leaks
    assert leak.line == f"test_lines_in_exports.py:{line(Net, 'square()')}"
    assert f"test_lines_in_exports.py:{line(Net, 'square()')}" in str(torchprof.memory(trained))


def test_activations_are_of_the_lines_that_made_them(trained: Trace) -> None:
    rows = torchprof.memory(trained).peak_lines.rows
    of_lines = {row["name"]: row["at_peak"] for row in rows if row["category"] == "activations"}
    assert of_lines[f"test_lines_in_exports.py:{line(Net, 'tanh()')}"] == 64 * 16 * 4


def test_a_timeline_has_the_lines_of_the_loop_in_the_order_in_which_they_ran(trained: Trace, tmp_path: Path) -> None:
    (events,) = python_slices(trained, tmp_path).values()
    ran = [event["args"]["line"] for event in events if event["name"].startswith("train ")]
    texts = ("loss = ", "loss.backward()", "optimizer.step()", "optimizer.zero_grad()")
    once = [line(train, text) for text in texts]
    assert [each for each in ran if each in once[:3]] == once[:3] * 6
    assert ran[0] == line(train, "SGD(") or ran[0] == once[0]


def test_backward_is_below_the_line_that_it_differentiates_or_below_its_call(trained: Trace, tmp_path: Path) -> None:
    file = "test_lines_in_exports.py"
    of_forward = folded(trained, tmp_path, "flops", functions=True)
    of_call = folded(trained, tmp_path, "flops", functions=True, backward_at_call=True)
    tail = "AddmmBackward0;aten::mm"
    first = f"Net.forward ({file}:{line(Net, 'self.fc(x)')})"
    assert sum(value for stack, value in of_forward.items() if first in stack and stack.endswith(tail)) == 6 * 2 * 64 * 8 * 16
    call = f"train ({file}:{line(train, 'loss.backward()')})"
    backward = sum(value for stack, value in of_call.items() if call in stack)
    assert backward == 6 * 2 * (64 * 8 * 16 + 2 * 64 * 16)
    assert not any("Net.forward" in stack and "Backward0" in stack for stack in of_call)


class Inner(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.inner(x)
            sum(range(1000))
        return x


@pytest.mark.parametrize("libraries", [False, True])
def test_python_in_a_call_is_of_its_forward_in_tables_and_flame_graphs(tmp_path: Path, libraries: bool) -> None:
    model, x = Outer(), torch.ones(2)
    model(x)
    with torchprof.profile(model, stacks=True) as prof:
        model(x)
    of_calls, of_inner = nested_self_times(prof.trace)[1], prof.trace.module_calls["parent"] >= 0
    of_lines = {row["name"]: row["forward_self"] for row in torchprof.by_line(prof.trace, libraries=libraries).rows}
    stacks = folded(prof.trace, tmp_path, "time", functions=True, libraries=libraries)
    for function, spent in ((Outer.forward, of_calls[~of_inner].sum()), (Inner.forward, of_calls[of_inner].sum())):
        name = f"test_lines_in_exports.py:{function.__code__.co_firstlineno}"
        assert of_lines[f"{name} {function.__qualname__}"] == pytest.approx(spent)
        assert sum(value for stack, value in stacks.items() if stack.endswith(f";{function.__qualname__} ({name})")) == spent
    here = line(test_python_in_a_call_is_of_its_forward_in_tables_and_flame_graphs, "        model(x)\n")
    assert of_lines[f"test_lines_in_exports.py:{here}"] == 0, "it called the module, and ran nothing itself"


def test_data_of_every_table_has_lines_and_no_table_has_an_empty_column(trained: Trace) -> None:
    assert {"lines", "defined"} <= set(COLUMNS)
    with torchprof.profile(Net(), stacks=False) as prof:
        train(Net(), prof)
    assert "made at" not in str(torchprof.memory(prof.trace))
    assert "At" not in str(torchprof.memory(prof.trace).leak_table).split()
