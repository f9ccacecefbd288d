"""The memory account of a device, against what its allocator says itself."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from adding_up import peak_adds_up
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import torchprof
from torchprof.tables.memory import Memory

FAKE = "fake:0"
"""The fake device, by the name it is registered under."""


def network(width: int = 64) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, 8)).to("fake")


def step(model: nn.Module, x: Tensor, optimizer: torch.optim.Optimizer) -> None:
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def bytes_on_fake(*tensors: Tensor | None) -> int:
    """Of the blocks that these tensors were given when they were made, not kept from others."""
    return sum(-(-tensor.untyped_storage().nbytes() // 512) * 512 for tensor in tensors if tensor is not None)


def adds_up(account: Memory) -> None:
    peak_adds_up(account)
    _, over_time = account.timeline(10**6)
    assert int(over_time.sum(axis=1).max(initial=0)) <= account.peak.bytes


def agrees(account: Memory, fake: Any, index: int = 0) -> None:
    assert account.peak.bytes == fake.max_allocated(index)
    assert account.max_reserved == fake.max_reserved(index)
    adds_up(account)


def test_the_peak_of_a_training_loop_is_the_allocators_own(fake: Any) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = torch.rand(512, 64).to("fake")
    unseen = torch.empty(10_000, device="fake")
    fake.reset_peaks()
    with torchprof.profile(model) as prof:
        for _ in range(4):
            step(model, x, optimizer)
            prof.step()
    account = torchprof.memory(prof.trace, FAKE)
    agrees(account, fake)
    assert torchprof.memory(prof.trace, "fake").peak == account.peak, "there is only one of the kind"
    assert account.by_category["parameters"] == sum(p.untyped_storage().nbytes() for p in model.parameters())
    assert account.by_category["activations"] > 0
    unknown = fake.allocated() - bytes_on_fake(*model.parameters(), x, *momenta(optimizer))
    assert unknown >= bytes_on_fake(unseen)
    rounding = bytes_on_fake(*model.parameters(), x) - sum(t.untyped_storage().nbytes() for t in (*model.parameters(), x))
    assert account.untracked == account.untracked_at_start == unknown + rounding
    assert account.leaks == []


def momenta(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]


def test_reserved_and_fragmentation_are_those_of_the_allocator_at_the_peak(fake: Any) -> None:
    kept = [torch.empty(1024, dtype=torch.uint8, device="fake") for _ in range(8)]
    del kept
    fake.reset_peaks()
    with torchprof.profile() as prof:
        large = torch.empty(10**6, device="fake")
        allocated, reserved = fake.allocated(), fake.reserved()
        del large
        fake.empty_cache()
        torch.empty(1, device="fake")
    account = torchprof.memory(prof.trace, FAKE)
    agrees(account, fake)
    assert (account.peak.bytes, account.reserved) == (allocated, reserved)
    assert account.fragmentation == reserved - allocated >= 8 * 1024
    assert account.totals["reserved"][-1] == fake.reserved()
    assert "Reserved then: " in str(account)


def test_the_peak_may_lie_before_the_first_report(fake: Any) -> None:
    old = torch.empty(5000, device="fake")
    fake.reset_peaks()
    with torchprof.profile() as prof:
        del old
        torch.empty(1, device="fake")
    account = torchprof.memory(prof.trace, FAKE)
    agrees(account, fake)
    assert account.peak.time == 0


def test_an_out_of_memory_error_changes_no_figure(fake: Any) -> None:
    model = network()
    fake.capacity(fake.reserved() + 2**20)
    fake.reset_peaks()
    with torchprof.profile(model) as prof:
        with pytest.raises(torch.OutOfMemoryError):
            model(torch.rand(2**14, 64).to("fake"))
        model(torch.rand(8, 64).to("fake")).sum().backward()
    agrees(torchprof.memory(prof.trace, FAKE), fake)


def test_what_other_threads_allocate_and_free_is_in_the_peak_and_is_said(fake: Any) -> None:
    shared = [torch.empty(3000, device="fake")]
    with torchprof.profile() as prof:
        fake.reset_peaks()
        shared.append(torch.empty(2000, device="fake"))

        def work() -> None:
            del shared[0]
            shared.append(torch.empty(50_000, device="fake"))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        torch.empty(1, device="fake")
    account = torchprof.memory(prof.trace, FAKE)
    agrees(account, fake)
    given, gone = shared[-1], torch.empty(3000, device="meta")
    change = bytes_on_fake(given) - bytes_on_fake(gone)
    assert account.untracked - account.untracked_at_start == change
    assert "of threads that do not report to it" in str(account)


def test_a_block_that_another_thread_gave_back_may_be_handed_out_again(fake: Any) -> None:
    fake.empty_cache()
    with torchprof.profile() as prof:
        fake.reset_peaks()
        blocks = [torch.empty(7000, device="fake")]
        for _ in range(3):
            thread = threading.Thread(target=blocks.pop)
            thread.start()
            thread.join()
            blocks.append(torch.empty(7000, device="fake"))
    account = torchprof.memory(prof.trace, FAKE)
    agrees(account, fake)
    assert len(account.allocations) == 4
    assert account.untracked == account.untracked_at_start


def test_each_device_has_an_account_of_its_own(fake: Any) -> None:
    fake.reset_peaks()
    with torchprof.profile() as prof:
        first = torch.empty(1000, device="fake:0")
        second = torch.empty(9000, device="fake:1")
        del first, second
        torch.empty(2000, device="fake:0")
    accounts = [torchprof.memory(prof.trace, f"fake:{index}") for index in range(2)]
    for index, account in enumerate(accounts):
        agrees(account, fake, index)
    assert torchprof.memory(prof.trace).device == "fake:1", "the one with the most"
    with pytest.raises(torchprof.ArgumentError, match="'fake:0', 'fake:1': name one"):
        torchprof.memory(prof.trace, "fake")


def test_the_memory_of_steps_is_what_they_were_handed_on_all_devices(fake: Any) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.rand(32, 64).to("fake")
    peaks = []
    held = fake.allocated()
    with torchprof.profile(model) as prof:
        for _ in range(3):
            fake.reset_peaks()
            step(model, x, optimizer)
            kept = torch.empty(2**20, device="cpu")
            peaks.append((fake.max_allocated() - held, kept.untyped_storage().nbytes()))
            del kept
            prof.step()
    for row, (on_device, on_host) in zip(prof.trace.steps, peaks, strict=True):
        assert max(on_device, on_host) <= row["peak"] < on_device + on_host
        assert row["held"] == 0
        assert row["allocated"] > on_device + on_host
    assert torchprof.memory(prof.trace, FAKE).steps.peak.tolist() == [held + on_device for on_device, _ in peaks]
    account = torchprof.memory(prof.trace)  # of the device with the most, which here is the CPU
    rows = torchprof.by_step(prof.trace).rows
    assert [row["peak"] for row in rows] == account.steps.peak.tolist()
    assert max(row["peak"] for row in rows) == account.peak.bytes


def test_a_trace_that_is_saved_has_the_same_account(fake: Any, tmp_path: Any) -> None:
    with torchprof.profile() as prof:
        torch.empty(1000, device="fake")
    prof.trace.save(tmp_path / "device.torchprof")
    assert str(torchprof.memory(torchprof.load(tmp_path / "device.torchprof"), FAKE)) == str(torchprof.memory(prof.trace, FAKE))


def test_a_training_loop_that_repeats_itself_adds_no_totals(fake: Any) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.rand(32, 64).to("fake")
    step(model, x, optimizer)
    with torchprof.profile(model) as prof:
        for _ in range(10):
            step(model, x, optimizer)
    assert len(prof.trace.allocations) > 100
    assert len(prof.trace.allocator_totals) == 1


Do = st.sampled_from(["take", "give", "take on a thread", "give on a thread", "empty the cache"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    before=st.lists(st.integers(1, 5000), max_size=4),
    actions=st.lists(st.tuples(Do, st.integers(1, 5000), st.integers(0, 100)), max_size=25),
)
def test_whatever_happens_the_account_is_the_allocators(fake: Any, before: list[int], actions: list[Any]) -> None:
    blocks = [torch.empty(size, device="fake") for size in before]
    fake.empty_cache()

    def act(what: str, size: int, which: int) -> None:
        if what.startswith("take"):
            blocks.append(torch.empty(size, device="fake"))
        elif what.startswith("give") and blocks:
            del blocks[which % len(blocks)]
        elif what == "empty the cache":
            fake.empty_cache()

    truths = []
    with torchprof.profile() as prof:
        torch.empty(1, device="fake")
        fake.reset_peaks()
        for number, (what, size, which) in enumerate(actions):
            if what.endswith("thread"):
                thread = threading.Thread(target=act, args=(what, size, which))
                thread.start()
                thread.join()
            else:
                act(what, size, which)
            torch.empty(1, device="fake")  # its report says what the thread did
            prof.mark(str(number))
            truths.append((fake.allocated(), fake.reserved()))
    account = torchprof.memory(prof.trace, FAKE)
    times, held = account.timeline(10**6)
    found = []
    for number in range(len(truths)):
        time = prof.trace.mark(str(number))
        row, total = (np.searchsorted(known, time, side="right") - 1 for known in (times, account.totals["time"]))
        found.append((int(held[row].sum()), int(account.totals["reserved"][total])))
    assert found == truths
    assert account.peak.bytes >= max((allocated for allocated, _ in truths), default=0)
    adds_up(account)
