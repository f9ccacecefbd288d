"""Kernels that were still running when a recording ended are told as that, and not as rows that found no room."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Final

import numpy as np
from fake_gpu import FakeGpu
from handwritten import gpu_trace

import torchprof
from torchprof.running.verdict import lines_of
from torchprof.trace.unfinished import LAUNCHES, unfinished_kernels

LAUNCH: Final = 211  # cudaLaunchKernel
SAYS: Final = "1 kernel was still running when the recording ended: end it when the threads that launch are done"


def recorded(gpu: FakeGpu, *, aggregate: bool = False) -> torchprof.Trace:
    """A program of which another thread launches a kernel that goes on: CUPTI reports it with end 0."""
    with torchprof.profile(gpu="cupti", aggregate=aggregate) as prof:
        gpu.launch("one")

        def launch() -> None:
            gpu.launch("other")
            gpu.call(LAUNCH)
            gpu.kernel_with_times(time.time_ns(), 0)

        thread = threading.Thread(target=launch)
        thread.start()
        thread.join()
        prof.step()
    return prof.trace


def test_a_kernel_of_another_thread_that_goes_on_is_told_as_that(gpu: FakeGpu) -> None:
    trace = recorded(gpu)
    assert (trace.losses, len(trace.kernels), unfinished_kernels(trace)) == ({"kernels": 1}, 2, 1)
    for table in (torchprof.by_op(trace), torchprof.by_kernel(trace), torchprof.gpu(trace)):
        assert f"INCOMPLETE: {SAYS}; figures above miss it" in str(table)
        assert "did not fit" not in str(table)
    assert any(line.endswith(SAYS) for line in lines_of(trace, None, "a step"))


def test_of_sums_all_that_it_may_be_is_told(gpu: FakeGpu) -> None:
    trace = recorded(gpu, aggregate=True)
    assert trace.losses == {"kernels": 1}
    said = "1 kernel did not fit the budget, or the device's own buffers, or had not ended when the recording did"
    assert said in str(torchprof.by_op(trace))


def lost(trace: torchprof.Trace, launch: int, **facts: object) -> torchprof.Trace:
    """The trace without the kernel of one of its launches, by its place in their order."""
    calls = trace.runtime_calls
    launches = np.flatnonzero(np.isin(calls["kind"], LAUNCHES))
    of = launches[np.argsort(calls["start"][launches])][launch]
    kept = trace.kernels[trace.kernels["runtime_call"] != of]
    assert len(kept) == len(trace.kernels) - 1
    return replace(trace, kernels=kept, facts={**trace.facts, "budget": 2**30, "losses": {"kernels": 1}, **facts})


def test_only_the_last_launches_are_of_kernels_that_had_not_ended() -> None:
    whole = gpu_trace()
    assert unfinished_kernels(whole) == 0
    assert unfinished_kernels(lost(whole, -1)) == 1
    assert unfinished_kernels(lost(whole, 0)) == 0, "those that were launched later have ended"
    assert unfinished_kernels(lost(whole, -1, budget=2**10)) == 0, "there was no room for it"


def test_of_ranks_it_is_told_too() -> None:
    traces = [lost(gpu_trace(), -1, rank=rank, world_size=2, run="a", host="a") for rank in range(2)]
    problems = torchprof.Ranks.of(traces).problems
    assert [each for each in problems if "INCOMPLETE" in each] == [
        "INCOMPLETE: of ranks 0-1, 2 kernels were still running when the recording ended: end it when the threads that launch "
        "are done"
    ]
