"""Small files of each kind that torchprof reads: what `fuzz` damages."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import torch
from handwritten import gpu_trace, loop_trace, two_layer_trace
from kineto_files import AUTOGRAD, allocation, copy, document, function, kernel, launch, module, op, step, user_range
from snapshot_programs import Training
from torch import nn

import torchprof
from torchprof.trace.trace import Trace

__all__ = ["corpus_in"]


def training(*, aggregate: bool = False) -> Trace:
    """Three steps of a network with convolutions."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
    optimizer = torch.optim.Adam(model.parameters())
    with torchprof.profile(model, aggregate=aggregate) as prof:
        for _ in range(3):
            model(torch.rand(2, 3, 8, 8)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            prof.step()
    return prof.trace


def kineto() -> str:
    """A file of torch.profiler with a bit of everything."""
    events = [
        step(0, 0, 400),
        user_range("Optimizer.step#Adam.step", 300, 50),
        op("aten::linear", 20, 20, seq=1, **{"Input Dims": [[4, 8], [8, 8]], "Input type": ["float", "float"]}),
        op("aten::addmm", 22, 12, **{"Input Dims": [[8], [4, 8], [8, 8]], "Input type": ["float", "float", "float"]}),
        op("AddmmBackward0", 100, 30, tid=AUTOGRAD, fwd=1, seq=1),
        op("aten::mm", 105, 10, tid=AUTOGRAD, **{"Input Dims": [[8, 4], [4, 8]], "Input type": ["float", "float"]}),
        op("nccl:all_reduce", 200, 10),
        module("Linear_0", 15, 30),
        function("train.py(3): <module>", 0, 500),
        function("net.py(30): forward", 16, 28),
        launch(25, 3, 11),
        kernel("ampere_sgemm_32x32", 30, 40, 11),
        launch(106, 3, 12, tid=AUTOGRAD),
        kernel("sm90_gemm", 112, 50, 12, stream=20),
        launch(310, 3, 13, "cudaMemcpyAsync"),
        copy("Memcpy HtoD (Pinned -> Device)", 320, 10, 13, bytes=4096),
        launch(380, 15, 14, "cudaDeviceSynchronize"),
        allocation(23, 4096, 512, total=512, reserved=2**21),
        allocation(130, 4096, -512, total=0, reserved=2**21),
        allocation(140, 8192, 2**20, total=2**20, reserved=2**21),
    ]
    return document(events, deviceProperties=[{"id": 0, "name": "NVIDIA H100"}], distributedInfo={"rank": 0, "world_size": 2})


def snapshot() -> bytes:
    """A memory snapshot of a training loop."""
    program = Training()
    for _ in range(2):
        program.step()
    return pickle.dumps(program.snapshot())


def traces() -> dict[str, Trace]:
    """Traces of each kind, by name."""
    recorded = training()
    return {
        "two_layers": two_layer_trace(),
        "loop": loop_trace(),
        "gpu": gpu_trace(),
        "empty": Trace.empty(two_layer_trace().model),
        "training": recorded,
        "aggregated": training(aggregate=True),
        "summary": torchprof.summary(nn.Linear(3, 4), (3,), batch_size=2, backward=True, verbose=0).trace,
    }


def corpus_in(folder: Path) -> list[Path]:
    """All of these as files in a folder."""
    (folder / "kineto.json").write_text(kineto())
    (folder / "kineto.json.gz").write_bytes(gzip.compress(kineto().encode()))
    (folder / "memory.snapshot").write_bytes(snapshot())
    for name, trace in traces().items():
        trace.save(folder / f"{name}.torchprof")
    torchprof.load(folder / "kineto.json").save(folder / "of_kineto.torchprof")
    return sorted(folder.iterdir())
