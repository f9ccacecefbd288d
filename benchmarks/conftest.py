"""Peers side by side: every round runs each of them once, in turn, so that a noisy machine is noisy for all.

What is printed is the median over rounds, and its ratio to one of the peers. pytest-benchmark drives the rounds and keeps the
figures with its own (``--benchmark-json``, under ``extra_info``). Disabled, as in the test suite, all runs once and small.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import pytest
import torch
from needs_cuda import pytest_runtest_setup
from pytest_benchmark.fixture import BenchmarkFixture

__all__ = ["Contest", "Peer", "SideBySide", "nothing", "pytest_runtest_setup"]

Peer = Callable[[], float]
"""Runs once and returns what it took, in the table's unit."""


@dataclass
class Contest:
    """One table: the medians of several peers and their ratios to the first or to ``against``."""

    title: str
    unit: str
    against: str
    medians: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        width = max(map(len, self.medians), default=0)
        yield self.title
        for name, median in self.medians.items():
            ratio = median / self.medians[self.against] if self.medians[self.against] else float("nan")
            yield f"  {name.ljust(width)}  {median:12,.2f} {self.unit}  {ratio:8.2f}x  {self.notes.get(name, '')}".rstrip()


FINISHED: list[Contest] = []


class SideBySide:
    """What a benchmark asks for: ``side_by_side(title, peers, unit=..., rounds=...)``."""

    def __init__(self, benchmark: BenchmarkFixture) -> None:
        self.benchmark = benchmark
        self.full = not benchmark.disabled

    def size(self, full: int, small: int) -> int:
        return full if self.full else small

    def __call__(
        self,
        title: str,
        peers: Mapping[str, Peer],
        *,
        unit: str,
        rounds: int,
        against: str | None = None,
        minus: str | None = None,
        warmup: bool = True,
        notes: Mapping[str, str] | None = None,
    ) -> Contest:
        """Run the peers; with ``minus``, show what each takes more than that one."""
        taken: dict[str, list[float]] = {name: [] for name in peers}

        def one_round() -> None:
            for name, peer in peers.items():
                gc.collect()  # what one peer leaves behind is not for the next to clean up
                taken[name].append(peer())

        self.benchmark.pedantic(one_round, rounds=rounds if self.full else 1, warmup_rounds=1 if self.full and warmup else 0)
        medians = {name: statistics.median(times) for name, times in taken.items()}
        if minus is not None:
            floor = medians.pop(minus)
            medians = {name: median - floor for name, median in medians.items()}
        contest = Contest(title, unit, against or next(iter(medians)), medians, dict(notes or {}))
        self.benchmark.extra_info.update(medians)
        FINISHED.append(contest)
        return contest


@pytest.fixture
def side_by_side(benchmark: BenchmarkFixture) -> Iterator[SideBySide]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield SideBySide(benchmark)
    torch.set_num_threads(threads)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("torchprof.integrations.gpu_benchmark")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if FINISHED and config.getoption("benchmark_enable"):
        terminalreporter.section(f"side by side, torch {torch.__version__}, medians")
        for contest in FINISHED:
            for line in contest.lines():
                terminalreporter.write_line(line)


def nothing() -> AbstractContextManager[None]:
    """The peer that does not watch at all."""
    return nullcontext()
