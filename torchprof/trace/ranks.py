"""The traces of the ranks of a distributed program, and what is wrong with them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, overload

from torchprof.errors import ArgumentError, ModuleTypeError
from torchprof.terminal import printable
from torchprof.trace.rank import Rank, rank_of
from torchprof.trace.trace import Trace
from torchprof.wording import counted

__all__ = ["Ranks", "check_is_one", "listed"]

MOST_NAMED: Final = 12
"""Ranks, or ranges of ranks, in one sentence."""


@dataclass(frozen=True, eq=False)
class Ranks(Sequence[Trace]):
    """The traces of the ranks of one run, in the order of their numbers: what `torchprof.load` makes of a folder.

    Those that are there are analyzed; what is missing, or is left out, is in ``problems``.

    Attributes:
        traces: of the ranks that are there. ``ranks[0]`` is the first of them, ``ranks.of_rank(3)`` that of rank 3.
        numbers: the rank of each of them.
        files: where each of them comes from; empty for a trace that was not read from a file.
        world_size: how many ranks the run had.
        problems: sentences that say which ranks are missing, which files were left out and why, and which ranks recorded
            otherwise than the others. What is not printable in the name of a file is escaped.

    Example:
        >>> ranks = torchprof.Ranks.of([prof.trace])
        >>> ranks.world_size, ranks.numbers, ranks.problems
        (1, (0,), ())
    """

    traces: tuple[Trace, ...]
    numbers: tuple[int, ...]
    files: tuple[str, ...]
    world_size: int
    problems: tuple[str, ...]

    @classmethod
    def of(cls, traces: Iterable[Trace], files: Iterable[str] = (), problems: Iterable[str] = ()) -> Ranks:
        """The ranks of these traces.

        Traces of another run, of another number of ranks, or of a rank that is there already, are left out: the run is the
        one that most of them are of. A single trace of no rank is the only rank of its run.

        Args:
            files: where each comes from, for ``problems``.
            problems: what is known to be wrong already.

        Raises:
            ArgumentError: there is no trace, or several and none is of a rank.
            ModuleTypeError: one is no trace.
        """
        given = list(traces)
        names = list(files) or [""] * len(given)
        for each in given:
            if not isinstance(each, Trace):
                raise ModuleTypeError(f"traces must be torchprof.Traces, not {type(each).__name__}")
        if not given:
            raise ArgumentError("traces is empty: give the trace of at least one rank")
        if len(given) > 1 and all(rank_of(trace.facts) is None for trace in given):
            raise ArgumentError(f"traces are {len(given)} of programs of one process each, and not of the ranks of one program")
        if len(names) != len(given):
            raise ArgumentError(f"files={names!r} names {len(names)} files of {len(given)} traces: name one for each")
        found = _Found(given, _short(names))
        found.leave_out_foreign()
        found.leave_out_duplicates()
        kept = sorted(found.kept, key=lambda row: found.ranks[row].number)
        numbers = tuple(found.ranks[row].number for row in kept)
        size = found.size if found.size is not None else numbers[-1] + 1
        missing = sorted(set(range(size)) - set(numbers))
        said = [f"{_are(len(missing), size)} missing: {listed(missing)}"] if missing else []
        ranks = cls(tuple(given[row] for row in kept), numbers, tuple(names[row] for row in kept), size, ())
        said += [*problems, *found.problems, *_differences(ranks)]
        return cls(ranks.traces, numbers, ranks.files, size, tuple(map(printable, said)))

    def of_rank(self, number: int) -> Trace:
        """The trace of the rank with this number.

        Raises:
            ArgumentError: there is none.
        """
        if number not in self.numbers:
            raise ArgumentError(f"number={number!r} is not among the ranks that are there: {listed(self.numbers)}")
        return self.traces[self.numbers.index(number)]

    def __len__(self) -> int:
        return len(self.traces)

    @overload
    def __getitem__(self, index: int) -> Trace: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Trace, ...]: ...

    def __getitem__(self, index: int | slice) -> Trace | tuple[Trace, ...]:
        return self.traces[index]

    def __iter__(self) -> Iterator[Trace]:
        return iter(self.traces)

    def __repr__(self) -> str:
        size = sum(trace.nbytes for trace in self.traces) / 2**20
        problems = f", {counted(len(self.problems), 'problem')}" if self.problems else ""
        return f"<Ranks: {len(self):,} of {counted(self.world_size, 'rank')}, {size:,.1f} MiB{problems}>"


def check_is_one(trace: Any) -> None:
    """Raise ArgumentError of `Ranks`, where the trace of one is needed."""
    if isinstance(trace, Ranks):
        raise ArgumentError(
            f"trace={trace!r} is of several ranks: give the trace of one, such as ranks[0]; across ranks there are by_rank, "
            "by_module, by_collective, stragglers, overlap, imbalance, bubbles, clocks, findings, report and export_chrome"
        )


class _Found:
    """Traces among which those of one run are looked for.

    Attributes:
        ranks: of every trace; for one that says none, the only rank of a run.
        kept: rows of those that were not left out.
        size: how many ranks the run has; None where that is not known.
        problems: what was left out, and why.
    """

    def __init__(self, traces: list[Trace], files: list[str]) -> None:
        self._traces = traces
        said = [rank_of(trace.facts) for trace in traces]
        self.ranks = [rank or Rank(0, 1) for rank in said]
        self._names = [_named(rank, file) for rank, file in zip(said, files, strict=True)]
        self._says_none = [rank is None for rank in said]
        self.kept = list(range(len(traces)))
        self.size: int | None = None
        self.problems: list[str] = []

    def leave_out_foreign(self) -> None:
        """Leave out what is of another run than most: of another size, or called otherwise by its launcher."""
        if len(self.kept) > 1:
            self._leave_out(lambda row: "it is of no rank" if self._says_none[row] else "")
        self.size = _most([self.ranks[row].size for row in self.kept])
        self._leave_out(lambda row: self._foreign_size(self.ranks[row]))
        run = _most([self._traces[row].facts.get("run") for row in self.kept])
        self._leave_out(lambda row: "it is of another run" if self._run(row) not in (None, run) else "")

    def leave_out_duplicates(self) -> None:
        """Of several traces of one rank, keep the one that began nearest to the other ranks, or the last."""
        by_number: dict[int, list[int]] = {}
        for row in self.kept:
            by_number.setdefault(self.ranks[row].number, []).append(row)
        began = {row: int(self._traces[row].facts.get("origin_unix_ns", 0)) for row in self.kept}
        single = sorted(began[rows[0]] for rows in by_number.values() if len(rows) == 1)
        near = single[len(single) // 2] if single else max(began.values())
        first = {
            number: min(rows, key=lambda row: (abs(began[row] - near), -began[row], row)) for number, rows in by_number.items()
        }

        def why(row: int) -> str:
            other = first[self.ranks[row].number]
            nearer = ", and began nearer to the others" if began[other] != began[row] else ""
            return f"{self._names[other]} is of the same rank{nearer}" if other != row else ""

        self._leave_out(why)

    def _run(self, row: int) -> str | None:
        return self._traces[row].facts.get("run")

    def _foreign_size(self, rank: Rank) -> str:
        if rank.size is not None and rank.size != self.size:
            return f"it is of a run of {counted(rank.size, 'rank')}, and not of {self.size:,}"
        if self.size is not None and rank.number >= self.size:
            return f"there is no rank {rank.number} of {self.size:,}"
        return ""

    def _leave_out(self, why: Any) -> None:
        reasons = {row: why(row) for row in self.kept}
        self.problems += [f"{self._names[row]} is left out: {reason}" for row, reason in reasons.items() if reason]
        self.kept = [row for row in self.kept if not reasons[row]]


def _short(files: Sequence[str]) -> list[str]:
    """The names of files: without the folder where they are all in one."""
    folders = {os.path.dirname(file) for file in files}
    return [os.path.basename(file) for file in files] if len(folders) == 1 else list(files)


def _named(rank: Rank | None, file: str) -> str:
    return file or (f"a trace of rank {rank.number}" if rank is not None else "a trace")


def _most(values: list[Any]) -> Any:
    """The one of most of them, and of several of these the first; None where none is known."""
    counts = Counter(value for value in values if value is not None)
    return counts.most_common(1)[0][0] if counts else None


def _are(count: int, size: int) -> str:
    return f"{count:,} of {counted(size, 'rank')} {'is' if count == 1 else 'are'}"


def _differences(ranks: Ranks) -> Iterator[str]:
    """Which ranks recorded otherwise than most."""
    steps = [int((trace.steps["warmup"] == 0).sum()) for trace in ranks]
    of_counts: dict[int, list[int]] = {}
    for number, count in zip(ranks.numbers, steps, strict=True):
        of_counts.setdefault(count, []).append(number)
    most = max(of_counts, key=lambda count: len(of_counts[count]))
    if 2 * len(of_counts[most]) > len(ranks):
        for count in sorted(set(steps) - {most}):
            said = f"{_ranks(of_counts[count])} recorded {counted(count, 'step')}"
            yield f"{said}, and most ranks {most:,}: figures are means of these"
    elif len(of_counts) <= MOST_NAMED:
        each = " and ".join(f"{_ranks(of_counts[count])} recorded {counted(count, 'step')}" for count in sorted(of_counts))
        yield f"{each}: figures are means of these"
    else:
        yield f"ranks recorded {min(steps):,} to {counted(max(steps), 'step')}: figures are means of these"
    ended: dict[str, list[int]] = {}
    for number, trace in zip(ranks.numbers, ranks, strict=True):
        if by := trace.facts.get("ended_by"):
            ended.setdefault(str(by), []).append(number)
    yield from (f"{by} ended the recording of {_ranks(which)}" for by, which in ended.items())
    lost = [number for number, trace in zip(ranks.numbers, ranks, strict=True) if trace.losses]
    if lost:
        yield f"INCOMPLETE: rows of {_ranks(lost)} did not fit the budget"


def _ranks(numbers: Sequence[int]) -> str:
    return f"rank {numbers[0]}" if len(numbers) == 1 else f"ranks {listed(numbers)}"


def listed(numbers: Sequence[int]) -> str:
    """Numbers in order for a sentence: ``"0-3, 5, 7"``.

    Example:
        >>> listed([0, 1, 2, 3, 5, 7])
        '0-3, 5, 7'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in runs]
    more = len(texts) - MOST_NAMED
    return ", ".join(texts[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
