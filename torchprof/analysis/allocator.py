"""PyTorch's CUDA caching allocator, simulated: what a sequence of allocations reserves on a GPU, and whether it fits.

    with torchprof.profile(model.to("meta")) as prof:
        train_step(batch)
    replay(prof.trace.allocations, AllocatorSettings.parse("expandable_segments:True"), capacity=24 * 2**30).max_reserved

The rules are in ``csrc/caching_allocator.cpp``. Four things are not theirs and can make a GPU differ: memory that others take
there (the CUDA context, libraries, other processes: take it off the capacity), the addresses the driver returns (they decide
between free blocks of equal size), private pools of CUDA graphs, and the moment another stream is done with a block.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from torchprof.errors import ArgumentError
from torchprof.trace import Table

__all__ = ["AllocatorSettings", "Replay", "SnapshotReplay", "replay", "replay_snapshot"]

Ints = npt.NDArray[np.int64]
Entry = Mapping[str, Any]

MIB: Final = 2**20
MIN_BLOCK: Final = 512
MAX_SMALL: Final = MIB
SMALL_SEGMENT: Final = 2 * MIB
INTERVALS: Final = 16
NO_SPLIT_LIMIT: Final = 2**63 - 1

# AllocatorEvent in csrc/caching_allocator.h: rows that neither allocate nor free have one of these as their stream.
FREE_REQUESTED: Final = -1
EMPTY_CACHE: Final = -2
RELEASE_AT: Final = -3
NEXT_SEGMENT_AT: Final = -4
SMALL_POOL: Final = 1
EXPANDABLE: Final = 2

NO_BLOCKS: Final = np.zeros((0, 6), dtype=np.int64)

WITHOUT_EFFECT: Final = frozenset(
    "release_lock_on_cudamalloc release_lock_on_hipmalloc pinned_use_cuda_host_register pinned_use_hip_host_register "
    "pinned_num_register_threads pinned_use_background_threads pinned_reserve_segment_size_mb pinned_free_catch_all "
    "pinned_max_round_threshold_mb pinned_max_cached_size_mb graph_capture_record_stream_reuse throw_on_cudamalloc_oom".split()
)
"""Options that change neither what is allocated nor what is reserved; their values are not looked at."""


@dataclass(frozen=True, slots=True)
class AllocatorSettings:
    """The options of ``PYTORCH_ALLOC_CONF`` that change what is reserved. Sizes in bytes.

    Attributes:
        expandable_segments: grow segments page by page in place of taking new ones.
        max_split_size: blocks of this size and larger are neither split nor used for anything smaller.
        max_non_split_rounding: such a block is used for what is smaller by less than this.
        large_segment_size: the segment that blocks of more than 1 MiB and less than 10 MiB share; with expandable segments
            the page of all blocks above 1 MiB.
        roundup_power2_divisions: into how many steps the sizes from 1, 2, 4, ... MiB up to the next power of 2 are divided,
            to round up to; the first also counts for what is smaller, the last for what is larger. 0: multiples of 512 bytes.
        garbage_collection_threshold: from this share of the limit on, give back what has been cached for longest. As in
            PyTorch, this has no effect without ``per_process_memory_fraction``.
        per_process_memory_fraction: the limit, as a share of the capacity; 1: none.

    Raises:
        ArgumentError: a value is out of the range PyTorch accepts.
    """

    expandable_segments: bool = False
    max_split_size: int = NO_SPLIT_LIMIT
    max_non_split_rounding: int = 20 * MIB
    large_segment_size: int = 20 * MIB
    roundup_power2_divisions: tuple[int, ...] = (0,) * INTERVALS
    garbage_collection_threshold: float = 0.0
    per_process_memory_fraction: float = 1.0

    def __post_init__(self) -> None:
        large = f"the large segment size, {self.large_segment_size // MIB} MiB"
        divisions = self.roundup_power2_divisions
        rules = [
            ("large_segment_size", self.large_segment_size > 10 * MIB, "more than 10 MiB"),
            ("max_split_size", self.max_split_size >= self.large_segment_size, f"at least {large}"),
            ("max_non_split_rounding", self.max_non_split_rounding >= self.large_segment_size, f"at least {large}"),
            ("garbage_collection_threshold", 0 <= self.garbage_collection_threshold < 1, "between 0 and 1"),
            ("per_process_memory_fraction", 0 <= self.per_process_memory_fraction <= 1, "between 0 and 1"),
            (
                "roundup_power2_divisions",
                len(divisions) == INTERVALS and all(count >= 0 and count & (count - 1) == 0 for count in divisions),
                f"{INTERVALS} powers of 2, or 0 for no rounding",
            ),
        ]
        for name, holds, needed in rules:
            if not holds:
                raise ArgumentError(f"{name}={getattr(self, name)!r} cannot be: it must be {needed}")

    @classmethod
    def parse(cls, text: str) -> AllocatorSettings:
        """Read settings as ``PYTORCH_ALLOC_CONF`` and ``PYTORCH_CUDA_ALLOC_CONF`` have them.

        Args:
            text: ``"option:value,option:value"``; options that change nothing here are accepted and left out.

        Raises:
            ArgumentError: an option is unknown, or its value cannot be read.

        Example:
            >>> AllocatorSettings.parse("expandable_segments:True,max_split_size_mb:512").max_split_size
            536870912
        """
        found: dict[str, Any] = {}
        for option, value in _options(text):
            if option in READERS:
                name, read = READERS[option]
                found[name] = read(option, value)
            elif option == "backend":
                if value != "native":
                    raise ArgumentError(f"backend:{value} is not simulated: only the native allocator is")
            elif option not in WITHOUT_EFFECT:
                raise ArgumentError(f"option {option!r} is unknown: use {', '.join(sorted(READERS))}")
        found.setdefault("max_non_split_rounding", found.get("large_segment_size", 20 * MIB))
        return cls(**found)

    def round(self, size: int) -> int:
        """The size of the block that a request is for, in bytes."""
        if size < MIN_BLOCK:
            return MIN_BLOCK
        interval = min(max(size.bit_length() - MIB.bit_length(), 0), INTERVALS - 1)
        divisions = self.roundup_power2_divisions[interval]
        if divisions > 1 and size > MIN_BLOCK * divisions:
            step = (1 << size.bit_length() - 1) // divisions
            return -(-size // step) * step
        return -(-size // MIN_BLOCK) * MIN_BLOCK


def _options(text: str) -> Iterable[tuple[str, str]]:
    """``a:1,b:[2:3,4:5]`` as pairs; spaces mean nothing."""
    rest = "".join(text.split())
    while rest:
        option, colon, rest = rest.partition(":")
        if not colon or not option or any(mark in option for mark in ",[]"):
            raise ArgumentError(f"{option!r} in {text!r} is no option with a value: write option:value,option:value")
        opened = rest.startswith("[")
        value, closing, after = rest.partition("]" if opened else ",")
        if opened and (not closing or after[:1] not in ("", ",")):
            raise ArgumentError(f"{option}:{rest} has no closing bracket: write {option}:[...]")
        yield option, value + closing if opened else value
        rest = after[1:] if opened else after


def _read_bytes(option: str, value: str) -> int:
    if not value.isdecimal():
        raise ArgumentError(f"{option}:{value} is no number of MiB: write {option}:512")
    return min(int(value) * MIB, NO_SPLIT_LIMIT)


def _read_share(option: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ArgumentError(f"{option}:{value} is no share: write {option}:0.8") from None


def _read_switch(option: str, value: str) -> bool:
    if value not in ("True", "False"):
        raise ArgumentError(f"{option}:{value} is no switch: write {option}:True or {option}:False")
    return value == "True"


def _read_divisions(option: str, value: str) -> tuple[int, ...]:
    """``8``, or ``[256:1,512:2,>:4]``: the first also counts for smaller sizes, ``>`` for those above the one before it."""
    wrong = ArgumentError(
        f"{option}:{value} cannot be read: write {option}:8 or {option}:[256:1,512:2,1024:4,>:8], "
        "sizes in MiB and divisions, all of them powers of 2"
    )
    if not value.startswith("["):
        if not _is_power(value):
            raise wrong
        return (int(value),) * INTERVALS
    found = [0] * INTERVALS
    last: int | None = None
    for item in value[1:-1].split(","):
        boundary, _, count = item.partition(":")
        if not _is_power(count) and count != "0":
            raise wrong
        if boundary == ">":
            first = 0 if last is None else last
            found[first + 1 :] = [int(count)] * (INTERVALS - first - 1)
        elif _is_power(boundary):
            index = min(int(boundary).bit_length() - 1, INTERVALS - 1)
            if last is None:
                found[:index] = [int(count)] * index
            found[index] = int(count)
            last = index
        else:
            raise wrong
    return tuple(found)


def _is_power(text: str) -> bool:
    return text.isdecimal() and int(text).bit_count() == 1


READERS: Final[Mapping[str, tuple[str, Callable[[str, str], Any]]]] = {
    "expandable_segments": ("expandable_segments", _read_switch),
    "max_split_size_mb": ("max_split_size", _read_bytes),
    "max_non_split_rounding_mb": ("max_non_split_rounding", _read_bytes),
    "large_segment_size_mb": ("large_segment_size", _read_bytes),
    "roundup_power2_divisions": ("roundup_power2_divisions", _read_divisions),
    "garbage_collection_threshold": ("garbage_collection_threshold", _read_share),
    "per_process_memory_fraction": ("per_process_memory_fraction", _read_share),
}


@dataclass(frozen=True)
class Replay:
    """What the allocator did. Bytes; ``max_`` is the most at any time.

    Attributes:
        settings, capacity: what it was replayed with.
        allocated, max_allocated: in blocks that were handed out, as ``torch.cuda.memory_allocated`` counts.
        reserved, max_reserved: taken from the device, as ``torch.cuda.memory_reserved`` counts.
        requested: asked for in the blocks that are handed out at the end; what lacks to ``allocated`` is rounding.
        active_blocks, segments, inactive_split, inactive_split_blocks, device_allocs, device_frees, retries: at the end, as
            ``torch.cuda.memory_stats`` has them (``active``, ``segment``, ``inactive_split_bytes``, ``inactive_split``,
            ``num_device_alloc``, ``num_device_free``, ``num_alloc_retries``).
        out_of_memory: the row that did not fit, at which the replay ends; None where all did.
        rows: of each event in order, the row it comes from.
        allocated_after, reserved_after: bytes after each event.
    """

    settings: AllocatorSettings
    capacity: int | None
    allocated: int
    max_allocated: int
    reserved: int
    max_reserved: int
    requested: int
    active_blocks: int
    segments: int
    inactive_split: int
    inactive_split_blocks: int
    device_allocs: int
    device_frees: int
    retries: int
    out_of_memory: int | None
    rows: Ints
    allocated_after: Ints
    reserved_after: Ints


@dataclass(frozen=True)
class SnapshotReplay(Replay):
    """A replay of a recorded memory snapshot; rows are those of its trace.

    Attributes:
        recorded_max_reserved: the most reserved during the recorded history.
        complete: whether the history begins with nothing allocated and nothing reserved. Where it does not, what was there
            is taken from the snapshot.
        misplaced: how many allocations came to lie elsewhere than recorded; 0 means that the allocator was followed in all
            it did. None where it was replayed with other settings or a capacity.
    """

    recorded_max_reserved: int
    complete: bool
    misplaced: int | None


def replay(allocations: Table, settings: AllocatorSettings | None = None, capacity: int | None = None) -> Replay:
    """Give allocations to the simulated allocator, on one stream.

    What was there before the recording comes first. Of what ended at the time when something else began, the end comes first.

    Args:
        allocations: rows of ``trace.allocations``, all of one device. Those of meta tensors have the bytes that were asked
            for; those recorded on CUDA have the size of the block, which is never smaller.
        settings: PyTorch's defaults if None.
        capacity: bytes of the device that PyTorch can have; None: without end.

    Raises:
        ArgumentError: the rows are of several devices, or the capacity is not positive.
        ExtensionError: the compiled recorder is missing.

    Example:
        >>> replay(trace.allocations, capacity=24 * 2**30).out_of_memory is None
        True
    """
    if len(np.unique(allocations[["device_type", "device_index"]])) > 1:
        raise ArgumentError("allocations are of several devices: pass the rows of one")
    rows = np.flatnonzero(allocations["bytes"] > 0)
    start, end = allocations["start"][rows], allocations["end"][rows]
    freed = end >= 0
    times = np.concatenate([start, end[freed]])
    # At one time: frees of what is older, allocations, and frees of what began at that same time.
    order_at_once = np.concatenate([np.ones(len(rows)), np.where(end[freed] > start[freed], 0, 2)])
    order = np.lexsort((order_at_once, times))
    of_row = np.concatenate([rows, rows[freed]])[order]
    is_free = (np.arange(len(times)) >= len(rows))[order]
    events = np.zeros((len(order), 3), dtype=np.int64)
    events[:, 0] = of_row
    events[:, 1] = np.where(is_free, 0, allocations["bytes"][of_row])
    results = _simulate(events, settings or AllocatorSettings(), capacity, NO_BLOCKS)
    return Replay(**_figures(results, settings or AllocatorSettings(), capacity, of_row))


def replay_snapshot(
    snapshot: Mapping[str, Any],
    settings: AllocatorSettings | None = None,
    capacity: int | None = None,
    *,
    device: int = 0,
) -> SnapshotReplay:
    """Give what a memory snapshot recorded to the simulated allocator.

    Without settings and capacity, it follows the recording: the settings are the snapshot's, segments lie where they lay and
    go back to the device when they did. With them, it says what would have been reserved instead. Segments that the
    recording gave back then count as ``torch.cuda.empty_cache()``, except, under a capacity, those it gave back right before
    it took another one or ran out of memory.

    Args:
        snapshot: of ``torch.cuda.memory._snapshot()`` after ``torch.cuda.memory._record_memory_history()``.
        settings: None: those of the snapshot.
        capacity: bytes of the device that PyTorch can have; None: without end.
        device: which one of the snapshot.

    Raises:
        ArgumentError: the snapshot has no history of that device, or the capacity is not positive.
        ExtensionError: the compiled recorder is missing.

    Example:
        >>> replay_snapshot(torch.cuda.memory._snapshot()).max_reserved == torch.cuda.max_memory_reserved()
        True
    """
    traces: Sequence[Sequence[Entry]] = snapshot.get("device_traces", ())
    if not 0 <= device < len(traces) or not traces[device]:
        raise ArgumentError(
            f"device={device}: the snapshot has no history of it: call torch.cuda.memory._record_memory_history() before what "
            "is to be replayed"
        )
    follow = settings is None and capacity is None
    recorded = _recorded_settings(snapshot.get("allocator_settings", {}))
    used = settings or recorded
    history = _History(traces[device], [item for item in snapshot["segments"] if item.get("device", 0) == device], recorded)
    events, rows = history.events(follow, under_capacity=capacity is not None)
    # Segments that were given back are so by the recording: the settings must not do it again.
    results = _simulate(events, replace(used, per_process_memory_fraction=1.0) if follow else used, capacity, history.blocks)
    addresses = results["addresses"]
    placed = np.flatnonzero(addresses)
    elsewhere = sum(int(addresses[row]) != traces[device][rows[row]]["addr"] for row in placed)
    return SnapshotReplay(
        **_figures(results, used, capacity, rows),
        recorded_max_reserved=history.max_reserved,
        complete=not len(history.blocks),
        misplaced=elsewhere if follow else None,
    )


def _simulate(events: Ints, settings: AllocatorSettings, capacity: int | None, blocks: Ints) -> dict[str, Any]:
    if capacity is not None and capacity <= 0:
        raise ArgumentError(f"capacity={capacity!r} must be a positive number of bytes, or None for no end")
    from torchprof.recorder import require_extension

    require_extension()
    from torchprof import _C

    return _C.simulate_caching_allocator(events, asdict(settings), capacity or 0, blocks, True)


def _figures(results: dict[str, Any], settings: AllocatorSettings, capacity: int | None, rows: Ints) -> dict[str, Any]:
    index = results.pop("index")
    same = (
        "allocated reserved requested active_blocks segments inactive_split inactive_split_blocks device_allocs device_frees "
        "retries allocated_after reserved_after"
    ).split()
    return {
        "settings": settings,
        "capacity": capacity,
        **{name: results[name] for name in same},
        "max_allocated": results["allocated_peak"],
        "max_reserved": results["reserved_peak"],
        "out_of_memory": int(rows[index]) if index >= 0 else None,
        "rows": rows[: len(results["allocated_after"])],
    }


def _recorded_settings(recorded: Mapping[str, Any]) -> AllocatorSettings:
    """The settings of a snapshot. What it has as a number counts; other options are in the text they were set with."""
    text = next((str(recorded[key]) for key in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF") if recorded.get(key)), "")
    settings = AllocatorSettings.parse(text)
    found: dict[str, Any] = {}
    if "expandable_segments" in recorded:
        found["expandable_segments"] = bool(recorded["expandable_segments"])
    if recorded.get("max_split_size", -1) > 0:
        found["max_split_size"] = int(recorded["max_split_size"])
    if "garbage_collection_threshold" in recorded:
        found["garbage_collection_threshold"] = float(recorded["garbage_collection_threshold"])
    if recorded.get("roundup_power2_divisions"):
        found["roundup_power2_divisions"] = tuple(int(count) for count in recorded["roundup_power2_divisions"].values())
    return replace(settings, **found)


Place = tuple[int, bool, bool]
"""Stream, whether in the small pool, and whether expandable: what segments have in common that may be neighbours."""


class _History:
    """The history of one device: the blocks from before it, and its events. Found by undoing it from the snapshot's end."""

    def __init__(self, trace: Sequence[Entry], segments: Sequence[Entry], settings: AllocatorSettings) -> None:
        self.trace = trace
        self.settings = settings
        self._streams: dict[tuple[int, tuple[int, int]], int] = {}
        self._reserved: dict[int, tuple[int, Place]] = {}  # by address, in pieces as they were mapped: end and place
        self._held: dict[int, int] = {}  # by address: bytes of the block; negative: bytes that were asked for
        self._pending: set[int] = set()  # of these, what only another stream still uses
        self._mapped_later: dict[Place, set[int]] = {}  # where pages of expandable segments were mapped
        for segment in segments:
            self._end_with(segment)
        reserved_changes = self._undo()
        before = sum(end - address for address, (end, _) in self._reserved.items())
        self.max_reserved = before + int(np.cumsum(reserved_changes, dtype=np.int64).max(initial=0))
        self._ids: dict[int, int] = {}
        self.blocks = self._lay_out()

    def _stream(self, entry: Entry) -> int:
        """A number for each stream, and for each stream in each private pool."""
        pool = entry.get("pool_id", entry.get("segment_pool_id", (0, 0)))
        return self._streams.setdefault((int(entry.get("stream", 0)), tuple(pool)), len(self._streams))

    def _end_with(self, segment: Entry) -> None:
        place = self._stream(segment), segment["segment_type"] == "small", bool(segment.get("is_expandable", False))
        address = int(segment["address"])
        self._reserved[address] = address + int(segment["total_size"]), place
        for block in segment["blocks"]:
            if block["state"] != "inactive":
                self._held[address] = int(block["size"])
                if block["state"] != "active_allocated":
                    self._pending.add(address)
            address += int(block["size"])

    def _undo(self) -> list[int]:
        """What was reserved with each event, in order."""
        changes = []
        for entry in reversed(self.trace):
            action, address, size = entry["action"], int(entry.get("addr", 0)), int(entry["size"])
            change = 0
            if action in ("alloc", "free_requested"):
                self._pending.discard(address)
            if action == "alloc":
                self._held.pop(address, None)
            elif action == "free_completed":
                self._held[address] = -size
                self._pending.add(address)
            elif action in ("segment_alloc", "segment_map"):
                change = size
                self._cut(address, address + size)
                if action == "segment_map":
                    place = self._stream(entry), size == SMALL_SEGMENT, True
                    if any(other == place for _, other in self._reserved.values()):
                        self._mapped_later.setdefault(place, set()).add(address)
                    else:  # with this, a segment began: what came later was in it
                        self._mapped_later.pop(place, None)
            elif action in ("segment_free", "segment_unmap"):
                change = -size
                unmapped = action == "segment_unmap"  # several pages at once; their number says of which pool, nearly always
                small = size % self.settings.large_segment_size != 0 if unmapped else size == SMALL_SEGMENT
                self._reserved[address] = address + size, (self._stream(entry), small, unmapped)
            changes.append(change)
        return changes[::-1]

    def _cut(self, begin: int, end: int) -> None:
        for address, (until, place) in list(self._reserved.items()):
            if address < end and begin < until:
                del self._reserved[address]
                if address < begin:
                    self._reserved[address] = begin, place
                if end < until:
                    self._reserved[end] = until, place

    def _lay_out(self) -> Ints:
        """The blocks from before the history: rows of BlockRow in csrc/caching_allocator.h."""
        rows: list[tuple[int, int, int, int, int, int]] = []
        held = sorted(self._held)
        segment, before, last = 0, 0, None
        for address, end, place in self._pieces():
            # Pieces of one expandable segment have nothing else between them. It begins with the first, or with what is
            # mapped later of what then lies before that.
            stream, small, expandable = place
            if not expandable or place != last:
                segment = min((at for at in self._mapped_later.get(place, ()) if before <= at < address), default=address)
            before, last = end, place
            kind = SMALL_POOL * small | EXPANDABLE * expandable
            bounds = [*held[bisect_left(held, address) : bisect_left(held, end)], end]
            at = address
            for begin, limit in pairwise(bounds):
                if at < begin:
                    rows.append((segment, at, begin - at, -1, stream, kind))
                size = self._block_size(self._held[begin], limit - begin, small or expandable)
                self._ids[begin] = len(self._ids)
                rows.append((segment, begin, size, self._ids[begin], stream, kind))
                at = begin + size
            if at < end:
                rows.append((segment, at, end - at, -1, stream, kind))
        return np.array(rows, dtype=np.int64).reshape(-1, 6)

    def _pieces(self) -> list[tuple[int, int, Place]]:
        """What is reserved, in order of address: begin, end and place. Pages that touch are one piece."""
        pieces: list[tuple[int, int, Place]] = []
        held = sorted(self._held)
        for address, (end, place) in sorted(self._reserved.items()):
            at = bisect_left(held, address)
            if at < len(held) and held[at] < end:  # what is in it says so for certain
                place = place[0], abs(self._held[held[at]]) <= MAX_SMALL, place[2]
            if pieces and place[2] and pieces[-1][1:] == (address, place):
                address = pieces.pop()[0]
            pieces.append((address, end, place))
        return pieces

    def _block_size(self, known: int, room: int, splits_all: bool) -> int:
        """Of a block that was freed later only what was asked for is known. It has all that was too little to split off."""
        if known >= 0:
            return min(known, room)
        size = min(self.settings.round(-known), room)
        unsplit = not splits_all and (room - size <= MAX_SMALL or size >= self.settings.max_split_size)
        return room if unsplit else size

    def events(self, follow: bool, under_capacity: bool) -> tuple[Ints, Ints]:
        """Rows of AllocatorEvent in csrc/caching_allocator.h, and the row of the trace that each comes from."""
        events: list[tuple[int, int, int]] = []
        rows: list[int] = []
        ids, next_id = dict(self._ids), len(self._ids)
        released = located = False

        def add(row: int, *event: int) -> None:
            events.append((event[0], event[1], event[2]))
            rows.append(row)

        for address in self._pending & ids.keys():
            add(0, ids[address], 0, FREE_REQUESTED)
        for row, entry in enumerate(self.trace):
            action, address, size = entry["action"], int(entry.get("addr", 0)), int(entry["size"])
            takes = action in ("segment_alloc", "segment_map", "oom")
            if released and action not in ("segment_free", "segment_unmap", "free_completed", "snapshot"):
                released = False
                if not (takes and under_capacity):
                    add(row, 0, 0, EMPTY_CACHE)
            if action == "alloc":
                located = False
                ids[address] = next_id
                add(row, next_id, max(size, 1), self._stream(entry))
                next_id += 1
            elif action == "free_requested" and address in ids:
                add(row, ids[address], 0, FREE_REQUESTED)
            elif action == "free_completed" and address in ids:
                add(row, ids.pop(address), 0, 0)
            elif action in ("segment_free", "segment_unmap"):
                if follow:
                    add(row, address, 0, RELEASE_AT)
                else:
                    released = True
            elif action in ("segment_alloc", "segment_map") and follow and not located:
                located = True  # an allocation may map several times: the first says where the segment begins
                add(row, address, 0, NEXT_SEGMENT_AT)
        if released:
            add(len(self.trace) - 1, 0, 0, EMPTY_CACHE)
        return np.array(events, dtype=np.int64).reshape(-1, 3), np.array(rows, dtype=np.int64)
