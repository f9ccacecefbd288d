"""Stacks of Python in real files of torch.profiler: the functions around every op, found plainly from the JSON."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from kineto_files import function_name
from torch import nn
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

import torchprof
from torchprof.analysis.python_frames import python_frames
from torchprof.importers.kineto import frames

Stack = tuple[str, ...]


def program() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        with torch.profiler.record_function("loss"):
            loss = model(torch.randn(4, 8)).square().mean()
        loss.backward()
        optimizer.step()
    thread = threading.Thread(target=lambda: model(torch.randn(4, 8)))
    thread.start()
    thread.join()


def plainly(path: Path) -> Counter[tuple[str, Stack]]:
    """Every op and the ranges of functions that it lies in, outermost first."""
    spans: dict[Any, list[tuple[float, float, str]]] = {}
    ops = []
    for event in json.loads(path.read_text())["traceEvents"]:
        if event.get("ph") == "X" and event.get("cat") in ("cpu_op", "user_annotation", "python_function"):
            span = event["ts"], event["ts"] + event["dur"]
            if event["cat"] == "python_function":
                spans.setdefault(event["tid"], []).append((*span, re.sub(" at 0x[0-9a-f]+>", ">", event["name"])))
            else:
                ops.append((*span, event["name"], event["tid"]))
    found: Counter[tuple[str, Stack]] = Counter()
    for start, end, name, thread in ops:
        around = [span for span in spans.get(thread, []) if span[0] <= start and end <= span[1]]
        found[name, tuple(text for _, _, text in sorted(around, key=lambda span: (span[0], -span[1])))] += 1
    return found


@pytest.mark.parametrize("at_once", [100, 2**17])
def test_stacks_are_the_functions_around_every_op(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    path = tmp_path / "trace.json"
    with torch_profile(activities=[ProfilerActivity.CPU], with_stack=True) as prof:
        program()
    prof.export_chrome_trace(str(path))
    monkeypatch.setattr(frames, "AT_ONCE", at_once)
    trace = torchprof.load(path)
    read_frames = python_frames(trace)
    found: Counter[tuple[str, Stack]] = Counter()
    for name, row in zip(trace.op_names.tolist(), trace.op_stacks.tolist(), strict=True):
        stack = []
        while row >= 0:
            stack.append(function_name(read_frames[row]))
            row = int(trace.stacks["parent"][row])
        found[trace.strings[name], tuple(stack[::-1])] += 1
    assert found == plainly(path)
    assert any("torch/optim/adam.py" in text for _, stack in found for text in stack)
