"""How long it takes to load the traces of many ranks and to make every table of them, beside reading every byte of their files.

Aggregated traces are those of one recording, of 100 steps of a transformer, written once for each of 256 ranks with times and
addresses of its own; ``RANKS=1024`` in the environment says how many else. Full ones are eight of a recording of a million ops.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from conftest import Peer, SideBySide
from torch import nn

import torchprof
from torchprof.trace.model import Model

RANKS = int(os.environ.get("RANKS", "256"))
FULL = 8
ACROSS = ("by_rank", "by_module", "by_collective", "stragglers", "overlap", "imbalance", "clocks", "findings")


def recorded(model: nn.Module, steps: int, **options: Any) -> torchprof.Trace:
    """One rank."""
    optimizer = torch.optim.AdamW(model.parameters())
    with torchprof.profile(model, **options) as prof:
        for _ in range(steps):
            model(torch.randn(2, 8, 32)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            prof.step()
    return prof.trace


def transformer(layers: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def as_rank(trace: torchprof.Trace, rank: int, count: int) -> torchprof.Trace:
    """The trace as another rank would have recorded it: other sums of times, and modules at other addresses."""
    chance, facts = np.random.default_rng(rank), {**trace.facts, "rank": rank, "world_size": count, "host": f"node{rank // 8}"}
    tables = {name: getattr(trace, name).copy() for name in ("op_totals", "call_totals", "modules")}
    for name in ("op_totals", "call_totals"):
        factors = chance.uniform(0.95, 1.05, len(tables[name]))
        for column in ("time", "self_time", "min", "max"):
            tables[name][column] = tables[name][column] * factors
    tables["modules"]["address"] += rank
    assert trace.model is not None
    model = Model(tuple(module._replace(address=module.address + rank) for module in trace.model.modules))
    groups = [{**group, "ranks": list(range(count))} for group in facts.get("process_groups", ())]
    return replace(trace, **tables, model=model, facts={**facts, **({"process_groups": groups} if groups else {})})


def load_and_tables(folder: Path, count: int) -> None:
    """All that there is across ranks; of sums, some tables say that they need single ops."""
    ranks = torchprof.load(folder)
    assert isinstance(ranks, torchprof.Ranks)
    assert len(ranks) == count
    for name in ACROSS:
        try:
            str(getattr(torchprof, name)(ranks))
        except torchprof.ArgumentError:
            assert ranks[0].facts["aggregate"]


def timed(do: Callable[[], object]) -> Peer:
    """How many ms it takes."""

    def run() -> float:
        begin = time.perf_counter()
        do()
        return (time.perf_counter() - begin) * 1e3

    return run


def side_by_side_of(side_by_side: SideBySide, folder: Path, count: int, nbytes: int, unit: str) -> None:
    side_by_side(
        f"{count:,} ranks, {nbytes / 2**20:,.1f} MiB each",
        {
            "read every byte": timed(lambda: sum(len(path.read_bytes()) for path in folder.iterdir())),
            "load": timed(lambda: torchprof.load(folder)),
            "load and all tables": timed(lambda: load_and_tables(folder, count)),
        },
        unit=unit,
        rounds=3,
    )


def test_aggregated(side_by_side: SideBySide, tmp_path: Path) -> None:
    count = side_by_side.size(RANKS, 3)
    trace = recorded(transformer(side_by_side.size(24, 1)), side_by_side.size(100, 2), aggregate=True)
    for rank in range(count):
        as_rank(trace, rank, count).save(f"{tmp_path}/")
    side_by_side_of(side_by_side, tmp_path, count, trace.nbytes, "ms")


def test_full(side_by_side: SideBySide, tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}.store", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(transformer(side_by_side.size(24, 1)), bucket_cap_mb=0.1)
        trace = recorded(model, side_by_side.size(55, 2), budget=2**32)
    finally:
        dist.destroy_process_group()
    for rank in range(FULL):
        as_rank(trace, rank, FULL).save(f"{tmp_path}/")
    side_by_side_of(side_by_side, tmp_path, FULL, trace.nbytes, "ms")
