"""The memory account: what held every byte, when the most was held, and what never went away.

Every allocation has one category for the whole of its life, by what was seen of it (``trace.allocations["uses"]``):

    parameters, buffers   held by the model when the recording started or ended
    gradients             accumulated by autograd and held since, or in ``.grad``
    optimizer state       made inside an optimizer's step and held since; or there before, and read by an optimizer
    inputs                read by modules, by forward ops such as the loss, or by backward ones, and made by none of these:
                          batches, the gradient that a backward pass begins with
    activations           made by forward and kept for backward: read by it, given back in it, or held when forward was over
    outputs               held by the program after forward: what the model returned, the loss
    temporaries           gone when what made them was over
    other                 none of these: held by the program for reasons of its own
    never met             on a device whose allocator says what it has handed out in total: what of that the recording knows no
                          block of, from before it or handed out on threads that do not report to it. Blocks of tensors from
                          before are known by the size of the tensor; what its block has beyond is here too

Blocks are counted as PyTorch reports them, views and all: a storage that many tensors share is one block. Blocks from before
the recording are known where the recording met them, or where the model holds them; they count from its start, and to its end
unless they were seen to go. With *never met*, what is held on a device is what its allocator says, at every moment.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from torchprof.analysis.memory.devices import device_named, on_device
from torchprof.analysis.model.module_tree import paths
from torchprof.errors import ArgumentError
from torchprof.trace.schema import Phase, Rows, Use, phases
from torchprof.trace.trace import Trace

__all__ = ["CATEGORIES", "Leak", "MemoryAccount", "Peak"]

CATEGORIES: Final = (
    "parameters",
    "buffers",
    "gradients",
    "optimizer state",
    "inputs",
    "activations",
    "outputs",
    "temporaries",
    "other",
    "never met",
)
NEVER_MET: Final = CATEGORIES[-1]
NOWHERE: Final = ""
"""The module of what belongs to none."""


@dataclass(frozen=True, slots=True)
class Peak:
    """The moment when the most was held.

    Attributes:
        bytes: held then.
        time: nanoseconds since the start of the recording.
        step: number of the step, or None outside of any.
        phase: ``"forward"``, ``"backward"``, ...
        op, module: what was being run; empty where nothing was.
    """

    bytes: int
    time: int
    step: int | None
    phase: str
    op: str
    module: str


@dataclass(frozen=True, slots=True)
class Leak:
    """Allocations made at one place that were still held when the step after theirs was over.

    Attributes:
        op, module, category: where they were made, and what they are.
        count, bytes: all of them together.
        steps: in how many steps it happened.
    """

    op: str
    module: str
    category: str
    count: int
    bytes: int
    steps: int


@dataclass(frozen=True)
class MemoryAccount:
    """What held every byte of one device. Made by `MemoryAccount.of`.

    Attributes:
        trace, device: what it is an account of; ``"cpu"``, ``"cuda:0"``, ``"meta"``, ...
        allocations: the rows of ``trace.allocations`` on that device.
        category: the row of ``CATEGORIES`` of each.
        totals: the rows of ``trace.allocator_totals`` of that device; none where its allocator keeps no totals, as the CPU's.
    """

    trace: Trace
    device: str
    allocations: Rows
    category: npt.NDArray[np.int64]
    totals: Rows

    @classmethod
    def of(cls, trace: Trace, device: str | None = None) -> Self:
        """Account for the memory of a trace.

        Args:
            trace: recorded with ``memory=True`` and, for categories and modules, with ops, shapes and the model.
            device: such as ``"cpu"``, ``"cuda:1"`` or ``"meta"`` (what meta tensors stand for), or ``"cuda"`` where there is
                only one; by default the one that holds the most.

        Raises:
            ArgumentError: nothing was recorded on that device, several are of that kind, or the trace keeps sums only.
        """
        if trace.facts.get("aggregate"):
            raise ArgumentError(
                "trace was recorded with aggregate=True: single allocations were folded away; what each step held and its "
                "peak are in trace.steps, and a recording without aggregate has the account"
            )
        device = device_named(trace, device)
        rows = trace.allocations[on_device(trace.allocations, device)]
        totals = trace.allocator_totals[on_device(trace.allocator_totals, device)]
        return cls(trace, device, rows, _categories(trace, rows), totals)

    @cached_property
    def _moves(self) -> _Moves:
        return _Moves(self.allocations)

    @cached_property
    def peak(self) -> Peak:
        """When the most was held."""
        moves, at = self._moves, self._peak_at
        if at < 0:
            return Peak(moves.before + self._never_met_at(0), 0, None, "other", "", "")
        row = self.allocations[moves.rows[at]]
        time = int(moves.times[at])
        steps = self.trace.steps
        inside = np.flatnonzero((steps["start"] <= time) & (time < steps["end"]))
        op = int(row["op"])
        phase = Phase(int(phases(self.trace.ops[op : op + 1])[0])) if op >= 0 else _call_phase(int(row["module_call"]))
        return Peak(
            int(moves.held[at]) + self._never_met_at(time),
            time,
            int(steps["number"][inside[0]]) if len(inside) else None,
            phase.name.lower(),
            self.trace.strings[int(self.trace.op_names[op])] if op >= 0 else "",
            self._path(int(moves.rows[at])),
        )

    @cached_property
    def held_at_peak(self) -> npt.NDArray[np.bool_]:
        """Which of ``allocations`` were held at the peak. Their bytes, and what was never met, add up to it."""
        return self._moves.alive(self._peak_at)

    @property
    def never_met(self) -> int:
        """Bytes that the allocator had handed out at the peak and of which the recording knows no block.

        Less than nothing where blocks that it knows had been given back on threads that do not report to it.
        """
        return self._never_met_at(self.peak.time)

    @property
    def never_met_from_before(self) -> int:
        """The same when the recording began. It differs where other threads allocate, or give back, meanwhile."""
        return self._never_met_at(0)

    @property
    def reserved(self) -> int | None:
        """Bytes that the allocator had taken from the device at the peak; None where it does not say, as the CPU's."""
        return int(self.totals["reserved"][self._total_at(self.peak.time)]) if len(self.totals) else None

    @property
    def max_reserved(self) -> int | None:
        """The most that the allocator had taken from the device at any time; None where it does not say."""
        return int(self.totals["reserved"].max()) if len(self.totals) else None

    @property
    def fragmentation(self) -> int | None:
        """Bytes that were reserved at the peak and in no block that was handed out; None where the allocator does not say."""
        return self.reserved - self.peak.bytes if self.reserved is not None else None

    @cached_property
    def by_category(self) -> dict[str, int]:
        """Bytes held at the peak, by category; they add up to it."""
        sums = self._sum_by_category(self.held_at_peak)
        return {**sums, NEVER_MET: self.never_met}

    @cached_property
    def by_module(self) -> dict[str, dict[str, int]]:
        """Bytes held at the peak, by path of the module and category; under the empty path what belongs to no module.

        A path that is empty and the root of the model are told apart by nothing else: what the root itself made is there too.
        """
        sums = self._sum_by_module(self.held_at_peak)
        if self.never_met:
            sums.setdefault(NOWHERE, {})[NEVER_MET] = self.never_met
        return sums

    @cached_property
    def saved(self) -> npt.NDArray[np.bool_]:
        """Which of ``allocations`` were activations held when the most of these were held."""
        activations = self.category == CATEGORIES.index("activations")
        rows = np.flatnonzero(activations)
        moves = _Moves(self.allocations[rows])
        mask = np.zeros(len(self.allocations), dtype=np.bool_)
        if len(moves.rows):
            mask[rows[moves.alive(int(np.argmax(moves.held)))]] = True
        return mask

    @cached_property
    def saved_by_module(self) -> dict[str, int]:
        """Bytes of activations kept for backward, by path of the module that made them, when the most were kept."""
        return {path: sum(held.values()) for path, held in self._sum_by_module(self.saved).items()}

    def timeline(self, points: int = 1000) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Bytes by category over time.

        Args:
            points: at most so many moments; each stands for an equal count of changes and shows the most held meanwhile.

        Returns:
            Times in nanoseconds, ``[n]``, and bytes, ``[n, len(CATEGORIES)]``.
        """
        moves = self._moves
        count = len(moves.rows)
        if not count:
            return np.zeros(0, dtype=np.int64), np.zeros((0, len(CATEGORIES)), dtype=np.int64)
        first = np.unique(np.linspace(0, count, min(points, count), endpoint=False).astype(np.int64))
        held = np.zeros((len(first), len(CATEGORIES)), dtype=np.int64)
        category = self.category[moves.rows]
        before = self.allocations["start"] < 0
        for index in range(len(CATEGORIES)):
            start = int(self.allocations["bytes"][before & (self.category == index)].sum())
            over_time = start + np.cumsum(np.where(category == index, moves.changes, 0))
            if CATEGORIES[index] == NEVER_MET:
                over_time = self._never_met[self._total_at(moves.times)] if len(self.totals) else over_time
            held[:, index] = np.maximum.reduceat(over_time, first)
        return moves.times[first], held

    @cached_property
    def leaks(self) -> list[Leak]:
        """What was made in one step and still held at the end of the next, most bytes first.

        Parameters, buffers, gradients and the optimizer's state are meant to stay, and are not listed.
        """
        steps = self.trace.steps
        if len(steps) < 2:
            return []
        rows = self.allocations
        step = np.searchsorted(steps["start"], rows["start"], side="right") - 1
        known = (rows["start"] >= 0) & (step >= 0) & (step < len(steps) - 1)
        end_of_next = steps["end"][np.minimum(step + 1, len(steps) - 1)]
        stays = np.isin(self.category, [CATEGORIES.index(name) for name in CATEGORIES[:4]])
        leaked = np.flatnonzero(known & ~stays & ((rows["end"] < 0) | (rows["end"] > end_of_next)))
        names = self.trace.op_names
        groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        for row in leaked.tolist():
            op = int(rows["op"][row])
            name = self.trace.strings[int(names[op])] if op >= 0 else ""
            groups[name, self._path(row), CATEGORIES[self.category[row]]].append(row)
        found = [
            Leak(*where, len(group), int(rows["bytes"][group].sum()), len(set(step[group].tolist())))
            for where, group in groups.items()
        ]
        return sorted(found, key=lambda leak: -leak.bytes)

    @cached_property
    def _peak_at(self) -> int:
        """The change after which the most was held; -1: that was before the first."""
        moves = self._moves
        if not len(moves.rows):
            return -1
        if not len(self.totals):
            return int(np.argmax(moves.held))
        held = moves.held + self._never_met[self._total_at(moves.times)]
        at = int(np.argmax(held))
        return at if held[at] > moves.before + self._never_met_at(0) else -1

    @cached_property
    def _never_met(self) -> npt.NDArray[np.int64]:
        """What the recording knows no block of, at the times of ``totals``. It knows those from before all along."""
        never_met: npt.NDArray[np.int64] = self.totals["unreported"] - self._moves.before
        return never_met

    def _never_met_at(self, time: int) -> int:
        return int(self._never_met[self._total_at(time)]) if len(self.totals) else 0

    def _total_at(self, times: Any) -> Any:
        """The rows of ``totals`` that hold at these times; before the first, that one does."""
        return np.maximum(np.searchsorted(self.totals["time"], times, side="right") - 1, 0)

    @cached_property
    def _places(self) -> tuple[list[str], npt.NDArray[np.int64]]:
        """Paths, and for every allocation which of them is its: where its call was, unless another module holds it."""
        of_modules, of_calls = paths(self.trace)
        module, call = self.allocations["module"].astype(np.int64), self.allocations["module_call"].astype(np.int64)
        own = call >= 0
        own[own] = self.trace.module_calls["module"][call[own]] == module[own]
        return [NOWHERE, *of_modules, *of_calls], np.where(own, 1 + len(self.trace.modules) + call, 1 + module)

    def _path(self, row: int) -> str:
        names, place = self._places
        return names[int(place[row])]

    def _sum_by_category(self, mask: npt.NDArray[np.bool_]) -> dict[str, int]:
        sums = np.bincount(self.category[mask], weights=self.allocations["bytes"][mask], minlength=len(CATEGORIES))
        return {name: int(count) for name, count in zip(CATEGORIES, sums, strict=True)}

    def _sum_by_module(self, mask: npt.NDArray[np.bool_]) -> dict[str, dict[str, int]]:
        sums: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        names, place = self._places
        groups, inverse = np.unique(place[mask] * len(CATEGORIES) + self.category[mask], return_inverse=True)
        sizes = self.allocations["bytes"][mask]
        for group, count in zip(groups.tolist(), np.bincount(inverse, weights=sizes).tolist(), strict=False):
            where, category = divmod(group, len(CATEGORIES))
            sums[names[where]][CATEGORIES[category]] += int(count)
        return {path: dict(held) for path, held in sums.items()}


class _Moves:
    """Memory handed out and given back, in order; and what was held after each."""

    def __init__(self, allocations: Rows) -> None:
        born = np.flatnonzero(allocations["start"] >= 0)
        died = np.flatnonzero(allocations["end"] >= 0)
        times = np.concatenate([allocations["end"][died], allocations["start"][born]])
        order = np.argsort(times, kind="stable")
        rows = np.concatenate([died, born])
        changes = np.concatenate([-allocations["bytes"][died], allocations["bytes"][born]])
        self.rows, self.times, self.changes = rows[order], times[order], changes[order]
        self.before = int(allocations["bytes"][allocations["start"] < 0].sum())
        self.held = self.before + np.cumsum(self.changes)
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        self._died_at = np.full(len(allocations), len(order), dtype=np.int64)
        self._died_at[died] = place[: len(died)]
        self._born_at = np.full(len(allocations), -1, dtype=np.int64)
        self._born_at[born] = place[len(died) :]

    def alive(self, at: int) -> npt.NDArray[np.bool_]:
        """Which allocations were held after the change with this number; -1: before the first."""
        alive: npt.NDArray[np.bool_] = (self._born_at <= at) & (self._died_at > at)
        return alive


def _call_phase(module_call: int) -> Phase:
    return Phase.FORWARD if module_call >= 0 else Phase.OTHER


def _categories(trace: Trace, rows: Rows) -> npt.NDArray[np.int64]:
    uses = rows["uses"]
    made = _phase_at(trace, rows["op"], rows["module_call"])
    freed = _phase_at(trace, rows["free_op"], np.full(len(rows), -1))
    before = rows["start"] < 0
    in_backward = np.isin(freed, [Phase.BACKWARD, Phase.RECOMPUTATION])
    by_forward = ~before & ((made == Phase.FORWARD) | (made == Phase.RECOMPUTATION))
    outlived, outside = uses & Use.HELD_AFTER_CALL != 0, ~before & (made == Phase.OTHER)
    for_backward = (uses & Use.READ_BY_BACKWARD != 0) | (in_backward & (made == Phase.FORWARD))
    returned = (uses & Use.MODULE_OUTPUT != 0) | (rows["module_call"] < 0)
    rules = [
        ("parameters", uses & Use.PARAMETER != 0),
        ("buffers", uses & Use.BUFFER != 0),
        ("gradients", uses & Use.GRADIENT != 0),
        ("optimizer state", ~before & outlived & (made == Phase.OPTIMIZER)),
        ("optimizer state", before & (uses & Use.READ_BY_OPTIMIZER != 0)),
        ("inputs", (before | outside) & (uses & (Use.MODULE_INPUT | Use.READ_BY_FORWARD | Use.READ_BY_BACKWARD) != 0)),
        ("activations", by_forward & outlived & (for_backward | ~returned)),
        ("activations", by_forward & for_backward & (made == Phase.FORWARD)),
        ("outputs", by_forward & outlived),
        ("temporaries", by_forward | (~before & np.isin(made, [Phase.BACKWARD, Phase.OPTIMIZER]))),
        ("temporaries", outside & ~outlived),
    ]
    names = [CATEGORIES.index(name) for name, _ in rules]
    return np.select([rule for _, rule in rules], names, default=CATEGORIES.index("other"))


def _phase_at(trace: Trace, ops: Rows, calls: Rows) -> npt.NDArray[np.int64]:
    """The phase in which something happened: that of the op, or forward inside a module, or other."""
    found = np.where(calls >= 0, int(Phase.FORWARD), int(Phase.OTHER))
    of_op = np.concatenate([phases(trace.ops), [0]]).astype(np.int64)
    return np.where(ops >= 0, of_op[ops], found)
