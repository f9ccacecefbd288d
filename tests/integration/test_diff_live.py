"""`diff` of real programs, recorded: what was planted is found, and nothing else."""

from __future__ import annotations

import pickle
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from snapshot_programs import MIB, Program, frame, script
from torch import Tensor, nn

import torchprof
from torchprof.cli.main import main

STEPS = 12


class Slow(nn.Module):
    """A layer that sleeps."""

    def __init__(self, body: nn.Module, seconds: float) -> None:
        super().__init__()
        self.body, self.seconds = body, seconds

    def forward(self, x: Tensor) -> Tensor:
        if self.seconds:
            time.sleep(self.seconds)
        return self.body(x)


def network(seconds: float = 0.0, **more: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    layers = {"first": nn.Linear(16, 32), "act": nn.ReLU(), "slow": Slow(nn.Linear(32, 32), seconds), "last": nn.Linear(32, 4)}
    return nn.Sequential(OrderedDict({**layers, **more}))


def trained(model: nn.Module, batch: int = 8, **options: Any) -> torchprof.Trace:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torchprof.profile(model, schedule=torchprof.schedule(warmup=1, active=STEPS), **options) as prof:
        for _ in range(1 + STEPS):
            model(torch.ones(batch, 16)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            prof.step()
    return prof.trace


def total(diff: torchprof.Diff, figure: str) -> dict[str, Any]:
    return next(each for each in diff.totals if each["figure"] == figure)


def row(diff: torchprof.Diff, path: str) -> dict[str, Any]:
    return next(each for each in diff.table.rows if each["path"] == path)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine take longer than what is planted here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def before(one_thread: None) -> torchprof.Trace:
    return trained(network())


def test_a_slow_layer_is_named_first_by_module_and_by_line(before: torchprof.Trace) -> None:
    after = trained(network(seconds=0.1))
    first = torchprof.diff(before, after).table.rows[0]
    assert first["path"] == "slow", "not the layer inside, nor the model around"
    assert first["verdict"] in ("slower", "mostly slower")
    assert first["self_difference"] > 80e6
    assert torchprof.diff(before, after).failures("slow: forward > +20 ms")
    for by in ("line", "function"):
        slowest = torchprof.diff(before, after, by=by).table.rows[0]  # type: ignore[arg-type]
        assert slowest["function"] == "Slow.forward"
        assert slowest["verdict"] in ("slower", "mostly slower")
        assert slowest["self_difference"] > 80e6


def test_a_program_that_is_run_twice_differs_by_times_alone() -> None:
    a, b = (trained(network()) for _ in range(2))
    # Whatever the machine did meanwhile: with the same ops, no time says that the program was changed.
    claims = ("slower", "faster", "mostly slower", "mostly faster")
    assert total(torchprof.diff(a, b), "time")["verdict"] not in claims
    for by in ("module", "op", "line", "category"):
        found = torchprof.diff(a, b, by=by)  # type: ignore[arg-type]
        assert found.notes == ()
        assert {each["how"] for each in found.table.rows} == {"same"}
        for each in found.table.rows:
            counts = {
                name: value
                for name, value in each.items()
                if name.endswith("_difference")
                and name.removesuffix("_difference") in ("calls", "flops", "params", "saved", "at_peak")
            }
            assert not any(counts.values()), (each["name"], counts)
    assert not found.failures("flops > +0%", "ops > +0%", "peak > +0%", "saved > +0%", "allocated > +0%")


def test_twice_the_batch_is_twice_the_flops_and_it_is_said(before: torchprof.Trace) -> None:
    found = torchprof.diff(before, trained(network(), batch=16))
    assert found.notes == ("Not the same: batch 8 in A, 16 in B: figures are per step, not per sample",)
    assert total(found, "flops")["change"] == 1.0
    assert row(found, "first")["flops_difference"] == row(found, "first")["flops_a"] == 2 * 2 * 8 * 16 * 32
    assert row(found, "first")["params_difference"] == 0


def test_layers_that_are_renamed_added_and_removed(before: torchprof.Trace) -> None:
    model = network()
    layers = dict(model.named_children())
    layers["relu"] = layers.pop("act")
    order = ("first", "relu", "slow", "drop", "last")
    layers["drop"] = nn.Dropout(0.0)
    found = torchprof.diff(before, trained(nn.Sequential(OrderedDict((name, layers[name]) for name in order))))
    assert {each["path"]: each["how"] for each in found.table.rows if each["how"] != "same"} == {
        "relu": "renamed",
        "drop": "added",
    }
    assert row(found, "relu")["was"] == "act"
    back = torchprof.diff(trained(nn.Sequential(OrderedDict((name, layers[name]) for name in order))), before)
    assert row(back, "drop")["how"] == "removed"


def test_a_compiled_model_is_compared_with_the_one_inside(before: torchprof.Trace) -> None:
    found = torchprof.diff(before, trained(torch.compile(network(), backend="eager")))  # type: ignore[arg-type]
    assert "Not the same: compiled code: does not run in A, runs in B; calls of modules inside it are not seen" in found.notes
    assert {each["path"] for each in found.table.rows if each["how"] == "removed"} == set()
    assert total(found, "flops")["difference"] == 0


def test_an_aggregated_recording_beside_one_that_is_not(before: torchprof.Trace) -> None:
    found = torchprof.diff(before, trained(network(), aggregate=True))
    assert "Not the same: sums only (aggregate=True): no in A, yes in B" in found.notes
    assert total(found, "time")["low"] is not None, "both know single steps"
    assert total(found, "flops")["difference"] == 0
    assert total(found, "peak")["difference"] is None, "they are not of the same"
    assert "what was allocated since the recording began" in total(found, "peak")["unknown_because"]
    assert row(found, "first")["self_low"] is None
    assert row(found, "first")["calls_difference"] == 0


def test_a_recording_without_memory_does_not_know_it(before: torchprof.Trace) -> None:
    found = torchprof.diff(before, trained(network(), memory=False))
    assert total(found, "peak")["b"] is None
    assert "it is not known of B" in found.failures("peak > +5%")[0].why
    assert "Not the same: memory recorded: yes in A, no in B" in found.notes


def test_summaries_are_compared_by_module() -> None:
    a = summary_of(network())
    b = summary_of(network(more=nn.Linear(4, 6)))
    found = torchprof.diff(a, b)
    assert total(found, "params")["difference"] == 4 * 6 + 6
    assert total(found, "flops")["difference"] == 2 * 8 * 4 * 6
    assert row(found, "more")["how"] == "added"
    assert row(found, "more")["params_b"] == 4 * 6 + 6
    assert len(torchprof.diff(a, a).changed) == 0


def summary_of(model: nn.Module) -> torchprof.Summary:
    return torchprof.summary(model, input_data=torch.ones(8, 16))


def test_estimates_are_compared_by_what_holds_the_memory() -> None:
    adam, sgd = (
        torchprof.estimate(network(), (8, 16), optimizer=optimizer) for optimizer in (torch.optim.Adam, torch.optim.SGD)
    )
    found = torchprof.diff(adam, sgd)
    assert total(found, "needed")["difference"] == sgd.device_memory - adam.device_memory
    assert total(found, "flops")["difference"] == 0
    held = {each["name"]: each["at_peak_difference"] for each in found.table.rows}
    assert sum(held.values()) == sgd.device_memory - adam.device_memory
    assert held["optimizer state"] == -adam.by_category["optimizer state"]
    by_module = torchprof.diff(adam, adam, by="module")
    assert len(by_module.changed) == 0
    assert "time_a" not in by_module.table.rows[0], "times of fake tensors say nothing"


def snapshot(line: int, activations: int) -> dict[str, Any]:
    """8 MiB from line 5 of ``train.py``, and so many from this line of ``model.py``."""
    program = Program()
    program.allocate("parameters", 8 * MIB, script(5))
    program.allocate("activations", activations, [frame("/a/model.py", line, "forward"), *script(12)])
    return program.snapshot()


def test_memory_snapshots_are_compared_by_line_and_category(tmp_path: Path) -> None:
    a, b = snapshot(20, 4 * MIB), snapshot(23, 6 * MIB)
    found = torchprof.diff(torchprof.memory(a), torchprof.memory(b))
    assert total(found, "peak")["difference"] == 2 * MIB
    (changed,) = found.changed.rows
    assert (changed["name"], changed["how"], changed["was"]) == ("model.py:23 forward", "moved", "model.py:20 forward")
    assert changed["at_peak_difference"] == 2 * MIB
    by_category = torchprof.diff(torchprof.memory(a), torchprof.memory(b), by="category")
    assert sum(each["at_peak_difference"] for each in by_category.table.rows) == 2 * MIB
    for name, each in (("a", a), ("b", b)):
        (tmp_path / name).write_bytes(pickle.dumps(each))
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b"), "--fail-if", "peak > +1 MiB"]) == 1
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b"), "--fail-if", "peak > +2 MiB", "reserved < -0%"]) == 0
