"""Files of torch.profiler from real GPUs, if a folder of them is named: figures against those found plainly from the JSON.

TORCHPROF_TORCH_PROFILER_FILES=folder pytest tests/integration/test_real_torch_profiler_files.py
"""

from __future__ import annotations

import gzip
import json
import os
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import pytest

import torchprof
from torchprof.analysis.gpu.gaps import gaps_between

FOLDER: Final = os.environ.get("TORCHPROF_TORCH_PROFILER_FILES", "")
FILES: Final = sorted(path for path in Path(FOLDER).iterdir() if ".json" in path.name) if FOLDER else []
KINDS: Final = ("kernel", "gpu_memcpy", "gpu_memset", "memcpy", "memset")


def busy_and_idle(spans: list[tuple[Fraction, Fraction]]) -> tuple[Fraction, Fraction]:
    """Of intervals of one device, in us."""
    busy, until = Fraction(0), min(start for start, _ in spans)
    first = until
    for start, end in sorted(spans):
        busy += max(Fraction(0), end - max(start, until))
        until = max(until, end)
    return busy, until - first - busy


@pytest.mark.skipif(not FILES, reason="TORCHPROF_TORCH_PROFILER_FILES names no folder of files")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_figures_of_a_file_are_exact(path: Path) -> None:
    text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    events: list[dict[str, Any]] = json.loads(text, parse_float=Fraction)["traceEvents"]
    activities = [event for event in events if str(event.get("cat")).lower() in KINDS]
    trace = torchprof.load(path)
    kernels = trace.kernels
    assert len(kernels) == len(activities)
    by_device: dict[int, list[tuple[Fraction, Fraction]]] = {}
    for event in activities:
        start = Fraction(event["ts"])
        by_device.setdefault(int(event["args"]["device"]), []).append((start, start + Fraction(event["dur"])))
    for device, spans in by_device.items():
        rows = kernels[kernels["device_index"] == device]
        gap_starts, gap_ends, _ = gaps_between(rows["start"], rows["end"])
        idle = int((gap_ends - gap_starts).sum())
        span = int(rows["end"].max() - rows["start"].min())
        assert (Fraction(span - idle, 1000), Fraction(idle, 1000)) == busy_and_idle(spans)
    calls = [event for event in events if str(event.get("cat")) in ("cuda_runtime", "cuda_driver", "Runtime")]
    launched = {event["args"].get("correlation") for event in calls}
    without = sum(event["args"].get("correlation") not in launched for event in activities)
    assert int((kernels["runtime_call"] < 0).sum()) == without
    ops = [event for event in events if event.get("cat") in ("cpu_op", "Operator", "user_annotation") and event["ph"] == "X"]
    assert len(trace.ops) == sum(not event["name"].startswith("ProfilerStep#") for event in ops)
    for table in (torchprof.by_op, torchprof.by_module, torchprof.by_kernel, torchprof.gpu):
        assert str(table(trace))
