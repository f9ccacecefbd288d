"""Timelines and flame graphs of a real training step, compared with independent figures."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from flop_oracle import MENDED
from reading import op_names
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import torchprof
from torchprof.analysis.model.flops import signature_flops
from torchprof.analysis.time.totals import op_bytes, step_totals
from torchprof.exporters.chrome import export_chrome
from torchprof.exporters.flame_graphs import export_folded, export_speedscope
from torchprof.trace.schema import OP_NESTED
from torchprof.trace.trace import Trace

Event = dict[str, Any]

TOKENS = torch.arange(20).view(2, 10)


class TrainingStep:
    """One step of a small GPT2 with AdamW, whose first step has already run."""

    def __init__(self) -> None:
        config = hf.GPT2Config(
            n_layer=2, n_embd=32, n_head=2, vocab_size=50, n_positions=32, bos_token_id=0, eos_token_id=0, attn_pdrop=0.0
        )
        self.model = hf.GPT2LMHeadModel(config)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self()

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        self.optimizer.step()


@pytest.fixture
def step() -> TrainingStep:
    return TrainingStep()


@pytest.fixture
def recorded(step: TrainingStep) -> Trace:
    with torchprof.profile(step.model) as prof:
        step()
        prof.step()
    assert not prof.trace.losses
    return prof.trace


def events(trace: Trace, folder: Path) -> list[Event]:
    export_chrome(trace, folder / "trace.json")
    found: list[Event] = json.loads((folder / "trace.json").read_bytes())["traceEvents"]
    return found


def folded(trace: Trace, folder: Path, by: str) -> dict[str, int]:
    export_folded(trace, folder / "stacks.folded", by)
    lines = [line.rpartition(" ") for line in (folder / "stacks.folded").read_text().splitlines()]
    return {stack: int(value) for stack, _, value in lines}


def ns(microseconds: float) -> int:
    return round(1000 * microseconds)


def assert_nested(found: Iterable[Event]) -> None:
    """Two slices of a track do not overlap unless one contains the other."""
    tracks = defaultdict(list)
    for event in found:
        if event["ph"] == "X":
            tracks[event["tid"]].append((ns(event["ts"]), -ns(event["ts"]) - ns(event["dur"]), event["name"]))
    for slices in tracks.values():
        open_ends: list[int] = []
        for start, minus_end, name in sorted(slices):
            while open_ends and open_ends[-1] <= start:
                open_ends.pop()
            assert not open_ends or -minus_end <= open_ends[-1], name
            open_ends.append(-minus_end)


def recorded_time(trace: Trace) -> int:
    """Nanoseconds in which any op or module call ran, summed over threads: the union of their intervals."""
    total = 0
    for thread in range(len(trace.threads)):
        latest = 0
        rows = [
            (int(row["start"]), int(row["end"]))
            for table in (trace.ops, trace.module_calls)
            for row in table[table["thread"] == thread]
        ]
        for start, end in sorted(rows):
            total += max(0, end - max(start, latest))
            latest = max(latest, end)
    return total


def test_every_op_and_call_appears_once_with_its_name(recorded: Trace, tmp_path: Path) -> None:
    found = events(recorded, tmp_path)
    by_category: dict[str, Counter[str]] = defaultdict(Counter)
    for event in found:
        if event["ph"] == "X":
            by_category[event["cat"]][event["name"]] += 1
    assert by_category["op"] + by_category["backward"] + by_category["user"] == Counter(op_names(recorded))
    assert by_category["module"].total() == len(recorded.module_calls)
    assert by_category["module"]["transformer.h.1.attn (GPT2Attention)"] == 1
    assert by_category["step"] == {"step 0": 1}
    phases = [event["name"] for event in found if event["ph"] == "X" and event["cat"] == "phase"]
    assert [phase for phase in phases if phase != "other"] == ["optimizer", "forward", "backward", "optimizer"]


def test_events_of_a_track_nest(recorded: Trace, tmp_path: Path) -> None:
    assert_nested(events(recorded, tmp_path))


def test_every_arrow_has_two_ends_and_leads_forward_in_time(recorded: Trace, tmp_path: Path) -> None:
    found = events(recorded, tmp_path)
    starts = {event["id"]: event for event in found if event["ph"] == "s"}
    ends = {event["id"]: event for event in found if event["ph"] == "f"}
    assert len(starts) == sum(event["ph"] == "s" for event in found) > 50
    assert set(starts) == set(ends)
    nodes = {(event["tid"], event["ts"]): event for event in found if event.get("cat") == "backward" and event["ph"] == "X"}
    ops = {(event["tid"], event["ts"]): event for event in found if event.get("cat") == "op"}
    for number, start in starts.items():
        end = ends[number]
        assert start["ts"] < end["ts"]
        op, node = ops[start["tid"], start["ts"]], nodes[end["tid"], end["ts"]]
        assert op["args"]["sequence_nr"] == node["args"]["sequence_nr"]
        assert op["args"].get("module") == node["args"].get("module")
    addmm = [number for number, end in ends.items() if nodes[end["tid"], end["ts"]]["name"] == "AddmmBackward0"]
    assert len(addmm) == 8
    assert {ops[starts[number]["tid"], starts[number]["ts"]]["name"] for number in addmm} == {"aten::addmm"}


def test_the_memory_counter_is_the_sum_of_live_blocks(step: TrainingStep, recorded: Trace, tmp_path: Path) -> None:
    counters = [event for event in events(recorded, tmp_path) if event["ph"] == "C"]
    assert {event["name"] for event in counters} == {"bytes held (cpu)"}
    assert counters[0]["args"]["bytes"] >= 3 * sum(parameter.nbytes for parameter in step.model.parameters())  # AdamW keeps two
    blocks = recorded.allocations
    for event in counters[::20]:
        time = ns(event["ts"])
        held = (blocks["start"] <= time) & ((blocks["end"] < 0) | (blocks["end"] > time))
        assert event["args"]["bytes"] == blocks["bytes"][held].sum()


def test_the_time_of_all_stacks_is_the_time_recorded(recorded: Trace, tmp_path: Path) -> None:
    stacks = folded(recorded, tmp_path, "time")
    assert min(stacks.values()) > 0
    assert sum(stacks.values()) == recorded_time(recorded)
    assert {stack.partition(";")[0] for stack in stacks} == {"forward", "backward", "optimizer", "other"}
    path = "GPT2LMHeadModel;transformer (GPT2Model);h.1 (GPT2Block);mlp (GPT2MLP);c_fc (Conv1D)"
    assert stacks[f"forward;{path}"]
    assert stacks[f"forward;{path};aten::addmm"]
    assert any(stack.startswith(f"backward;{path};") for stack in stacks)
    assert any(stack.startswith(f"optimizer;{path};") for stack in stacks)


def test_folded_flops_are_those_of_flop_counter_mode(step: TrainingStep, recorded: Trace, tmp_path: Path) -> None:
    with FlopCounterMode(display=False, custom_mapping=MENDED) as counter:
        step()
    stacks = folded(recorded, tmp_path, "flops")
    assert sum(stacks.values()) == counter.get_total_flops() > 0
    own = signature_flops(recorded)[recorded.ops["signature"]]
    assert sum(stacks.values()) == own[recorded.ops["flags"] & OP_NESTED == 0].sum()


def test_folded_bytes_are_those_of_the_tables(recorded: Trace, tmp_path: Path) -> None:
    assert sum(folded(recorded, tmp_path, "bytes").values()) == op_bytes(recorded, step_totals(recorded)).sum() > 0


def test_a_speedscope_file_holds_the_same(recorded: Trace, tmp_path: Path) -> None:
    export_speedscope(recorded, tmp_path / "out.json")
    document = json.loads((tmp_path / "out.json").read_bytes())
    (profile,) = document["profiles"]
    frames = [frame["name"] for frame in document["shared"]["frames"]]
    samples = zip(profile["samples"], profile["weights"], strict=True)
    found = {";".join(frames[frame] for frame in sample): weight for sample, weight in samples}
    assert found == folded(recorded, tmp_path, "time")


class Checkpointed(nn.Module):
    """Checkpoints its layers, and runs a backward pass inside forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x: Tensor) -> Tensor:
        self.layers[0](x).sum().backward()
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False)
        return x


def test_recomputation_user_ranges_and_backward_inside_forward_are_counted_once(tmp_path: Path) -> None:
    model, x = Checkpointed(), torch.ones(2, 4, requires_grad=True)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        return loss

    with torchprof.profile(model) as prof, torch.autograd.profiler.record_function('my "step"; first'):
        model(x).sum().backward()
        optimizer.step(closure)
    assert_nested(events(prof.trace, tmp_path))
    stacks = folded(prof.trace, tmp_path, "time")
    assert min(stacks.values()) > 0
    assert sum(stacks.values()) == recorded_time(prof.trace)
    assert 'other;my "step", first' in stacks
    assert any(stack.startswith("recomputation;layers.1 (Linear);aten::linear") for stack in stacks)
