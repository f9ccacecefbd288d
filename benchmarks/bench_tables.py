"""From the last op to the table: ending a recording of many ops and grouping them by name."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from conftest import Peer, SideBySide
from peers import observers, torch_profiler

import torchprof
from torchprof.trace.trace import Trace


def by_name(trace: Trace) -> dict[str, tuple[int, int]]:
    """Count and nanoseconds of every op."""
    names = trace.op_names
    counts = np.bincount(names, minlength=len(trace.strings))
    times = np.bincount(names, weights=trace.ops["end"] - trace.ops["start"], minlength=len(trace.strings))
    return {name: (int(counts[row]), int(times[row])) for row, name in enumerate(trace.strings) if counts[row]}


@pytest.mark.parametrize("millions", [0.1, 1.0])
def test_stop_and_table(side_by_side: SideBySide, millions: float) -> None:
    ops = side_by_side.size(int(millions * 1e6), 100)
    a, b = torch.ones(4, 4), torch.ones(4, 4)
    bytes_per_op = 0.0

    def run() -> None:
        with torch.no_grad():
            observers().add(a, b, ops)

    def ours() -> float:
        nonlocal bytes_per_op
        prof = torchprof.profile()
        with prof:
            run()
            begin = time.perf_counter()
        assert by_name(prof.trace)
        taken = time.perf_counter() - begin
        bytes_per_op = prof.trace.nbytes / len(prof.trace.ops)
        assert not prof.trace.losses
        return taken

    def theirs() -> float:
        profiler = torch_profiler(record_shapes=True, profile_memory=True)
        with profiler:
            run()
            begin = time.perf_counter()
        assert profiler.key_averages().table(row_limit=10)
        return time.perf_counter() - begin

    peers: dict[str, Peer] = {"torchprof, everything": ours}
    if millions < 1:  # a million takes it minutes
        peers["torch.profiler, shapes + memory"] = theirs
    contest = side_by_side(f"stop and table of {ops:,} calls of the dispatcher", peers, unit="s", rounds=3)
    contest.notes["torchprof, everything"] = f"{bytes_per_op:.0f} bytes per op"
