"""Estimates where something else happens meanwhile: Ctrl-C at any moment, and other threads of the program."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import torchprof
from torchprof.estimation.fake.interrupts import INTERRUPTS, Interrupts


def layers() -> nn.Module:
    return nn.Sequential(*(nn.Linear(16, 16) for _ in range(60)))


@pytest.fixture(autouse=True)
def _ctrl_c_raises() -> Iterator[None]:
    """As in a shell, also where tests run in the background, where SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not INTERRUPTS.pending
    signal.signal(signal.SIGINT, before)


@contextmanager
def ctrl_c(after: float) -> Iterator[None]:
    """Sends the signal after so many seconds, if the block has not ended by then."""
    timer = threading.Timer(after, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


@pytest.mark.parametrize("options", [{}, {"world_size": 4, "ranks": "all"}], ids=["alone", "ranks"])
def test_ctrl_c_ends_an_estimate_at_whatever_moment_it_comes(options: dict[str, Any]) -> None:
    def estimated() -> None:
        torchprof.estimate(layers, (8, 16), optimizer=torch.optim.AdamW, **options)

    estimated()  # the first one imports
    begin = time.perf_counter()
    estimated()
    takes = time.perf_counter() - begin

    def twice() -> None:
        estimated()
        estimated()  # where the machine was faster meanwhile

    for number in range(10):
        with pytest.raises(KeyboardInterrupt), ctrl_c(takes * (number + 0.5) / 20):
            twice()


def test_ctrl_c_ends_what_runs_no_op() -> None:
    def build() -> nn.Module:
        while True:
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt), ctrl_c(0.2):
        torchprof.estimate(build, (8, 16))


def test_the_second_ctrl_c_is_raised_at_once() -> None:
    interrupts = Interrupts()

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        assert interrupts.pending
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it goes on")

    with pytest.raises(KeyboardInterrupt), interrupts.before_ops():
        twice()


def test_one_that_came_after_the_last_op_is_raised_in_the_end() -> None:
    interrupts = Interrupts()
    with pytest.raises(KeyboardInterrupt), interrupts.before_ops():
        signal.raise_signal(signal.SIGINT)
    assert not interrupts.pending


def test_a_handler_of_the_program_is_left_alone() -> None:
    came = []
    handler = signal.signal(signal.SIGINT, lambda *given: came.append(given))
    try:
        with ctrl_c(0.05):
            torchprof.estimate(layers, (8, 16), step=lambda model, optimizer, data: time.sleep(0.2))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert len(came) == 1


def test_a_handler_that_a_step_installs_stays() -> None:
    def own(*given: Any) -> None:
        """Nothing."""

    torchprof.estimate(layers, (8, 16), step=lambda model, optimizer, data: signal.signal(signal.SIGINT, own) and None)
    assert signal.signal(signal.SIGINT, signal.default_int_handler) is own


@pytest.mark.parametrize("options", [{}, {"world_size": 2}], ids=["alone", "rank"])
def test_what_other_threads_compute_is_not_counted(options: dict[str, Any]) -> None:
    alone = torchprof.estimate(layers, (8, 16), **options)
    ended, began = threading.Event(), threading.Event()

    def multiplies() -> None:
        data = torch.ones(64, 64)
        while not ended.is_set():
            data @ data
            began.set()

    worker = threading.Thread(target=multiplies)
    worker.start()
    try:
        began.wait()
        beside = torchprof.estimate(layers, (8, 16), **options)
    finally:
        ended.set()
        worker.join()
    assert beside.trace.ops["thread"].max() > 0
    assert beside.flops == alone.flops
    assert beside.bound("H100-80GB").flops == alone.bound("H100-80GB").flops


def test_estimates_of_several_threads_run_one_after_another_and_leave_nothing() -> None:
    def alone() -> float:
        return torchprof.estimate(layers, (8, 16), optimizer=torch.optim.AdamW).max_allocated

    def ranks() -> float:
        options: dict[str, Any] = {"optimizer": torch.optim.AdamW, "world_size": 4}
        return torchprof.estimate(lambda: DistributedDataParallel(layers()), (8, 16), **options).max_allocated

    places: list[tuple[Any, str]] = [
        (torch.cuda, "set_device"),
        (torch.nn.Module, "to"),
        (DistributedDataParallel, "__init__"),
        (dist, "init_process_group"),
    ]
    before = [getattr(owner, name) for owner, name in places]
    expected = [alone(), ranks()] * 2
    with ThreadPoolExecutor(4) as pool:
        found = [each.result() for each in [pool.submit(one) for one in (alone, ranks, alone, ranks)]]
    assert found == expected
    assert [getattr(owner, name) for owner, name in places] == before
    assert not dist.is_initialized()
    assert "LOCAL_WORLD_SIZE" not in os.environ


def in_a_thread(ask: Callable[[], object]) -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            ask()
        except torchprof.EstimateError as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)  # for ever, where it waits for this
    assert not thread.is_alive(), "it waits"
    for error in raised:
        raise error


def in_a_thread_of_a_thread(ask: Callable[[], object]) -> None:
    in_a_thread(lambda: in_a_thread(ask))


def in_a_pool(ask: Callable[[], object]) -> None:
    pool = ThreadPoolExecutor(1)
    try:
        pool.submit(ask).result(10)
    finally:
        pool.shutdown(wait=False)


def estimated() -> object:
    return torchprof.estimate(layers, (8, 16))


@pytest.mark.parametrize("wait", [in_a_thread, in_a_thread_of_a_thread, in_a_pool])
def test_a_thread_for_which_the_program_waits_is_told_that_it_would_wait_for_the_program(
    wait: Callable[[Callable[[], object]], None],
) -> None:
    start = threading.Thread.start

    def build() -> nn.Module:
        wait(estimated)
        return layers()

    said = r"a thread that the program has started while it is estimated asks for another estimate.* Ask before or after"
    each: list[dict[str, Any]] = [{}, {"world_size": 2}]
    for options in each:
        with pytest.raises(torchprof.EstimateError, match=said):
            torchprof.estimate(layers, (8, 16), step=lambda model, optimizer, x: wait(estimated), **options)
        with pytest.raises(torchprof.EstimateError, match=said):
            torchprof.estimate(build, (8, 16), **options)
    assert threading.Thread.start is start
    wait(estimated)


def test_a_thread_of_the_program_may_ask_when_the_program_has_ended() -> None:
    ended, found = threading.Event(), []

    def later() -> None:
        ended.wait()
        found.append(estimated())

    threads = [threading.Thread(target=later) for _ in range(2)]

    def step(model: nn.Module, optimizer: object, x: torch.Tensor) -> None:
        for thread in threads:
            thread.start()

    torchprof.estimate(layers, (8, 16), step=step, steps=1)
    ended.set()
    for thread in threads:
        thread.join()
    assert len(found) == len(threads)


def test_a_build_may_ask_itself() -> None:
    found = []

    def build() -> nn.Module:
        found.append(estimated())
        return layers()

    torchprof.estimate(build, (8, 16))
    assert len(found) == 1


def test_a_summary_waits_for_an_estimate_of_another_thread() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU())

    def summed() -> str:
        return str(torchprof.summary(model, (8, 16), device="meta"))

    with ThreadPoolExecutor(2) as pool:
        estimated = pool.submit(torchprof.estimate, layers, (8, 16))
        assert "Params: 272" in pool.submit(summed).result()
        estimated.result()
