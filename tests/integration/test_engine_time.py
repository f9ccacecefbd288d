"""All the time in which the autograd engine runs is backward, also where it runs no op: callbacks, hooks, other ranks."""

from __future__ import annotations

import copy
import pickle
import time
import types
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from test_phases import check_partition, network, phases_of, record
from torch import Tensor, nn
from torch.autograd import Variable
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import torchprof
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace

RANGE = "run_backward(autograd)"


class Waiting:
    """Waits, and says how many nanoseconds that took."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> None:
        start = time.perf_counter_ns()
        time.sleep(0.005)
        self.ns += time.perf_counter_ns() - start


def in_callback(model: nn.Module, waiting: Waiting) -> Tensor:
    """The engine calls it after its last op, as ``DistributedDataParallel`` waits for other ranks."""

    def at_end(gradient: Tensor) -> None:
        Variable._execution_engine.queue_callback(waiting)

    out = model(torch.randn(32, 8)).square().mean()
    out.register_hook(at_end)
    return out  # type: ignore[no-any-return]


def in_hook(model: nn.Module, waiting: Waiting) -> Tensor:
    out = model(torch.randn(32, 8)).square().mean()
    out.register_hook(lambda gradient: waiting())
    return out  # type: ignore[no-any-return]


@pytest.mark.parametrize("aggregate", [False, True], ids=["whole", "aggregated"])
@pytest.mark.parametrize("differentiate", [Tensor.backward, "grad"], ids=["backward", "grad"])
@pytest.mark.parametrize("made", [in_callback, in_hook], ids=lambda made: made.__name__)
def test_what_the_engine_waits_for_is_backward(made: Any, differentiate: Any, aggregate: bool) -> None:
    waiting = Waiting()

    def loop(model: nn.Module, step: Callable[[], None]) -> None:
        for _ in range(2):
            loss = made(model, waiting)
            torch.autograd.grad(loss, list(model.parameters())) if differentiate == "grad" else loss.backward()
            step()

    trace = record(loop, aggregate=aggregate)
    assert int(trace.steps["backward"].sum()) >= waiting.ns > 0
    if not aggregate:
        check_partition(trace)
        assert phases_of(trace, RANGE) == {Phase.BACKWARD: 2}


def test_what_callbacks_run_is_backward_and_an_optimizer_in_one_is_the_optimizer() -> None:
    def loop(model: nn.Module, step: Callable[[], None]) -> None:
        update = torch.optim.SGD(model.parameters(), lr=0.1)

        def at_end() -> None:
            torch.zeros(3).cos()
            update.step()
            update.zero_grad()

        for _ in range(2):
            loss = model(torch.randn(32, 8)).square().mean()
            loss.register_hook(lambda _: Variable._execution_engine.queue_callback(at_end))
            loss.backward()
            step()

    trace = record(loop)
    check_partition(trace)
    assert phases_of(trace, "aten::cos") == {Phase.BACKWARD: 2}
    assert phases_of(trace, "Optimizer.step#") == {Phase.OPTIMIZER: 2}
    assert phases_of(trace, "aten::add_") == {Phase.OPTIMIZER: 8}  # of four parameters
    assert (trace.steps["optimizer"] > 0).all()


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_checkpointing_runs_again_is_recomputation(reentrant: bool) -> None:
    def loop(model: nn.Module, step: Callable[[], None]) -> None:
        for _ in range(2):
            x = torch.randn(32, 8, requires_grad=True)
            checkpoint(model, x, use_reentrant=reentrant).square().mean().backward()  # type: ignore[union-attr]
            step()

    trace = record(loop)
    check_partition(trace)
    assert phases_of(trace, "aten::linear") == {Phase.FORWARD: 4, Phase.RECOMPUTATION: 4}
    assert set(phases_of(trace, RANGE)) == {Phase.BACKWARD}
    assert (trace.steps["recompute"] > 0).all()


def test_ranges_of_the_program_around_and_inside_are_as_they_were() -> None:
    def hook(gradient: Tensor) -> None:
        with torch.profiler.record_function("inside"):
            gradient.sinh()

    def loop(model: nn.Module, step: Callable[[], None]) -> None:
        loss = model(torch.randn(32, 8)).square().mean()
        loss.register_hook(hook)
        with torch.profiler.record_function("around"):
            loss.backward()
        step()

    trace = record(loop)
    check_partition(trace)
    assert phases_of(trace, "around") == {Phase.OTHER: 1}
    assert phases_of(trace, "inside") == {Phase.BACKWARD: 1}
    assert phases_of(trace, "aten::sinh") == {Phase.BACKWARD: 1}


def test_a_backward_pass_that_raises_has_ended() -> None:
    def raises(_: Tensor) -> None:
        raise ValueError("stop here")

    def loop(model: nn.Module, step: Callable[[], None]) -> None:
        for number in range(2):
            loss = model(torch.randn(32, 8)).square().mean()
            if number == 0:
                loss.register_hook(raises)
                with pytest.raises(ValueError, match="stop here"):
                    loss.backward()
                torch.zeros(3).cos()
            else:
                loss.backward()
            step()

    trace = record(loop)
    check_partition(trace)
    assert phases_of(trace, RANGE) == {Phase.BACKWARD: 2}
    assert phases_of(trace, "aten::cos") == {Phase.OTHER: 1}


def test_modules_that_differentiate_in_forward_have_forward_and_backward() -> None:
    class Forces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.energy = network()

        def forward(self, x: Tensor) -> Tensor:
            x = x.requires_grad_()
            (force,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
            return force

    def loop(model: nn.Module, step: Callable[[], None]) -> None:
        for _ in range(2):
            model(torch.randn(4, 8)).square().sum().backward()
            step()

    trace = record(loop, Forces())
    check_partition(trace)
    assert phases_of(trace, RANGE) == {Phase.BACKWARD: 4}
    assert phases_of(trace, "aten::linear") == {Phase.FORWARD: 4}
    assert not phases_of(trace, "")[Phase.RECOMPUTATION]


def test_the_function_that_runs_the_engine_is_as_it_was() -> None:
    function = torch.autograd.graph._engine_run_backward
    before = (type(function), function.__code__, dict(function.__dict__))
    with torchprof.profile(network()):
        assert torch.autograd.graph._engine_run_backward is vars(torch.autograd)["_engine_run_backward"] is function
        assert isinstance(function, types.FunctionType)
        assert pickle.loads(pickle.dumps(function)) is copy.copy(function) is function
    assert (type(function), function.__code__, dict(function.__dict__)) == before


# Two ranks


def run_rank(rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    torch.set_num_threads(1)
    model = DistributedDataParallel(network())
    update = torch.optim.SGD(model.parameters(), lr=0.1)
    began: list[int] = []
    dist.barrier()
    with torchprof.profile(model) as prof:
        for number in range(3):
            loss = model(torch.randn(4, 8)).square().mean()
            loss.register_hook(lambda _: began.append(time.perf_counter_ns()))
            if rank == 1 and number > 0:
                time.sleep(0.05)
            loss.backward()
            update.step()
            update.zero_grad()
            prof.step()
    Path(folder, f"began{rank}").write_text(" ".join(map(str, began)))
    if rank == 0:
        prof.trace.save(f"{folder}/trace")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="this PyTorch has no torch.distributed")
def test_a_rank_that_waits_for_another_is_in_backward(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run_rank, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    trace: Trace = torchprof.load(tmp_path / "trace")
    check_partition(trace)
    assert phases_of(trace, RANGE) == {Phase.BACKWARD: 3}
    ours, theirs = ([int(each) for each in (tmp_path / f"began{rank}").read_text().split()] for rank in range(2))
    waited = [max(their - our, 0) for our, their in zip(ours, theirs, strict=True)]  # at least: they have one clock
    assert waited[1] > 0
    assert waited[2] > 0
    assert all(backward >= least for backward, least in zip(trace.steps["backward"], waited, strict=True))
