"""Training steps on a GPU while they are recorded, each side by side with its peers; and whether the figures agree."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from conftest import Peer, SideBySide, nothing
from torch.profiler import ProfilerActivity
from transformers import GPT2Config, GPT2LMHeadModel

import torchprof
from torchprof.integrations.gpu_benchmark import GpuBenchmark

pytestmark = pytest.mark.cuda

LAUNCH_BOUND = "24 layers of width 256, batch 1 x 64"
COMPUTE_BOUND = "GPT-2 of 124 million parameters, batch 12 x 1024, bfloat16"


class Training:
    """GPT-2, AdamW, one batch on the GPU."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        small = name == LAUNCH_BOUND
        config = GPT2Config(n_layer=24, n_embd=256, n_head=4, n_positions=64) if small else GPT2Config()
        self.model = GPT2LMHeadModel(config).cuda()
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.tokens = torch.zeros((1, 64) if small else (12, 1024), dtype=torch.long, device="cuda")
        self.amp = not small

    def step(self) -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=self.amp):
            loss = self.model(input_ids=self.tokens, labels=self.tokens).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


@contextmanager
def torch_profiler() -> Iterator[Any]:
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities, record_shapes=True, profile_memory=True) as profiler:
        yield profiler


@contextmanager
def proton() -> Iterator[None]:
    """Triton's profiler, with a CUPTI of its own, which refuses where another is attached: needs a process to itself."""
    profiler = pytest.importorskip("triton.profiler")
    with tempfile.TemporaryDirectory() as folder:
        session = profiler.start(f"{folder}/steps")
        yield None
        profiler.finalize(session)


@pytest.mark.parametrize("name", [LAUNCH_BOUND, COMPUTE_BOUND])
def test_a_bare_training_step_on_a_gpu(gpu_benchmark: GpuBenchmark, name: str) -> None:
    """What a step takes that nothing records, and what it does: kernels, idle time, memory, utilization."""
    training = Training(name)
    gpu_benchmark.model = training.model
    gpu_benchmark.ceilings = torchprof.ceilings("cuda", torch.bfloat16 if training.amp else torch.float32)
    gpu_benchmark(training.step)


@pytest.mark.parametrize("name", [LAUNCH_BOUND, COMPUTE_BOUND])
def test_a_training_step_on_a_gpu(side_by_side: SideBySide, name: str) -> None:
    training = Training(name)
    steps = side_by_side.size(10, 1)

    def recorded_by(observer: Callable[[], AbstractContextManager[Any]]) -> Peer:
        """Milliseconds per step, recording alone: until the GPU is done, but not what comes after."""

        def peer() -> float:
            with observer() as running:
                training.step()
                torch.cuda.synchronize()
                begin = time.perf_counter()
                for _ in range(steps):
                    training.step()
                    if running is not None:
                        running.step()
                torch.cuda.synchronize()
                return (time.perf_counter() - begin) * 1e3 / steps

        return peer

    side_by_side(
        f"one training step on {torch.cuda.get_device_name()}: {name}",
        {
            "bare": recorded_by(nothing),
            "torchprof, everything": recorded_by(lambda: torchprof.profile(training.model, gpu="cupti")),
            "torchprof, no GPU": recorded_by(lambda: torchprof.profile(training.model, gpu="off")),
            "torch.profiler, CPU + CUDA, shapes + memory": recorded_by(torch_profiler),
        },
        unit="ms",
        rounds=11,
    )


@pytest.mark.parametrize("name", [LAUNCH_BOUND, COMPUTE_BOUND])
def test_agreement_with_torch_profiler(side_by_side: SideBySide, name: str) -> None:
    """What is printed is the sum of all kernel times. Run in a process of its own: sessions of torch.profiler lose kernels of
    later recordings, its own and ours (pytorch/pytorch#192021), so it has one, and the counts of that must be equal."""
    training = Training(name)
    training.step()
    torch.cuda.synchronize()
    counts: list[Counter[str]] = []

    def ours() -> float:
        with torchprof.profile(training.model, gpu="cupti") as prof:
            training.step()
        trace = prof.trace
        assert not trace.losses
        counts.append(Counter(trace.strings[row] for row in trace.kernels["name"]))
        return float((trace.kernels["end"] - trace.kernels["start"]).sum()) / 1e6

    def theirs() -> float:
        with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profiler:
            training.step()
            torch.cuda.synchronize()
        events = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
        counts.append(Counter(event.name for event in events if not event.is_user_annotation))
        return float(sum(event.time_range.elapsed_us() for event in events)) / 1e3

    own = [ours() for _ in range(side_by_side.size(7, 1))]
    peers: dict[str, Peer] = {"torch.profiler": theirs, "torchprof": lambda: statistics.median(own)}
    contest = side_by_side(f"sum of kernel times of a step: {name}", peers, unit="ms", rounds=1, warmup=False)
    assert all(count == counts[0] for count in counts)
    contest.notes["torchprof"] = f"{counts[0].total():,} kernels, as many as theirs"


def test_a_training_step_under_proton(side_by_side: SideBySide) -> None:
    pytest.importorskip("triton.profiler")
    training = Training(LAUNCH_BOUND)

    def step(observer: Callable[[], AbstractContextManager[Any]]) -> Peer:
        def peer() -> float:
            with observer():
                training.step()
                torch.cuda.synchronize()
                begin = time.perf_counter()
                for _ in range(side_by_side.size(10, 1)):
                    training.step()
                torch.cuda.synchronize()
                return (time.perf_counter() - begin) * 1e2

        return peer

    peers = {"bare, CUPTI never loaded": step(nothing), "Proton": step(proton)}
    side_by_side(f"one training step under Proton: {LAUNCH_BOUND}", peers, unit="ms", rounds=5)
