"""Programs that write a file of torch.profiler and a memory snapshot, and know what each block is."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import kineto_files
from snapshot_programs import Frames, Training

import torchprof

BASE = 1_699_999_000_000_000
"""Microseconds since 1970 that the trace counts from."""


OPS = {
    "parameters": "aten::copy_",
    "gradients": "aten::mm",
    "optimizer state": "aten::zeros_like",
    "inputs": "aten::to",
    "activations": "aten::linear",
    "outputs": "aten::mse_loss",
    "workspaces": "aten::addmm",
    "temporaries": "aten::empty_like",
    "kept": "aten::clone",
}
"""By which op each category is allocated."""


class Profiled(Training):
    """It writes a ``[memory]`` event, in an op of its own, for each block that it allocates or frees while it is profiled."""

    def __init__(self, skew: float = 0.0, jitter: float = 0.0) -> None:
        self.events: list[dict[str, Any]] = []
        self.profiles = False
        self.skew, self.jitter, self._noise = skew, jitter, random.Random(2)
        self.profiled: list[int] = []
        super().__init__()

    def allocate(self, what: str, size: int, frames: Frames | None, metadata: str = "") -> int:
        number = super().allocate(what, size, frames, metadata)
        if self.profiles:
            self.profiled.append(number)
            block = self.oracle.held[number]
            self.event(OPS[what], block.begin, block.end - block.begin)
        return number

    def free(self, *numbers: int, frames: Frames | None = None) -> None:
        for number in numbers:
            block = self.oracle.held[number]
            super().free(number, frames=frames)
            if self.profiles:
                self.event("aten::free", block.begin, block.begin - block.end)

    def event(self, op: str, address: int, size: int) -> None:
        at = self.now - BASE + 0.25 + self.skew + self._noise.uniform(0, self.jitter)
        total, reserved = self.oracle.allocated, self.oracle.reserved
        self.events += [
            kineto_files.op(op, at - 1, 2, id=len(self.events) + 1),
            kineto_files.allocation(at, address, size, total=total, reserved=reserved),
        ]

    def trace(self, folder: Path) -> torchprof.Trace:
        return kineto_files.read(folder, *self.events, baseTimeNanoseconds=BASE * 1000)


def run(program: Profiled, before: int = 2, during: int = 5, after: int = 1) -> Profiled:
    """Steps before, while and after it is profiled."""
    for count, program.profiles in ((before, False), (during, True), (after, False)):
        for _ in range(count):
            program.step()
    return program
