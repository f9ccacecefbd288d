"""From the last op to the table, ending a recording of many ops and grouping them by name; and from a table to its text."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import Peer, SideBySide
from peers import observers, torch_profiler

import torchprof
from torchprof import Table
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


class Terminal(io.StringIO):
    """What is printed to a terminal."""

    def isatty(self) -> bool:
        return True


def tree(rows: int) -> Table:
    """Layers of a model, in blocks of a hundred."""
    figures = {"calls": 1, "params": 16_512, "output_bytes": 4096, "forward": 1234, "self": 1234, "share": 0.01}
    shapes = {"input_shapes": ((8, 128),), "output_shapes": ((8, 128),), "further_inputs": (), "further_outputs": ()}
    made = [
        {"name": f"layer{at}", "type": "Linear", "depth": min(at, 1) + (at % 100 > 0), "path": "", **figures, **shapes}
        for at in range(rows)
    ]
    columns = ("input", "output", "calls", "params", "output_bytes", "forward", "self", "share")
    return Table("Layer (type)", made, columns, is_tree=True)


def test_text_of_a_table(side_by_side: SideBySide, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = side_by_side.size(10_000, 100)
    table = tree(rows)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")

    def seconds(run: Callable[[], object]) -> Peer:
        def timed() -> float:
            begin = time.perf_counter()
            run()
            return time.perf_counter() - begin

        return timed

    def to_terminal() -> None:
        with monkeypatch.context() as context:
            context.setattr(sys, "stdout", Terminal())
            table.print()

    peers = {
        "text": seconds(lambda: str(table)),
        "text, 80 characters wide": seconds(lambda: table.to_text(80)),
        "printed to a terminal of 80": seconds(to_terminal),
        "HTML": seconds(table._repr_html_),
    }
    contest = side_by_side(f"a table of {rows:,} rows", peers, unit="s", rounds=5)
    contest.notes["HTML"] = f"{len(table._repr_html_().encode()) / rows:.0f} bytes per row"
