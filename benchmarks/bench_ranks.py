"""How long it takes to load the traces of many ranks and to make every table of them, beside reading every byte of their files.

The traces are those of one aggregated recording, of 100 steps of a transformer, written once for each of 256 ranks;
``RANKS=1024`` in the environment says how many else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from conftest import Peer, SideBySide
from torch import nn

import torchprof

RANKS = int(os.environ.get("RANKS", "256"))


def recorded(layers: int, steps: int) -> torchprof.Trace:
    """One rank."""
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
    model = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
    optimizer = torch.optim.AdamW(model.parameters())
    with torchprof.profile(model, aggregate=True) as prof:
        for _ in range(steps):
            model(torch.randn(2, 8, 32)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            prof.step()
    return prof.trace


def timed(do: Callable[[], object]) -> Peer:
    """How many ms it takes."""

    def run() -> float:
        begin = time.perf_counter()
        do()
        return (time.perf_counter() - begin) * 1e3

    return run


def test_load_and_tables(side_by_side: SideBySide, tmp_path: Path) -> None:
    count = side_by_side.size(RANKS, 3)
    trace = recorded(side_by_side.size(24, 1), side_by_side.size(100, 2))
    for rank in range(count):
        replace(trace, facts={**trace.facts, "rank": rank, "world_size": count}).save(tmp_path)

    def tables() -> None:
        ranks = torchprof.load(tmp_path)
        assert len(ranks) == count
        for table in (torchprof.by_rank, torchprof.by_module):
            str(table(ranks))

    side_by_side(
        f"{count:,} ranks, {trace.nbytes / 2**10:,.0f} KiB each",
        {
            "read every byte": timed(lambda: sum(len(path.read_bytes()) for path in tmp_path.iterdir())),
            "load": timed(lambda: torchprof.load(tmp_path)),
            "load and all tables": timed(tables),
        },
        unit="ms",
        rounds=3,
    )
