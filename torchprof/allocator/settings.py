"""The settings of PyTorch's CUDA caching allocator, as ``PYTORCH_ALLOC_CONF`` has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from torchprof.errors import ArgumentError

__all__ = ["LARGEST", "NO_SPLIT_LIMIT", "AllocatorSettings"]

MIB: Final = 2**20
MIN_BLOCK: Final = 512
INTERVALS: Final = 16
LARGEST: Final = 2**50
"""Bytes of the largest device and block that the simulator counts with."""
NO_SPLIT_LIMIT: Final = 2**63 - 1
LONGEST_NUMBER: Final = 40
"""Digits of the longest number that is read: Python refuses to read thousands."""

WITHOUT_EFFECT: Final = frozenset(
    "release_lock_on_cudamalloc release_lock_on_hipmalloc pinned_use_cuda_host_register pinned_use_hip_host_register "
    "pinned_num_register_threads pinned_use_background_threads pinned_reserve_segment_size_mb pinned_free_catch_all "
    "pinned_max_round_threshold_mb pinned_max_cached_size_mb graph_capture_record_stream_reuse throw_on_cudamalloc_oom".split()
)
"""Options that change neither what is allocated nor what is reserved; their values are not read."""


@dataclass(frozen=True, slots=True)
class AllocatorSettings:
    """The options of ``PYTORCH_ALLOC_CONF`` that change what is reserved. Sizes in bytes.

    Attributes:
        expandable_segments: grow segments page by page instead of reserving new ones.
        max_split_size: blocks of this size and larger are neither split nor used for anything smaller.
        max_non_split_rounding: such a block is used for what is smaller by less than this.
        large_segment_size: the segment that blocks of more than 1 MiB and less than 10 MiB share; with expandable segments
            the page of all blocks above 1 MiB.
        roundup_power2_divisions: into how many steps the sizes from 1, 2, 4, ... MiB up to the next power of 2 are divided,
            to round up to; the first also counts for what is smaller, the last for what is larger. 0: multiples of 512 bytes.
        garbage_collection_threshold: from this share of the limit on, free what has been cached for longest. As in
            PyTorch, this has no effect without ``per_process_memory_fraction``.
        per_process_memory_fraction: the limit, as a share of the capacity; 1: none.

    Raises:
        ArgumentError: a value is of the wrong type, or out of the range that PyTorch accepts.
    """

    expandable_segments: bool = False
    max_split_size: int = NO_SPLIT_LIMIT
    max_non_split_rounding: int = 20 * MIB
    large_segment_size: int = 20 * MIB
    roundup_power2_divisions: tuple[int, ...] = (0,) * INTERVALS
    garbage_collection_threshold: float = 0.0
    per_process_memory_fraction: float = 1.0

    def __post_init__(self) -> None:
        kinds = {bool: "True or False", int: "a number of bytes", float: "a number", tuple: f"a tuple of {INTERVALS} numbers"}
        for field in fields(self):
            value: Any = getattr(self, field.name)
            kind = type(field.default)
            fits = type(value) is kind or (kind is float and type(value) is int)
            numbers = value if fits and kind is tuple else (value,) if kind is int else ()
            if not fits or any(type(number) is not int or number > NO_SPLIT_LIMIT for number in numbers):
                raise ArgumentError(f"{field.name}={value!r} cannot be: it must be {kinds[kind]}")
        large = f"the large segment size, {self.large_segment_size // MIB} MiB"
        divisions = self.roundup_power2_divisions
        rules = [
            ("large_segment_size", 10 * MIB < self.large_segment_size <= LARGEST, "more than 10 MiB, and at most 1 PiB"),
            ("max_split_size", self.max_split_size >= self.large_segment_size, f"at least {large}"),
            (
                "max_non_split_rounding",
                self.large_segment_size <= self.max_non_split_rounding <= LARGEST,
                f"at least {large}, and at most 1 PiB",
            ),
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
        if not isinstance(text, str):
            raise ArgumentError(f"allocator settings must be text such as 'expandable_segments:True', not {text!r:.80}")
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
        """The size of the block for a requested size, in bytes."""
        if size < MIN_BLOCK:
            return MIN_BLOCK
        interval = min(max(size.bit_length() - MIB.bit_length(), 0), INTERVALS - 1)
        divisions = self.roundup_power2_divisions[interval]
        if divisions > 1 and size > MIN_BLOCK * divisions:
            step = (1 << size.bit_length() - 1) // divisions
            return -(-size // step) * step
        return -(-size // MIN_BLOCK) * MIN_BLOCK

    def segment_size(self, block: int) -> int:
        """Of a segment that is reserved for a block of this size, in bytes; not of an expandable one."""
        if block <= MIB:
            return 2 * MIB
        return self.large_segment_size if block < 10 * MIB else -(-block // (2 * MIB)) * 2 * MIB

    def reserves(self, block: int) -> int:
        """Bytes of the device that a block of this size needs where nothing cached serves it: a segment, or whole pages."""
        if not self.expandable_segments:
            return self.segment_size(block)
        page = 2 * MIB if block <= MIB else self.large_segment_size
        return -(-block // page) * page


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
    if not value.isdecimal() or len(value) > LONGEST_NUMBER:
        raise ArgumentError(f"{option}:{value:.40} is no number of MiB: write {option}:512")
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
    return text.isdecimal() and len(text) <= LONGEST_NUMBER and int(text).bit_count() == 1


READERS: Final[Mapping[str, tuple[str, Callable[[str, str], Any]]]] = {
    "expandable_segments": ("expandable_segments", _read_switch),
    "max_split_size_mb": ("max_split_size", _read_bytes),
    "max_non_split_rounding_mb": ("max_non_split_rounding", _read_bytes),
    "large_segment_size_mb": ("large_segment_size", _read_bytes),
    "roundup_power2_divisions": ("roundup_power2_divisions", _read_divisions),
    "garbage_collection_threshold": ("garbage_collection_threshold", _read_share),
    "per_process_memory_fraction": ("per_process_memory_fraction", _read_share),
}
