"""Clocks of ranks that do nothing together but send to each other, as stages of a pipeline on two hosts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import pytest
from many_ranks import HOURS, MS, stage_trace, two_stages

import torchprof
from torchprof.analysis.distributed.paired_messages import paired

GROUP: Final = {"name": "0", "description": "default_pg", "backend": "gloo", "ranks": [0, 1]}


def told(trace: torchprof.Trace, other: int, tag: int = 0, *, by: int = 0, **facts: Any) -> torchprof.Trace:
    """The same, which was told to whom it sends. Its clock is ahead by so many ns."""
    signatures = trace.signatures.copy()
    signatures["arguments"][1:3] = len(trace.strings)
    strings = [*trace.strings, f'{{"group": "0", "numbers": [{other}, {tag}]}}']
    ahead = {"origin_unix_ns": trace.facts["origin_unix_ns"] + by, "process_groups": [GROUP], **facts}
    return replace(trace, signatures=signatures, strings=strings, facts={**trace.facts, **ahead})


def on_two_hosts(stages: Sequence[torchprof.Trace], by: int = 3 * HOURS) -> torchprof.Ranks:
    first, second = stages
    return torchprof.Ranks.of([told(first, 1, host="node0"), told(second, 0, by=by, host="node1")])


def test_the_nth_message_that_is_sent_is_the_nth_that_is_received() -> None:
    pairs = paired(on_two_hosts(two_stages()))
    assert [(pair.sender, pair.receiver) for pair in pairs] == [(0, 1)] * 4 + [(1, 0)] * 4
    assert [(pair.sent.entered, pair.received.left) for pair in pairs[:2]] == [(2 * MS, 2 * MS), (4 * MS, 12 * MS)]


def test_messages_both_ways_align_clocks_that_are_off_by_hours() -> None:
    ranks = on_two_hosts(two_stages())
    row = torchprof.clocks(ranks).to_dict()[1]
    assert (row["name"], row["count"], row["contradiction"]) == ("node1", 8, 0)
    assert abs(row["ahead"] - 3 * HOURS) <= row["clock_error"] <= 2 * MS
    assert "within" in str(torchprof.clocks(ranks))
    assert "by 8 messages both ways" in str(torchprof.clocks(ranks))


def test_the_bubbles_of_a_pipeline_are_those_of_one_clock() -> None:
    same = torchprof.Ranks.of([told(first, 1 - at) for at, first in enumerate(two_stages(is_told=False))])
    rows = [torchprof.bubbles(ranks).to_dict() for ranks in (same, on_two_hosts(two_stages(is_told=False)))]
    assert rows[0] == rows[1]


def test_the_middle_of_the_bounds_is_taken_and_half_of_them_is_the_error() -> None:
    # There it takes 3 ms at least, and back 1 ms: by the clock of the first, the other is between 3 ms behind and 1 ms ahead.
    first = stage_trace(0, [("forward", 0, 2)], [("send", 2, 3), ("receive", 10, 21)])
    second = stage_trace(1, [("forward", 5, 9)], [("receive", 3, 5), ("send", 20, 20)])
    row = torchprof.clocks(on_two_hosts([first, second], by=0)).to_dict()[1]
    assert (row["ahead"], row["clock_error"], row["count"]) == (1 * MS, 2 * MS, 2)


def test_messages_one_way_tell_no_clock() -> None:
    first = stage_trace(0, [("forward", 0, 2)], [("send", 2, 3)])
    second = stage_trace(1, [("forward", 5, 9)], [("receive", 3, 5)])
    row = torchprof.clocks(on_two_hosts([first, second])).to_dict()[1]
    assert (row["ahead"], row["clock_error"], row["count"]) == (None, None, 0)


@pytest.mark.parametrize("more", [[("send", 4, 5)], [("send", 4, 5), ("receive", 22, 23)]])
def test_ranks_that_count_other_numbers_of_messages_have_no_pairs_of_that_step(more: list[tuple[str, float, float]]) -> None:
    first = stage_trace(0, [("forward", 0, 2)], [("send", 2, 3), ("receive", 10, 21), *more])
    second = stage_trace(1, [("forward", 5, 9)], [("receive", 3, 5), ("send", 20, 20)])
    pairs = paired(on_two_hosts([first, second]))
    assert {pair.sender for pair in pairs} == ({1} if len(more) == 1 else set())


def test_tags_tell_messages_apart() -> None:
    first = stage_trace(0, [("forward", 0, 2)], [("send", 2, 3)])
    second = stage_trace(1, [("forward", 5, 9)], [("receive", 3, 5)])
    assert paired(torchprof.Ranks.of([told(first, 1, tag=1), told(second, 0, tag=2)])) == ()
    assert len(paired(torchprof.Ranks.of([told(first, 1, tag=2), told(second, 0, tag=2)]))) == 1


@pytest.mark.parametrize("numbers", ["[5, 0]", "[-1, 0]", "[]", "[true, 0]", '"0"', "[0.5]"])
def test_a_rank_that_cannot_be_is_none(numbers: str) -> None:
    first = told(two_stages()[0], 1)
    strings = [*first.strings[:-1], f'{{"group": "0", "numbers": {numbers}}}']
    assert paired(torchprof.Ranks.of([replace(first, strings=strings), told(two_stages()[1], 0)])) == ()
