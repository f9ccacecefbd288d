"""Why a program ran out of memory: on histories that the oracle of the allocator recorded."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from oracle_allocator import Oracle

import torchprof
from torchprof.allocator.settings import AllocatorSettings
from torchprof.errors import ArgumentError

MIB = 2**20
GROWS = "expandable_segments:True"
Step = tuple[int, int]


def run(steps: list[Step], capacity: int, text: str = "") -> dict[str, Any]:
    """(number, size) allocates and (number, 0) frees; the last one fails."""
    oracle = Oracle(AllocatorSettings.parse(text), capacity, slots())
    assert served(oracle, steps) == len(steps) - 1
    frames = [{"filename": "/a/train.py", "line": 12, "name": "step"}]
    size, free = oracle.settings.round(steps[-1][1]), capacity - oracle.reserved
    oracle.history.append({"action": "oom", "device_free": free, "size": size, "stream": 0, "frames": frames})
    return oracle.snapshot(oracle.history)


def served(oracle: Oracle, steps: list[Step]) -> int:
    """How many steps there are until one fails."""
    for done, (number, size) in enumerate(steps):
        if not size:
            oracle.free(number)
        elif not oracle.allocate(number, size, 0):
            return done
    return len(steps)


def slots() -> Iterator[int]:
    return itertools.count(2**41, 2**41)


def halves() -> list[Step]:
    """Three times 40 MiB are reserved, freed, and used in halves of which the first is freed again."""
    steps: list[Step] = [(number, 40 * MIB) for number in (0, 1, 2)]
    steps += [(number, 0) for number in (0, 1, 2)]
    steps += [(number, 20 * MIB) for number in range(3, 9)]
    return [*steps, (3, 0), (5, 0), (7, 0), (9, 40 * MIB)]


def test_the_request_that_failed_and_what_was_free_in_pieces() -> None:
    found = torchprof.explain_oom(run(halves(), 130 * MIB))
    assert (found.device, found.requested, found.device_free, found.earlier) == ("cuda:0", 40 * MIB, 10 * MIB, 0)
    assert (found.capacity, found.reserved, found.allocated) == (130 * MIB, 120 * MIB, 60 * MIB)
    assert (found.free, found.largest_free, found.pieces, found.missing) == (60 * MIB, 20 * MIB, 3, 0)
    assert found.stack == ("/a/train.py:12 step",)
    assert found.reproduced


def test_a_setting_that_would_have_saved_the_run_is_named() -> None:
    """Pages that are free can be had again, wherever they are."""
    found = torchprof.explain_oom(run(halves(), 130 * MIB))
    assert found.saved_by[0] == "expandable_segments:True"
    assert "PYTORCH_ALLOC_CONF=expandable_segments:True would have saved the run" in str(found)
    first = found.attempt_table.to_dict()[0]
    assert (first["name"], first["fits"], first["served"]) == ("(as recorded)", False, 9)
    assert first["outcome"] == "out of memory after 9 of 10 allocations"


def blocks_that_pin_large_ones() -> list[Step]:
    """100 MiB are freed and serve 30, which keeps them from being released. Blocks of 64 MiB and more could be kept apart."""
    return [(0, 100 * MIB), (0, 0), (1, 30 * MIB), (2, 110 * MIB)]


def a_little_more_than_before() -> list[Step]:
    """Of 120 MiB, 16, 65 and 16 are used, and the 65 freed: 67 do not fit there, unless both are rounded up to 72 or 80."""
    return [(0, 120 * MIB), (0, 0), (1, 16 * MIB), (2, 65 * MIB), (3, 16 * MIB), (2, 0), (4, 67 * MIB)]


def all_in_use() -> list[Step]:
    """49 of 150 MiB are not allocated, but segments have whole pages of 2."""
    return [(0, 40 * MIB + 300 * 1024), (1, 59 * MIB), (2, 49 * MIB)]


@pytest.mark.parametrize(
    ("steps", "capacity", "saves"),
    [
        (halves, 130 * MIB, [GROWS, "max_split_size_mb:32"]),
        (blocks_that_pin_large_ones, 180 * MIB, [GROWS, "max_split_size_mb:32", "max_split_size_mb:64"]),
        (all_in_use, 150 * MIB, []),
        (
            a_little_more_than_before,
            175 * MIB,
            [GROWS, *(f"max_split_size_mb:{size}" for size in (32, 64)), *(f"roundup_power2_divisions:{to}" for to in (4, 8))],
        ),
    ],
)
def test_what_would_have_saved_the_run_is_what_serves_it_all(
    steps: Callable[[], list[Step]], capacity: int, saves: list[str]
) -> None:
    found = torchprof.explain_oom(run(steps(), capacity))
    assert found.reproduced
    assert found.saved_by == saves


def program(seed: int) -> tuple[list[Step], int, str]:
    """Blocks of up to 70 MiB, small ones as well, that come and go; bytes of the device; and settings."""
    chance = random.Random(seed)
    live: list[int] = []
    steps: list[Step] = []
    for number in range(chance.randint(6, 40)):
        if live and chance.random() < 0.45:
            steps.append((live.pop(chance.randrange(len(live))), 0))
        else:
            large = chance.randint(2, 70) * MIB + chance.choice([0, 300 * 1024])
            steps.append((number, chance.choice([large, large, chance.randint(1, 3 * MIB)])))
            live.append(number)
    return steps, chance.choice([150, 200, 260]) * MIB, chance.choice(["", "", GROWS, "max_split_size_mb:64"])


def test_attempts_are_what_the_allocator_does_with_these_settings() -> None:
    """Against the oracle, on all programs of these that run out of memory."""
    failed = 0
    for seed in range(120):
        steps, capacity, text = program(seed)
        until = served(Oracle(AllocatorSettings.parse(text), capacity, slots()), steps)
        if until == len(steps):
            continue
        failed += 1
        found = torchprof.explain_oom(run(steps[: until + 1], capacity, text))
        assert (found.reproduced, found.capacity, found.limited) == (True, capacity, False)
        for attempt in found.attempts[1:]:
            option, _, _ = attempt.text.partition(":")
            others = [each for each in text.split(",") if each and not each.startswith(option)]
            oracle = Oracle(AllocatorSettings.parse(",".join([attempt.text, *others])), capacity, slots())
            done = served(oracle, steps[: until + 1])
            assert (attempt.fits, attempt.max_reserved) == (done == until + 1, oracle.max_reserved)
            assert attempt.served == sum(size > 0 for _, size in steps[:done])
    assert failed > 40


def test_below_a_limit_collecting_what_is_cached_can_save_the_run() -> None:
    """Five blocks of 20 MiB are freed, and each split for 10 that stay. Above 80% of the limit, they are released."""
    five = range(1, 6)
    steps: list[Step] = [(0, 64 * MIB), *((number, 20 * MIB) for number in five), *((number, 0) for number in five)]
    steps += [(6, 30 * MIB), *((number + 6, 10 * MIB) for number in five), (12, 50 * MIB)]
    snapshot = run(steps, 200 * MIB)
    assert all(not attempt.text.startswith("garbage") for attempt in torchprof.explain_oom(snapshot).attempts)
    snapshot["device_traces"][0][-1]["device_free"] = 1000 * MIB  # the limit is not the device
    found = torchprof.explain_oom(snapshot, capacity=200 * MIB)
    fits = {attempt.text: (attempt.fits, attempt.max_reserved) for attempt in found.attempts}
    assert fits["(as recorded)"] == (False, 194 * MIB)
    assert fits["garbage_collection_threshold:0.8"] == (True, 194 * MIB)


def test_where_too_much_is_allocated_no_setting_helps_and_it_says_by_how_much() -> None:
    found = torchprof.explain_oom(run([(0, 60 * MIB), (1, 30 * MIB), (2, 40 * MIB)], 100 * MIB))
    assert (found.missing, found.saved_by) == (30 * MIB, [])
    assert "No setting would have saved the run: 30.0 MiB more are needed" in str(found)


def test_a_limit_of_the_process_is_told_from_a_full_device() -> None:
    snapshot = run([(0, 60 * MIB), (1, 50 * MIB)], 100 * MIB)
    snapshot["device_traces"][0][-1]["device_free"] = 1000 * MIB
    found = torchprof.explain_oom(snapshot)
    assert (found.limited, found.capacity) == (True, 60 * MIB)
    assert "a limit such as torch.cuda.set_per_process_memory_fraction" in str(found)
    assert torchprof.explain_oom(snapshot, capacity=200 * MIB).attempts[0].fits


def below_a_limit(steps: list[Step], limit: int) -> dict[str, Any]:
    snapshot = run(steps, limit)
    snapshot["device_traces"][0][-1]["device_free"] = 1000 * MIB
    return snapshot


def test_a_limit_is_known_as_far_as_what_was_refused_tells() -> None:
    snapshot = below_a_limit([(0, 60 * MIB), (1, 50 * MIB)], 100 * MIB)
    found = torchprof.explain_oom(snapshot)
    assert (found.capacity, found.most) == (60 * MIB, 110 * MIB - 1)
    assert (found.saved_by, found.may_be_saved_by) == ([], [])
    assert "Of 60.0 MiB to 110.0 MiB that PyTorch could have" in str(found)
    assert "No setting would have saved the run: up to 50.0 MiB more are needed" in str(found)
    given = torchprof.explain_oom(snapshot, capacity=100 * MIB)
    assert (given.capacity, given.most, given.missing) == (100 * MIB, 100 * MIB, 10 * MIB)
    assert "in 100.0 MiB: 10.0 MiB more are needed" in str(given)


@pytest.mark.parametrize(("limit", "saves"), [(80 * MIB, True), (65 * MIB, False)])
def test_what_saves_the_run_below_some_limits_only_is_said_to(limit: int, saves: bool) -> None:
    snapshot = below_a_limit([(0, 60 * MIB), (0, 0), (1, 30 * MIB), (2, 40 * MIB)], limit)
    found = torchprof.explain_oom(snapshot)
    assert (found.saved_by, found.may_be_saved_by[0]) == ([], "expandable_segments:True")
    assert "PYTORCH_ALLOC_CONF=expandable_segments:True would have saved the run if the limit was high enough" in str(found)
    assert bool(torchprof.explain_oom(snapshot, capacity=limit).saved_by) is saves


def test_beside_what_saves_the_run_for_sure_is_said_what_may_too() -> None:
    """As an H200 did: blocks of 9 MiB, of which every other one is freed, share segments of 20 MiB unless rounded to 10 MiB."""
    held = [(number, 9 * MIB) for number in range(120)]
    steps = [*held, *((number, 0) for number in range(1, 120, 2)), (120, 300 * MIB)]
    snapshot = below_a_limit(steps, 1431 * MIB)
    found = torchprof.explain_oom(snapshot)
    assert (found.saved_by, found.may_be_saved_by) == (["roundup_power2_divisions:4"], [GROWS])
    says = (
        "PYTORCH_ALLOC_CONF=roundup_power2_divisions:4 would have saved the run; expandable_segments:True too, if the limit was"
    )
    assert str(found).splitlines()[-1].startswith(says)
    assert GROWS in torchprof.explain_oom(snapshot, capacity=1431 * MIB).saved_by


def test_what_the_program_frees_afterwards_does_not_count() -> None:
    snapshot = run(halves(), 130 * MIB)
    first = snapshot["segments"][0]["blocks"]
    address = snapshot["segments"][0]["address"] + 20 * MIB
    free = {"addr": address, "size": 20 * MIB, "stream": 0}
    snapshot["device_traces"][0] += [{"action": "free_requested", **free}, {"action": "free_completed", **free}]
    first[:] = [{"size": 40 * MIB, "state": "inactive"}]
    found = torchprof.explain_oom(snapshot)
    assert (found.allocated, found.free, found.reproduced) == (60 * MIB, 60 * MIB, True)


def test_a_history_in_which_nothing_failed_is_refused() -> None:
    snapshot = run(halves(), 130 * MIB)
    del snapshot["device_traces"][0][-1]
    with pytest.raises(ArgumentError, match="no request failed in the history of device 0"):
        torchprof.explain_oom(snapshot)


def test_where_all_fits_as_it_was_recorded_no_setting_is_credited() -> None:
    """With more memory nothing fails: that says nothing against the replay, which fails with the memory that there was."""
    found = torchprof.explain_oom(run(halves(), 130 * MIB), capacity=1000 * MIB)
    assert (found.attempts[0].fits, found.saved_by, found.reproduced) == (True, [], True)
    text = str(found)
    assert "INEXACT" not in text
    assert text.splitlines()[-1] == "All fits in 1,000.0 MiB as it was recorded: no other setting is needed"


def test_a_capacity_at_which_a_setting_still_helps_credits_it() -> None:
    found = torchprof.explain_oom(run(halves(), 130 * MIB), capacity=120 * MIB)
    assert found.saved_by[0] == GROWS
    assert str(found).splitlines()[-1] == f"PYTORCH_ALLOC_CONF={GROWS} would have saved the run in 120.0 MiB"


def test_a_replay_that_does_not_fail_credits_nothing() -> None:
    snapshot = run(halves(), 130 * MIB)
    snapshot["device_traces"][0][-1]["size"] = 20 * MIB  # which a free piece would serve
    found = torchprof.explain_oom(snapshot)
    assert (found.reproduced, found.saved_by) == (False, [])
    text = str(found)
    assert "INEXACT: replayed with its own settings" in text
    assert text.splitlines()[-1] == "What would have saved the run is unknown: as replayed, it needs no other setting"


@pytest.mark.parametrize("left_out", [True, False])
def test_what_the_device_had_free_is_unknown_where_it_was_not_recorded(left_out: bool) -> None:
    snapshot = run(all_in_use(), 150 * MIB)
    entry = snapshot["device_traces"][0][-1]
    if left_out:
        del entry["device_free"]
    else:
        entry["device_free"] = None
    found = torchprof.explain_oom(snapshot)
    assert (found.device_free, found.capacity, found.limited) == (None, found.reserved, False)
    text = str(found)
    assert f"Of at least {found.reserved / MIB:.1f} MiB that PyTorch could have" in text
    assert "free on the device: unknown, the history does not have it" in text
    assert text.splitlines()[-1].startswith("Whether a setting would have saved the run is unknown")
    given = torchprof.explain_oom(snapshot, capacity=150 * MIB)
    assert str(given).splitlines()[-1].startswith("None of these settings would have saved the run in 150.0 MiB")


@pytest.mark.parametrize("name", torchprof.GPUS)
def test_a_gpu_is_a_capacity_here_as_for_an_estimate(name: str) -> None:
    snapshot = run(halves(), 130 * MIB)
    assert torchprof.explain_oom(snapshot, capacity=name).capacity == torchprof.GPUS[name]
    assert torchprof.replay_snapshot(snapshot, capacity=name).capacity == torchprof.GPUS[name]


@pytest.mark.parametrize(
    ("capacity", "says"),
    [
        ("H100", r"capacity='H100' is no known GPU and no size: did you mean 'H100-80GB'"),
        (10**40, r"capacity=1000.* must be a positive int of bytes, at most 1 PiB, memory such as '40GiB', or a GPU"),
        (0, "capacity=0 must be a positive int of bytes"),
        (80e9, "capacity=80000000000.0 must be a positive int of bytes"),
    ],
)
def test_a_capacity_that_cannot_be_says_what_can(capacity: Any, says: str) -> None:
    with pytest.raises(ArgumentError, match=says) as raised:
        torchprof.explain_oom(run(halves(), 130 * MIB), capacity=capacity)
    assert len(str(raised.value)) < 250


def test_a_snapshot_without_a_history_says_so_and_names_no_device() -> None:
    snapshot = run(halves(), 130 * MIB)
    snapshot["device_traces"] = []
    with pytest.raises(ArgumentError, match=r"^snapshot: no request failed in it, which has no history: take"):
        torchprof.explain_oom(snapshot)
    with pytest.raises(ArgumentError, match=r"^snapshot: it has no history: call"):
        torchprof.explain_oom(snapshot, "cuda:0")


def test_what_another_stream_still_uses_is_neither_allocated_nor_free() -> None:
    """Of six halves, three are free; of another one, the free was requested and is not completed."""
    snapshot = run(halves(), 130 * MIB)
    history = snapshot["device_traces"][0]
    taken = [entry for entry in history if entry["action"] == "alloc" and entry["size"] == 20 * MIB]
    freed = {entry["addr"] for entry in history if entry["action"] == "free_completed"}
    used = next(entry for entry in taken if entry["addr"] not in freed)
    history.insert(-1, {"action": "free_requested", "addr": used["addr"], "size": used["size"], "stream": 0})
    for segment in snapshot["segments"]:
        at = segment["address"]
        for block in segment["blocks"]:
            block["state"] = "active_awaiting_free" if at == used["addr"] else block["state"]
            at += block["size"]
    found = torchprof.explain_oom(snapshot)
    assert (found.allocated, found.awaiting_free, found.free) == (40 * MIB, 20 * MIB, 60 * MIB)
    assert "40.0 MiB were allocated, 20.0 MiB freed and still used by other streams; 60.0 MiB were reserved" in str(found)
