"""Estimates against what real GPUs allocated, if folders of such files are named. The programs are written after the files.

TORCHPROF_CUDA_SNAPSHOTS=folder TORCHPROF_TORCH_PROFILER_FILES=folder pytest tests/integration/test_estimate_real_histories.py
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from language_model import AdamW, LanguageModel, cross_entropy
from torch import Tensor, nn

import torchprof

SNAPSHOTS: Final = os.environ.get("TORCHPROF_CUDA_SNAPSHOTS", "")
TRACES: Final = os.environ.get("TORCHPROF_TORCH_PROFILER_FILES", "")
ROUNDED_TO: Final = 512
XL: Final = {"layers": 32, "width": 2560, "heads": 32, "hidden": 10_240, "length": 128, "weight_first": True}
MEDIUM: Final = {"layers": 24, "width": 1024, "heads": 16, "hidden": 4096}


class Program(NamedTuple):
    """A training of a language model, as a file shows it.

    Attributes:
        sizes: of the model.
        gpu: where it ran.
        steps: how many are in the file, or were before.
        amp: whether under autocast in bfloat16.
    """

    sizes: dict[str, int]
    gpu: str | None
    steps: int
    amp: bool = False

    @property
    def in_place(self) -> bool:
        return "weight_first" in self.sizes


PROGRAMS: Final = {
    "full_step_ctx128": Program(XL, "H100-80GB", 1),
    "transformer_train_128": Program({**MEDIUM, "length": 128}, None, 2),
    "transformer_train_512": Program({**MEDIUM, "length": 512}, None, 2, amp=True),
}


class Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}")


class Truth(NamedTuple):
    """The most that was allocated, and what was reserved."""

    allocated: int
    reserved: int


def snapshot(name: str) -> dict[str, Any]:
    with gzip.open(Path(SNAPSHOTS, f"{name}.pickle.gz")) as file:
        found: dict[str, Any] = Unpickler(file).load()
        return found


def truth(found: dict[str, Any]) -> Truth:
    """What is allocated in the end, and from there back to when it was the most."""
    blocks = [block for segment in found["segments"] for block in segment["blocks"]]
    at_the_end = sum(block["size"] for block in blocks if block["state"].startswith("active"))
    signs = {"alloc": 1, "free_completed": -1}
    (history,) = (events for events in found["device_traces"] if events)
    changes = [signs.get(event["action"], 0) * rounded(event["size"]) for event in history]
    start = at_the_end - sum(changes)
    return Truth(start + max(accumulate(changes)), sum(segment["total_size"] for segment in found["segments"]))


def rounded(size: int) -> int:
    return max(1, -(-size // ROUNDED_TO)) * ROUNDED_TO


def estimated(program: Program) -> torchprof.Estimate:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, ids: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=program.amp):
            scores = model(ids)
            loss = cross_entropy(scores, targets)
        loss.backward()
        optimizer.step()

    ids = torch.empty(4, program.sizes["length"], dtype=torch.int64, device="meta")
    return torchprof.estimate(
        lambda: LanguageModel(**program.sizes),  # type: ignore[arg-type]
        (ids, ids),
        optimizer=lambda parameters: AdamW(parameters, in_place=program.in_place),
        step=step,
        steps=program.steps,
        capacity=program.gpu,
    )


@pytest.mark.skipif(not SNAPSHOTS, reason="TORCHPROF_CUDA_SNAPSHOTS names no folder of files")
@pytest.mark.parametrize("name", PROGRAMS)
def test_an_estimate_is_what_a_real_gpu_allocated_and_reserved(name: str) -> None:
    expected, found = truth(snapshot(name)), estimated(PROGRAMS[name])
    assert found.max_allocated == pytest.approx(expected.allocated, rel=0.001)
    assert found.max_reserved == pytest.approx(expected.reserved, rel=0.003)


@pytest.mark.skipif(not SNAPSHOTS, reason="TORCHPROF_CUDA_SNAPSHOTS names no folder of files")
def test_buffers_of_reductions_are_as_large_as_those_of_a_real_step() -> None:
    histories = snapshot("full_step_ctx128")["device_traces"]
    real = [event["size"] for events in histories for event in events if event["action"] == "alloc"]
    counters = 4 * 512 // 128
    sizes = estimated(PROGRAMS["full_step_ctx128"]).memory.allocations["bytes"].tolist()
    for buffer in (10_485_760, 164_626_432, 41_156_608):
        assert sizes.count(buffer + counters) == real.count(buffer) > 0


@pytest.mark.skipif(not TRACES, reason="TORCHPROF_TORCH_PROFILER_FILES names no folder of files")
def test_a_step_of_a_resnet_in_float32_rises_as_on_a_real_v100() -> None:
    with gzip.open(Path(TRACES, "kineto_resnet50_nw0.json.gz")) as file:
        events = json.load(file)["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]" and event["args"]["Device Type"] == 1]
    changes.sort(key=lambda event: event["ts"])
    expected = max(accumulate(event["args"]["Bytes"] for event in changes))

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, classes: Tensor) -> None:
        loss = F.cross_entropy(model(images).logits, classes)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()

    model = hf.ResNetForImageClassification(hf.ResNetConfig(num_labels=1000))
    images = torch.empty(32, 3, 224, 224, device="meta")
    found = torchprof.estimate(
        model,
        (images, torch.empty(32, dtype=torch.int64, device="meta")),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        step=step,
        capacity="V100-32GB",
    )
    # Beside what is there before the step: parameters, gradients and momenta, and the images of the step before.
    kept = 3 * sum(rounded(parameter.nbytes) for parameter in model.parameters()) + images.nbytes
    workspaces = sum(overhead.bytes for overhead in found.overheads if overhead.reserved)
    assert found.max_allocated - kept - workspaces == pytest.approx(expected, rel=0.005)
