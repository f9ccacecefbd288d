"""The rules of the caching allocator, slowly and plainly: what is held are intervals, what is free is what lies between them.

Nothing is split or merged here, as free space is found anew each time. It keeps a history as torch.cuda.memory._snapshot does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torchprof.allocator.settings import NO_SPLIT_LIMIT, AllocatorSettings

MIB = 2**20


@dataclass
class Segment:
    begin: int
    end: int
    stream: int
    small: bool
    mapped: set[int] | None = None  # pages, of an expandable one
    page: int = 0

    def pieces(self) -> Iterator[tuple[int, int]]:
        """What of it is there: intervals."""
        if self.mapped is None:
            yield self.begin, self.end
            return
        pages = sorted(self.mapped)
        for first in [page for page in pages if page - 1 not in self.mapped]:
            last = first
            while last + 1 in self.mapped:
                last += 1
            yield self.begin + first * self.page, self.begin + (last + 1) * self.page


@dataclass
class Held:
    begin: int
    end: int
    stream: int
    requested: int
    pending: bool = False


@dataclass
class Oracle:
    settings: AllocatorSettings
    capacity: int | None
    slots: Iterator[int]  # where segments begin
    segments: list[Segment] = field(default_factory=list)
    held: dict[int, Held] = field(default_factory=dict)
    completed: set[int] = field(default_factory=set)
    max_allocated: int = 0
    max_reserved: int = 0
    retries: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def allocated(self) -> int:
        return sum(block.end - block.begin for block in self.held.values() if not block.pending)

    @property
    def reserved(self) -> int:
        return sum(end - begin for segment in self.segments for begin, end in segment.pieces())

    @property
    def inactive_split(self) -> int:
        plain = [segment for segment in self.segments if segment.mapped is None]
        gaps = [(gap, segment) for segment in plain for gap in self.gaps(segment)]
        return sum(gap[1] - gap[0] for gap, segment in gaps if gap != (segment.begin, segment.end))

    def note(self, action: str, address: int, size: int, stream: int) -> None:
        self.history.append({"action": action, "addr": address, "size": size, "stream": stream, "frames": []})
        self.max_reserved = max(self.max_reserved, self.reserved)
        self.max_allocated = max(self.max_allocated, self.allocated)

    def without_held(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        for block in sorted(self.held.values(), key=lambda block: block.begin):
            if block.end > begin and block.begin < end:
                if begin < block.begin:
                    yield begin, block.begin
                begin = block.end
        if begin < end:
            yield begin, end

    def gaps(self, segment: Segment) -> list[tuple[int, int]]:
        return [gap for piece in segment.pieces() for gap in self.without_held(*piece)]

    def allocate(self, number: int, size: int, stream: int) -> bool:
        need = self.settings.round(size)
        gap = (
            self.cached(need, stream)
            or self.fresh(need, stream)
            or (self.release_oversize(need, stream) and self.fresh(need, stream))
        )
        if not gap:
            self.release_all()
            self.retries += 1
            gap = self.fresh(need, stream)
        if not gap:
            return False
        begin, end = gap
        small = need <= MIB
        spare = end - begin - need
        if small or self.settings.expandable_segments:
            cut = spare >= 512
        else:
            cut = need < self.settings.max_split_size and spare > MIB
        self.held[number] = Held(begin, begin + need if cut else end, stream, size)
        self.note("alloc", begin, size, stream)
        return True

    def cached(self, need: int, stream: int) -> tuple[int, int] | None:
        mine = [item for item in self.segments if item.stream == stream and item.small == (need <= MIB)]
        found = sorted((end - begin, begin, segment.end) for segment in mine for begin, end in self.gaps(segment))
        found = [gap for gap in found if gap[0] >= need]
        if not found:
            return None

        def room(gap: tuple[int, int, int]) -> int:
            """With what could be mapped behind it."""
            size, begin, limit = gap
            segment = next(item for item in mine if item.end == limit)
            at = begin + size
            while segment.mapped is not None and at < limit and (at - segment.begin) // segment.page not in segment.mapped:
                at += segment.page if (at - segment.begin) % segment.page == 0 else limit
            if segment.mapped is None or any(block.begin == begin + size for block in self.held.values()):
                return size
            return min(at, limit) - begin

        at = 0
        while self.settings.expandable_segments and at + 1 < len(found) and room(found[at + 1]) < room(found[at]):
            at += 1
        size, begin, _ = found[at]
        limit = self.settings.max_split_size
        if need < limit <= size or (need >= limit and size >= need + self.settings.max_non_split_rounding):
            return None
        return begin, begin + size

    def fits(self, size: int) -> bool:
        return self.capacity is None or self.reserved + size <= self.capacity

    def fresh(self, need: int, stream: int) -> tuple[int, int] | None:
        small = need <= MIB
        size = 2 * MIB if small else self.settings.large_segment_size if need < 10 * MIB else -(-need // (2 * MIB)) * 2 * MIB
        share = self.settings.per_process_memory_fraction
        if share < 1 and self.capacity is not None and self.reserved + size > int(share * self.capacity):
            return None
        if self.settings.expandable_segments:
            return self.grown(need, stream, small)
        if not self.fits(size):
            return None
        begin = next(self.slots)
        self.segments.append(Segment(begin, begin + size, stream, small))
        self.note("segment_alloc", begin, size, stream)
        return begin, begin + size

    def grown(self, need: int, stream: int, small: bool) -> tuple[int, int] | None:
        page = 2 * MIB if small else self.settings.large_segment_size
        mine = [item for item in self.segments if item.stream == stream and item.small == small]
        for segment in sorted(mine, key=lambda item: item.begin):
            assert segment.mapped is not None
            for begin, end in self.without_held(segment.begin, segment.end):
                # From the first free byte on, or where two free pieces and a hole follow, from the piece before each hole.
                for first in self.starts(segment, begin, end):
                    if end - first >= need:
                        return self.mapped(segment, first, need)
        space = MIB * MIB if self.capacity is None else self.capacity + self.capacity // 8
        begin = next(self.slots)
        segment = Segment(begin, begin + -(-space // page) * page, stream, small, set(), page)
        if segment.end - begin < need:
            segment.end = begin + -(-need // page) * page
        self.segments.append(segment)
        return self.mapped(segment, begin, need)

    def starts(self, segment: Segment, begin: int, end: int) -> list[int]:
        """Of a stretch without allocated blocks: where its unmapped holes begin, or the free piece right before each."""
        assert segment.mapped is not None
        found, at, piece = [], begin, begin
        while at < end:
            index = (at - segment.begin) // segment.page
            after = min(segment.begin + (index + 1) * segment.page, end)
            if index in segment.mapped:
                if at != begin and index - 1 not in segment.mapped:
                    piece = at
            elif at == begin or index - 1 in segment.mapped:
                found.append(piece if at != begin else begin)
                if not any(page >= index for page in segment.mapped):
                    break
            at = after
        return found

    def mapped(self, segment: Segment, begin: int, need: int) -> tuple[int, int] | None:
        assert segment.mapped is not None
        first, last = (begin - segment.begin) // segment.page, (begin + need - 1 - segment.begin) // segment.page
        missing = [page for page in range(first, last + 1) if page not in segment.mapped]
        while missing:
            hole = [page for count, page in enumerate(missing) if page == missing[0] + count]
            if not self.fits(len(hole) * segment.page):
                return None
            segment.mapped |= set(hole)
            self.note("segment_map", segment.begin + hole[0] * segment.page, len(hole) * segment.page, segment.stream)
            missing = missing[len(hole) :]
        return next(gap for gap in self.gaps(segment) if gap[0] == begin)

    def whole(self, small: bool) -> list[Segment]:
        """Plain segments of a pool without allocated blocks, by stream, size and address."""
        free = [
            item
            for item in self.segments
            if item.mapped is None and item.small == small and self.gaps(item) == [(item.begin, item.end)]
        ]
        return sorted(free, key=lambda item: (item.stream, item.end - item.begin, item.begin))

    def release(self, segment: Segment) -> None:
        self.segments.remove(segment)
        self.note("segment_free", segment.begin, segment.end - segment.begin, segment.stream)

    def release_oversize(self, need: int, stream: int) -> bool:
        limit = self.settings.max_split_size
        if limit == NO_SPLIT_LIMIT:
            return False
        wanted = max(need, limit)
        free = [item for item in self.whole(need <= MIB) if item.stream == stream and item.end - item.begin >= limit]
        enough = [item for item in free if item.end - item.begin >= wanted]
        if enough:
            self.release(enough[0])
            return True
        released = 0
        for item in reversed(free):
            if released < wanted:
                released += item.end - item.begin
                self.release(item)
        return released >= wanted

    def release_all(self) -> None:
        for number, block in list(self.held.items()):
            if block.pending:
                self.completed.add(number)
                self.complete(number)
        for small in (False, True):
            for segment in self.whole(small):
                self.release(segment)
            for segment in [item for item in self.segments if item.small == small and item.mapped is not None]:
                self.unmap(segment)

    def unmap(self, segment: Segment) -> None:
        assert segment.mapped is not None
        for begin, end in self.gaps(segment):
            first, last = -((segment.begin - begin) // segment.page), (end - segment.begin) // segment.page
            if first < last:
                segment.mapped -= set(range(first, last))
                address = segment.begin + first * segment.page
                self.note("segment_unmap", address, (last - first) * segment.page, segment.stream)
                if not segment.mapped:
                    self.segments.remove(segment)

    def request_free(self, number: int) -> None:
        block = self.held[number]
        block.pending = True
        self.note("free_requested", block.begin, block.requested, block.stream)

    def complete(self, number: int) -> None:
        block = self.held.pop(number)
        self.note("free_completed", block.begin, block.requested, block.stream)

    def free(self, number: int) -> None:
        if number in self.completed:
            return
        if not self.held[number].pending:
            self.request_free(number)
        self.complete(number)

    def snapshot(self, history: list[dict[str, Any]]) -> dict[str, Any]:
        """As torch.cuda.memory._snapshot() would return it, with this history."""
        segments = []
        for item in self.segments:
            for begin, end in item.pieces():
                inside = [block for block in self.held.values() if begin <= block.begin < end]
                blocks = [
                    (block.begin, block.end, "active_pending_free" if block.pending else "active_allocated") for block in inside
                ]
                blocks += [(*gap, "inactive") for gap in self.without_held(begin, end)]
                segments.append(
                    {
                        "device": 0,
                        "address": begin,
                        "total_size": end - begin,
                        "stream": item.stream,
                        "segment_type": "small" if item.small else "large",
                        "is_expandable": item.mapped is not None,
                        "blocks": [{"size": b - a, "state": state, "address": a} for a, b, state in sorted(blocks)],
                    }
                )
        limit = self.settings.max_split_size
        settings = {
            # As text because PyTorch has no number for it here.
            "PYTORCH_CUDA_ALLOC_CONF": f"max_non_split_rounding_mb:{self.settings.max_non_split_rounding // 2**20}",
            "max_split_size": -1 if limit == NO_SPLIT_LIMIT else limit,
            "garbage_collection_threshold": 0.0,
            "expandable_segments": self.settings.expandable_segments,
            "roundup_power2_divisions": {
                str(2**index): count for index, count in enumerate(self.settings.roundup_power2_divisions)
            },
        }
        return {"segments": segments, "device_traces": [history], "allocator_settings": settings}
