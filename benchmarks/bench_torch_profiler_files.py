"""A long file of torch.profiler, from its bytes to a trace, beside reading its JSON and nothing more."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Peer, SideBySide
from kineto_files import AUTOGRAD, kernel, launch, module, op, step

import torchprof
from torchprof.importers.kineto import event as of_event

LAYERS = 24
TIME_OF_STEP = 30 * LAYERS + 50


def training_step(number: int) -> list[dict[str, Any]]:
    """A linear layer after the other, forward and backward, with a kernel for each product."""
    begin, made = number * TIME_OF_STEP, [step(number, number * TIME_OF_STEP, TIME_OF_STEP)]
    for layer in range(LAYERS):
        at, name = begin + 10 + 15 * layer, number * LAYERS + layer
        shapes = {"dims": [[1024], [512, 1024], [1024, 1024], [], []], "types": ["c10::BFloat16"] * 3 + ["Scalar"] * 2}
        made += [module(f"Linear_{layer}", at, 14), op("aten::linear", at + 1, 12, seq=name, fwd=0, id=4 * name, **shapes)]
        made += [op("aten::addmm", at + 2, 10, seq=name, fwd=0, id=4 * name + 1, **shapes), launch(at + 4, 2, 2 * name + 1)]
        made.append(kernel("sm90_xmma_gemm_bf16bf16", at + 20, 8, 2 * name + 1, grid=[64, 8, 1], block=[384, 1, 1]))
        back = begin + TIME_OF_STEP // 2 + 15 * (LAYERS - layer - 1)
        made.append(op("AddmmBackward0", back + 1, 12, tid=AUTOGRAD, seq=name, fwd=1, id=4 * name + 2))
        made += [
            op("aten::mm", back + 2, 10, tid=AUTOGRAD, id=4 * name + 3, dims=[[512, 1024]] * 2, types=["c10::BFloat16"] * 2)
        ]
        made += [launch(back + 4, 2, 2 * name + 2, tid=AUTOGRAD), kernel("gemm", back + 20, 8, 2 * name + 2)]
    return made


def test_reading_a_file(side_by_side: SideBySide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, megabytes = tmp_path / "trace.json", side_by_side.size(200, 1)
    count = 0
    with path.open("w") as file:
        file.write('{"schemaVersion": 1, "traceEvents": [')
        while file.tell() < megabytes * 1e6:
            events = training_step(count)
            file.write(("," if count else "") + ",".join(json.dumps(event) for event in events))
            count += 1
        file.write("]}")

    def ours() -> float:
        begin = time.perf_counter()
        trace = torchprof.load(path)
        taken = time.perf_counter() - begin
        assert len(trace.steps) == count
        assert (trace.kernels["op"] >= 0).all()
        return taken

    def without_msgspec() -> float:
        with monkeypatch.context() as patch:
            patch.setattr(of_event, "_decoder", None)
            return ours()

    def json_alone() -> float:
        begin = time.perf_counter()
        assert json.loads(path.read_bytes())
        return time.perf_counter() - begin

    peers: dict[str, Peer] = {"torchprof.load": ours, "without msgspec": without_msgspec, "json.loads": json_alone}
    side_by_side(f"a file of torch.profiler, {megabytes:,} MB", peers, unit="s", rounds=3, warmup=False)
