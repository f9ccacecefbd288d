"""Records for minutes what comes and goes, and looks at what grows: ``python tests/soak.py [MINUTES] [SEED]``.

Half of the time goes to many recordings, one after the other, and half to a single one with ``aggregate=True``. A line is
printed every few seconds, with what the process has taken and what was recorded since the line before.

The rule: of each kind of memory, the samples after the first minute, or after the first third where that is sooner, are halved
by time. It grows where the median of the later half is more than that of the earlier one by what `TOLERATED` says. A step of a
single recording takes `BYTES_OF_STEP`, which the documentation tells, and which is not counted. In less than four minutes
caches are not full before the rule begins to count. The exit status is 1 where something grows or a row was lost.
"""

from __future__ import annotations

import ctypes
import gc
import random
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from soak_loops import ENDS, MODEL, STEPS, Recorded, rows_of

import torchprof

__all__ = ["Sample", "growth", "many_recordings", "memory", "one_recording"]

MIB: Final = 2**20
BYTES_OF_STEP: Final = 104
TOLERATED: Final = {"resident": MIB, "allocated": MIB // 2, "objects": 2000, "recording": MIB}
"""Bytes, or objects, that memory may be more by without that it grows: what happens to be alive when a sample is taken, and the
rows that a recording adds before it merges them again."""


class Sample(NamedTuple):
    """What a process has taken.

    Attributes:
        time: seconds since the loops began.
        busy: seconds that the loops ran, without those that samples took.
        resident: bytes of memory, as the system counts them.
        allocated: bytes that are in use in the allocator of C, of all threads.
        objects: blocks that are in use in the allocator of Python.
        recording: bytes that the recording says it takes.
        steps: that were run so far.
        recordings: that ended so far.
        rows, lost: of the recordings that ended since the sample before.
    """

    time: float
    busy: float
    resident: int
    allocated: int
    objects: int
    recording: int
    steps: int
    recordings: int
    rows: int
    lost: int


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def memory() -> tuple[int, int, int]:
    """Bytes that are resident, bytes that are allocated in C, and blocks that Python has allocated."""
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Mallinfo2
    libc.malloc_trim(0)  # what is free and was not given back is not counted as taken
    info = libc.mallinfo2()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize(), info.uordblks + info.hblkhd, sys.getallocatedblocks()


class _Clock:
    """Says when a sample is due, and how long the loops ran without the samples."""

    def __init__(self, seconds: float, every: float) -> None:
        self._seconds, self._every = seconds, every
        self._began, self._due, self._outside = time.monotonic(), 0.0, 0.0

    @property
    def now(self) -> float:
        return time.monotonic() - self._began

    @property
    def is_over(self) -> bool:
        return self.now >= self._seconds

    @property
    def is_due(self) -> bool:
        return self.now >= self._due

    def sample(self) -> tuple[float, float, int, int, int]:
        """Seconds since the beginning, seconds of these that the loops ran, and `memory`."""
        now = self.now
        taken = memory()
        self._due = self.now + self._every
        found = now, now - self._outside, *taken
        self._outside += self.now - now
        return found


def many_recordings(seconds: float, every: float, chance: random.Random) -> Iterator[Sample]:
    """Recordings of all kinds, one after the other."""
    ended = rows = lost = 0
    clock = _Clock(seconds, every)
    while not clock.is_over:
        if clock.is_due:
            yield Sample(*clock.sample(), 0, ended, ended, rows, lost)
            rows = lost = 0
        found: Recorded = ENDS[ended % len(ENDS)](chance, ended)
        ended, rows, lost = ended + 1, rows + found[0], lost + found[1]


def one_recording(seconds: float, every: float, chance: random.Random) -> Iterator[Sample]:
    """Steps of all kinds in a single recording, which adds them up."""
    steps = 0
    clock = _Clock(seconds, every)
    with torchprof.profile(MODEL, aggregate=True) as prof:
        while not clock.is_over:
            STEPS[steps % len(STEPS)](prof, chance, steps)
            prof.step()
            steps += 1
            if clock.is_due:
                yield Sample(*clock.sample(), prof._recorder.bytes, steps, 0, 0, 0)
    yield Sample(*clock.sample(), 0, steps, 1, *rows_of(prof.trace))


def growth(samples: list[Sample], kind: str, *, of_steps: int = 0) -> tuple[float, float]:
    """The medians of a kind of memory in the earlier and in the later half of what is after the first minute.

    Args:
        of_steps: bytes of each step that are not counted.
    """
    first = min(60.0, samples[-1].time / 3)
    after = [getattr(sample, kind) - of_steps * sample.steps for sample in samples if sample.time >= first]
    half = len(after) // 2
    return statistics.median(after[:half]), statistics.median(after[-half:])


def verdict(samples: list[Sample], kinds: tuple[str, ...], *, of_steps: int = 0) -> bool:
    """Print what grows. Whether nothing does."""
    flat = True
    steps = (samples[-1].steps - samples[0].steps) or 1
    for kind in kinds:
        before, after = growth(samples, kind, of_steps=of_steps if kind != "objects" else 0)
        grows = after - before > TOLERATED[kind]
        flat = flat and not grows
        said = f"GROWS, {(after - before) / (steps / 3):.0f} each" if grows else "flat"
        print(f"  {kind:<10}{_figure(kind, before)} -> {_figure(kind, after).strip()}  {said}")
    return flat


def _figure(kind: str, value: float) -> str:
    return f"{value:>12,.0f}" if kind == "objects" else f"{value / MIB:>8,.2f} MiB"


def show(sample: Sample, before: Sample | None) -> None:
    """Print a line, below titles if it is the first."""
    if before is None:
        titles = "s", "resident", "allocated", "objects", "recording", "ended", "rows", "lost", "ms each"
        print(f"{titles[0]:>6}", *(f"{title:>12}" for title in titles[1:5]), *(f"{title:>10}" for title in titles[5:]), sep="")
        before = sample._replace(busy=0.0, steps=0)
    taken = "".join(_figure(kind, getattr(sample, kind)) for kind in TOLERATED)
    each = 1000 * (sample.busy - before.busy) / max(1, sample.steps - before.steps)
    print(f"{sample.time:>6.0f}{taken}{sample.steps:>10,}{sample.rows:>10,}{sample.lost:>10,}{each:>10.2f}", flush=True)


def main(minutes: float, seed: int) -> int:
    for number, record in enumerate(ENDS):  # imports what it needs
        record(random.Random(seed), number)
    gc.collect()
    gc.freeze()  # modules of Python are not looked through for each sample: that would take most of the time
    flat = True
    lost = 0
    seconds = minutes * 30
    every = max(0.5, seconds / 40)
    kinds = ("resident", "allocated", "objects")
    for title, loop, shown, of_steps in (
        ("Many recordings", many_recordings, kinds, 0),
        ("One recording, aggregated", one_recording, (*kinds, "recording"), BYTES_OF_STEP),
    ):
        print(f"\n{title}: {seconds:.0f} s")
        samples: list[Sample] = []
        for sample in loop(seconds, every, random.Random(seed)):
            show(sample, samples[-1] if samples else None)
            samples.append(sample)
        lost += sum(sample.lost for sample in samples)
        while loop is one_recording and samples[-1].recordings:
            samples.pop()  # it is over there
        flat = verdict(samples, shown, of_steps=of_steps) and flat
    print(f"\n{'flat' if flat else 'GROWS'}; {lost:,} rows lost")
    return 0 if flat and not lost else 1


if __name__ == "__main__":
    sys.exit(main(*(float(argument) for argument in sys.argv[1:2] or ["4"]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
