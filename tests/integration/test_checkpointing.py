"""``torchprof.checkpointing`` says beforehand what `estimate` finds once the modules are checkpointed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from goldens import Golden
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import torchprof
from torchprof import ArgumentError, Estimate
from torchprof.analysis.model.kinds import kind_of
from torchprof.estimation.bounds.step_flops import step_flops

WIDTH = 64


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 8 * WIDTH), nn.GELU(), nn.Linear(8 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> Any:
        return x + self.mlp(self.norm(x))


def network() -> nn.Module:
    return nn.Sequential(*(Block() for _ in range(4)), nn.Linear(WIDTH, 8), nn.Sigmoid())


def estimated(checkpointed: Callable[[str], bool] = lambda path: False) -> Estimate:
    def build() -> nn.Module:
        model = network()
        wrap: Any = checkpoint_wrapper
        for path, module in list(model.named_modules()):
            if path and checkpointed(path):
                owner, _, name = path.rpartition(".")
                setattr(model.get_submodule(owner), name, wrap(module, preserve_rng_state=False))
        return model

    return torchprof.estimate(build, (512, WIDTH), optimizer=torch.optim.AdamW, device="cpu")


def test_the_peak_that_is_left_is_the_one_that_checkpoints_leave() -> None:
    table = torchprof.checkpointing(estimated().trace)
    assert {"*", "*.mlp"} <= {row["name"] for row in table.rows}
    for row in table.rows:
        found = estimated(lambda path, kind=row["name"]: kind_of(path) == kind)  # type: ignore[misc]
        assert row["peak"] == pytest.approx(found.memory.peak.bytes, rel=0.002), row["name"]
        recomputed = sum(step_flops(found.trace).recomputed.values())
        assert recomputed <= row["flops"], row["name"]
        assert recomputed or not row["flops"] or row["name"] == "4", row["name"]


def test_every_module_is_told_by_itself() -> None:
    trace = estimated().trace
    rows = {row["name"]: row for row in torchprof.checkpointing(trace, each=True).rows}
    for name in ("0.mlp", "2"):
        found = estimated(lambda path, name=name: path == name)  # type: ignore[misc]
        assert rows[name]["peak"] == pytest.approx(found.memory.peak.bytes, rel=0.002)
        assert rows[name]["modules"] == 1


def test_what_saves_most_for_a_flop_comes_first() -> None:
    rows = torchprof.checkpointing(estimated().trace).rows
    values = [row["peak_saved"] / max(1, row["flops"]) for row in rows]
    assert values == sorted(values, reverse=True)
    assert all(row["peak_saved"] > 0 for row in rows)


def test_it_is_printed(golden: Golden) -> None:
    golden(str(torchprof.checkpointing(estimated().trace)), "checkpointing.txt")


def test_a_recorded_step_tells_it_too() -> None:
    model = network()
    with torchprof.profile(model, memory=True) as prof:
        model(torch.ones(512, WIDTH)).sum().backward()
        prof.step()
    assert torchprof.checkpointing(prof.trace, "cpu").rows


def test_a_trace_without_memory_does_not_tell() -> None:
    model = nn.Linear(4, 4)
    with torchprof.profile(model, memory=False) as prof:
        model(torch.ones(2, 4))
    with pytest.raises(ArgumentError):
        torchprof.checkpointing(prof.trace)


def test_each_is_a_flag() -> None:
    with pytest.raises(ArgumentError, match="each='layers' must be True or False"):
        torchprof.checkpointing(estimated().trace, each="layers")  # type: ignore[arg-type]
