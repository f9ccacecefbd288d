"""The peak of the account beside the system's: resident memory of a process whose threads allocate, hand on and free."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SideBySide
from torch import Tensor

import torchprof

MIB = 2**20
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(field: str) -> float:
    """MiB of memory that are resident (``VmRSS``), or that were at most (``VmHWM``)."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def most_resident(run: Callable[[], None]) -> float:
    """MiB that ``run`` added at most."""
    gc.collect()
    before = resident("VmRSS")
    CLEAR.write_text("5")  # resets VmHWM
    run()
    return resident("VmHWM") - before


@pytest.mark.skipif(not CLEAR.exists(), reason="needs /proc of Linux")
def test_the_peak_is_what_the_system_sees(side_by_side: SideBySide) -> None:
    elements = side_by_side.size(64, 8) * MIB // 4
    threads = 4

    def program() -> None:
        together = threading.Barrier(threads)
        box: list[Tensor] = []

        def work(number: int) -> None:
            block = torch.from_numpy(np.ones(elements, dtype=np.float32)) if number == 0 else torch.ones(elements)
            block.add_(1)
            together.wait()
            box.append(block.exp() if number == 1 else block)

        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        emptied = threading.Thread(target=box.clear)
        emptied.start()
        emptied.join()

    found: list[float] = []

    def account() -> float:
        with torchprof.profile() as prof:
            program()
        found.append(torchprof.memory(prof.trace).peak.bytes / MIB)
        return found[-1]

    contest = side_by_side(
        "peak memory of four threads",
        {"the system": lambda: most_resident(program), "the account": account},
        unit="MiB",
        rounds=5,
    )
    assert len(contest.medians) == 2
    assert found[-1] * MIB >= 4 * threads * elements
