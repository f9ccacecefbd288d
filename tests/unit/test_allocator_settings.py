"""Settings of the caching allocator, read as PYTORCH_ALLOC_CONF has them. Without the extension."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from torchprof.allocator.settings import AllocatorSettings
from torchprof.errors import ArgumentError

MIB = 2**20


def test_nothing_is_the_defaults() -> None:
    assert AllocatorSettings.parse("") == AllocatorSettings()


def test_every_option_that_counts_is_read() -> None:
    text = (
        "expandable_segments:True,max_split_size_mb:512,max_non_split_rounding_mb:64,large_segment_size_mb:32,"
        "roundup_power2_divisions:4,garbage_collection_threshold:0.8,per_process_memory_fraction:0.5"
    )
    assert AllocatorSettings.parse(text) == AllocatorSettings(
        expandable_segments=True,
        max_split_size=512 * MIB,
        max_non_split_rounding=64 * MIB,
        large_segment_size=32 * MIB,
        roundup_power2_divisions=(4,) * 16,
        garbage_collection_threshold=0.8,
        per_process_memory_fraction=0.5,
    )


def test_spaces_mean_nothing() -> None:
    assert AllocatorSettings.parse(" max_split_size_mb : 128 , ").max_split_size == 128 * MIB


def test_options_that_change_nothing_here_are_accepted() -> None:
    text = "backend:native,pinned_use_background_threads:True,release_lock_on_cudamalloc:True"
    assert AllocatorSettings.parse(text) == AllocatorSettings()


def test_the_rounding_of_unsplit_blocks_follows_the_large_segment() -> None:
    assert AllocatorSettings.parse("large_segment_size_mb:64").max_non_split_rounding == 64 * MIB


def test_divisions_by_size_are_those_of_the_interval_that_begins_there() -> None:
    divisions = AllocatorSettings.parse("roundup_power2_divisions:[64:8,128:2,256:4,512:2,1024:4,>:1]").roundup_power2_divisions
    assert divisions == (8,) * 7 + (2, 4, 2, 4) + (1,) * 5


def test_intervals_between_those_named_are_not_rounded() -> None:
    assert AllocatorSettings.parse("roundup_power2_divisions:[2:8,8:4]").roundup_power2_divisions == (8, 8, 0, 4) + (0,) * 12


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_split_sizes_mb:512", "option 'max_split_sizes_mb' is unknown"),
        ("max_split_size_mb", "'max_split_size_mb' in 'max_split_size_mb' is no option with a value"),
        ("max_split_size_mb:lots", "max_split_size_mb:lots is no number of MiB: write max_split_size_mb:512"),
        ("max_split_size_mb:19", "must be at least the large segment size, 20 MiB"),
        ("max_split_size_mb:40,large_segment_size_mb:64", "must be at least the large segment size, 64 MiB"),
        ("large_segment_size_mb:10", "must be more than 10 MiB, and at most 1 PiB"),
        ("expandable_segments:true", "write expandable_segments:True or expandable_segments:False"),
        ("garbage_collection_threshold:1.0", "garbage_collection_threshold=1.0 cannot be"),
        ("garbage_collection_threshold:half", "write garbage_collection_threshold:0.8"),
        ("per_process_memory_fraction:2", "must be between 0 and 1"),
        ("roundup_power2_divisions:3", "roundup_power2_divisions:3 cannot be read"),
        ("roundup_power2_divisions:[3:4]", "powers of 2"),
        ("roundup_power2_divisions:[256:4", "has no closing bracket"),
        ("backend:cudaMallocAsync", "backend:cudaMallocAsync is not simulated"),
    ],
)
def test_what_cannot_be_is_named_with_a_way_out(text: str, says: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        AllocatorSettings.parse(text)
    assert says in str(caught.value)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        AllocatorSettings().expandable_segments = True  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "size", "block"),
    [
        ("", 1, 512),
        ("", 512, 512),
        ("", 513, 1024),
        ("roundup_power2_divisions:4", 1200 * 1024, 1280 * 1024),
        ("roundup_power2_divisions:4", 2048, 2048),  # up to 512 bytes for each division: plain rounding
        ("roundup_power2_divisions:4", 2049, 2560),
        ("roundup_power2_divisions:4", 4 * MIB, 4 * MIB),
        ("roundup_power2_divisions:1", 5 * MIB + 1, 5 * MIB + 512),
        ("roundup_power2_divisions:[8:2]", 9 * MIB, 12 * MIB),
        ("roundup_power2_divisions:[8:2]", 17 * MIB + 1, 17 * MIB + 512),
    ],
)
def test_requests_are_rounded(text: str, size: int, block: int) -> None:
    assert AllocatorSettings.parse(text).round(size) == block
