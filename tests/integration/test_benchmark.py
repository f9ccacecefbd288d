"""`torchprof.benchmark`: what it calls, when it looks at the clock, and what it says of the calls."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from fake_gpu import FakeGpu, KernelForEveryOp
from torch import nn

import torchprof
from torchprof import ArgumentError, ModuleTypeError, RecordingError, _native
from torchprof.benchmarking import call as call_of_a_benchmark

FEW: dict[str, Any] = {"rounds": 4, "warmup": 2, "recorded": 2}
KERNEL = 5_000
"""The duration of every kernel, in nanoseconds."""


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


def training(model: nn.Module) -> Callable[[], None]:
    x = torch.ones(4, 8)

    def step() -> None:
        model(x).sum().backward()
        model.zero_grad()

    return step


def test_nothing_is_recorded_while_calls_are_timed() -> None:
    recording: list[bool] = []
    result = torchprof.benchmark(lambda: recording.append(_native.is_recording()), **FEW)
    assert recording == [False] * (2 + 4) + [True] * (1 + 2)
    assert (len(result.times), len(result.traces), result.waited_for) == (4, 2, ())


def test_the_clock_starts_when_devices_have_nothing_to_do_and_stops_when_they_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    clock = iter(range(0, 10**6, 250))

    def look() -> int:
        happened.append("clock")
        return next(clock)

    monkeypatch.setattr(call_of_a_benchmark, "synchronize", lambda devices: happened.append("wait"))
    monkeypatch.setattr("torchprof.benchmarking.call.time.perf_counter_ns", look)
    result = torchprof.benchmark(
        lambda: happened.append("call"), setup=lambda: happened.append("setup"), rounds=2, warmup=1, recorded=1
    )
    timed = ["setup", "wait", "clock", "call", "wait", "clock"]
    recorded = ["setup", "wait", "call", "wait"]
    assert happened == ["setup", "call", "wait", *timed * 2, *recorded * 2]
    assert result.times == (250, 250)


def test_without_rounds_there_are_as_many_as_fit_and_at_least_five() -> None:
    assert len(torchprof.benchmark(lambda: None, seconds=1e-9, recorded=1).times) == 5
    assert len(torchprof.benchmark(lambda: None, seconds=0.02, recorded=1).times) > 5


def test_figures_are_those_of_a_recording_of_one_call() -> None:
    model = network()
    step = training(model)
    result = torchprof.benchmark(step, model=model, **FEW)
    with torchprof.profile(model) as prof:
        step()
    account = torchprof.memory(prof.trace)
    assert result.figures.peak == account.peak.bytes
    assert result.figures.ops == len(prof.trace.ops)
    forward, inner = 2 * 4 * (8 * 16 + 16 * 2), 2 * 4 * 16 * 2
    of_biases = sum(row["flops"] for row in torchprof.by_op(prof.trace).rows if row["flops"]) - 2 * forward - inner
    assert result.figures.flops == 2 * forward + inner + of_biases
    assert {str(hot) for hot in result.figures.hottest} <= {"0 (Linear)", "1 (ReLU)", "2 (Linear)", "Sequential"}
    assert result.figures.varying == ()


def test_a_module_and_its_method_are_their_own_model() -> None:
    model = network()
    x = torch.ones(4, 8)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self) -> torch.Tensor:
            return self.inner(x)  # type: ignore[no-any-return]

    net = Net()
    assert "inner.0 (Linear)" in {str(hot) for hot in torchprof.benchmark(net, **FEW).figures.hottest}
    result = torchprof.benchmark(net.__call__, **FEW)
    assert "inner.0 (Linear)" in {str(hot) for hot in result.figures.hottest}


def test_kernels_are_counted_and_their_time_stands_beside_that_of_the_call(gpu: FakeGpu) -> None:
    model = network()
    step = training(model)

    def on_a_gpu() -> None:
        with KernelForEveryOp(gpu, KERNEL):
            step()

    ceilings = torchprof.Ceilings("made up", "float32", 0, flops=1e12, bytes=1e12)
    result = torchprof.benchmark(on_a_gpu, model=model, gpu="cupti", ceilings=ceilings, **FEW)
    figures = result.figures
    assert figures.devices == ("cuda:0",)
    assert figures.kernels == len(result.traces[0].kernels) > 10
    assert figures.device_time == pytest.approx(figures.kernels * KERNEL, rel=0.02)
    assert result.idle_share == pytest.approx(1 - figures.busy / result.time)
    assert figures.hottest[0].type == "Linear"
    # Parameters are on the CPU here, and so no op has computed anything on the device that ran the kernels.
    assert "no FLOPs were counted of ops on cuda" in result.unknown["mfu"]


def test_on_the_cpu_utilization_is_that_of_the_cpu() -> None:
    ceilings = torchprof.Ceilings("made up", "float32", 1, flops=1e9, bytes=1e9)
    result = torchprof.benchmark(training(network()), ceilings=ceilings, **FEW)
    assert result.mfu == pytest.approx(result.figures.flops / (result.time * 1e-9 * 1e9), rel=1e-3)  # a time is whole ns there
    assert result.figures.kernels is result.figures.reserved is result.idle_share is None
    assert {"kernels", "reserved_bytes", "idle_share", "device_time"} == result.unknown.keys()


def test_ops_whose_flops_nobody_knows_make_a_lower_bound() -> None:
    x = torch.ones(4, 4)
    result = torchprof.benchmark(lambda: torch.linalg.eigvals(x @ x), **FEW)
    assert result.figures.flops == 2 * 4**3
    assert result.figures.flops_unknown == ("aten::_linalg_eigvals",)
    assert ">= 128" in str(result)


def test_what_the_function_raises_comes_out_and_nothing_is_left_recording() -> None:
    calls = 0

    def fails() -> None:
        nonlocal calls
        calls += 1
        if calls == 8:  # in the second recorded call
            raise ValueError("out of data")

    with pytest.raises(ValueError, match="out of data"):
        torchprof.benchmark(fails, **FEW)
    assert not _native.is_recording()


def test_a_recording_that_runs_already_would_change_the_times() -> None:
    with torchprof.profile(), pytest.raises(RecordingError, match="would change the times: benchmark outside"):
        torchprof.benchmark(lambda: None)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"function": 3}, ModuleTypeError, "function must be a function to call, not int: 3"),
        ({"setup": 3}, ModuleTypeError, "setup must be a function or None, not int: 3"),
        ({"rounds": 0}, ArgumentError, "rounds must be an int of at least 1, not 0"),
        ({"seconds": -1}, ArgumentError, "seconds=-1 must be a number of seconds above 0"),
        ({"seconds": float("nan")}, ArgumentError, "seconds=nan must be a number of seconds above 0"),
        ({"seconds": "long"}, ArgumentError, "seconds='long' must be a number of seconds above 0"),
        ({"warmup": 0}, ArgumentError, "warmup must be an int of at least 1, not 0"),
        ({"recorded": 0}, ArgumentError, "recorded must be an int of at least 1, not 0"),
        ({"ceilings": 3}, ArgumentError, "ceilings=3 must be what torchprof.ceilings"),
        ({"gpu": "tpu"}, ArgumentError, "gpu must be one of .*, not 'tpu'"),
        ({"model": 3}, ModuleTypeError, "model must be a torch.nn.Module"),
    ],
)
def test_wrong_arguments_are_named_before_anything_runs(arguments: dict[str, Any], error: type, said: str) -> None:
    called: list[int] = []
    with pytest.raises(error, match=said):
        torchprof.benchmark(**{"function": lambda: called.append(1), **arguments})
    assert called == []


async def serve() -> None:
    """A call of it makes a coroutine, and runs nothing."""


def batches() -> Iterator[int]:
    """A call of it makes a generator, and runs nothing."""
    yield 1


class Server:
    async def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (serve, "function serve is a coroutine function, .*: give lambda: asyncio.run(serve())"),
        (functools.partial(serve), "function partial is a coroutine function"),
        (Server(), "function Server is a coroutine function"),
        (batches, "function batches is a generator function, .*: give lambda: list(batches())"),
    ],
)
def test_a_function_whose_calls_run_nothing_yet_is_not_timed(function: Callable[[], object], said: str) -> None:
    with pytest.raises(ModuleTypeError, match=said.replace("(", r"\(").replace(")", r"\)")):
        torchprof.benchmark(function)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((torch.ones(2),), "not with 1 argument: write benchmark(lambda: m(x))"),
        ((1, 2), "not with 2 arguments: write benchmark(lambda: m(x1, x2))"),
    ],
)
def test_arguments_of_the_function_are_told_where_they_go(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(said)):
        torchprof.benchmark(nn.Linear(2, 2), *arguments)
