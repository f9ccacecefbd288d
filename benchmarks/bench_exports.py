"""From a trace to a timeline on disk."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from conftest import Peer, SideBySide
from peers import observers, torch_profiler

import torchprof
from torchprof.exporters.chrome import export_chrome


def test_chrome_export(side_by_side: SideBySide, tmp_path: Path) -> None:
    ours = side_by_side.size(1_000_000, 100)
    theirs = side_by_side.size(100_000, 100)  # a million takes it minutes
    a, b = torch.ones(4, 4), torch.ones(4, 4)
    add = observers().add

    with torch.no_grad(), torchprof.profile() as prof:
        add(a, b, ours)
    trace = prof.trace
    assert len(trace.ops) == ours

    def torchprof_to(name: str) -> Peer:
        def peer() -> float:
            begin = time.perf_counter()
            export_chrome(trace, tmp_path / name)
            return (time.perf_counter() - begin) * 1e6 / ours

        return peer

    def torch_profiler_to(name: str) -> Peer:
        def peer() -> float:
            profiler = torch_profiler(record_shapes=True, profile_memory=True)  # a recording can be exported once
            with torch.no_grad(), profiler:
                add(a, b, theirs)
            begin = time.perf_counter()
            profiler.export_chrome_trace(str(tmp_path / name))
            return (time.perf_counter() - begin) * 1e6 / theirs

        return peer

    contest = side_by_side(
        f"Chrome export, for each op: {ours:,} of torchprof, {theirs:,} of torch.profiler",
        {
            "torchprof": torchprof_to("ours.json"),
            "torchprof, gzip": torchprof_to("ours.json.gz"),
            "torch.profiler": torch_profiler_to("theirs.json"),
            "torch.profiler, gzip": torch_profiler_to("theirs.json.gz"),
        },
        unit="us",
        rounds=3,
    )
    files = (("ours.json", ours), ("ours.json.gz", ours), ("theirs.json", theirs), ("theirs.json.gz", theirs))
    for peer, (name, ops) in zip(contest.medians, files, strict=True):
        contest.notes[peer] = f"{(tmp_path / name).stat().st_size / ops:.0f} bytes per op"
