"""Clocks of ranks, aligned by their collectives: `torchprof.clocks`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from goldens import Golden
from many_ranks import HOURS, MS, meeting_trace

import torchprof
from torchprof.analysis.distributed.clocks import clocks_of
from torchprof.cli.main import main

CAME = [[10, 14, 10, 10], [20, 10, 12, 11], [11, 10, 30, 10]]


def run(*origins: int, hosts: tuple[str | None, ...] = (), came: list[list[float]] | None = None) -> torchprof.Ranks:
    """Ranks whose clocks are ahead by so much, all of them beginning at one time."""
    names = hosts or tuple(f"node{rank}" for rank in range(len(origins)))
    of = [each[: len(origins)] for each in (came or CAME)]
    return torchprof.Ranks.of([meeting_trace(rank, of, origin=origin, host=names[rank]) for rank, origin in enumerate(origins)])


def test_ranks_of_one_host_read_one_clock(golden: Golden) -> None:
    ranks = run(0, 0, 0, 0, hosts=("node0",) * 4)
    (row,) = torchprof.clocks(ranks).to_dict()
    assert (row["name"], row["of_ranks"], row["ahead"], row["clock_error"]) == ("node0", [0, 1, 2, 3], 0, 0)
    golden(str(torchprof.clocks(ranks)), "clocks_of_one_host.txt")


@pytest.mark.parametrize("ahead", [0, 5 * MS, 3 * HOURS, -7 * HOURS])
def test_a_clock_that_is_off_by_hours_is_aligned_within_the_stated_error(ahead: int) -> None:
    ranks = run(0, ahead)
    first, second = torchprof.clocks(ranks).to_dict()
    assert (first["ahead"], first["clock_error"]) == (0, 0)
    assert abs(second["ahead"] - ahead) <= second["clock_error"]
    assert second["count"] == 3
    origins = clocks_of(ranks).origins
    assert abs(origins[1] - origins[0]) <= second["clock_error"]


def test_the_offset_is_that_of_the_ends_and_the_error_the_shortest_run() -> None:
    # Each comes last once. It enters 0.1 ms after it asks, and all leave 1 ms after that it asked: 0.9 ms from either side.
    _, second = torchprof.clocks(run(0, HOURS, came=[[10, 14], [14, 10]])).to_dict()
    assert second["ahead"] == HOURS
    assert second["clock_error"] == pytest.approx(0.9 * MS, abs=2)


@pytest.mark.parametrize("late", [0, 4, 25])
def test_a_rank_that_always_comes_last_moves_no_clock(late: float) -> None:
    # The bounds are from 0.9 ms to 0.9 ms and so much as it is late: their middle would be off by half of that.
    _, second = torchprof.clocks(run(0, HOURS, came=[[10, 10 + late]] * 3)).to_dict()
    assert second["ahead"] == HOURS
    assert second["clock_error"] == pytest.approx(0.9 * MS, abs=2)


def leaving(trace: torchprof.Trace, later: list[int]) -> torchprof.Trace:
    """The same rank, which leaves its collectives so many ms later."""
    ops = trace.ops.copy()
    ops["end"][trace.op_names == trace.strings.index("gloo:all_reduce")] += np.array(later) * MS
    return replace(trace, ops=ops)


def test_a_host_that_always_leaves_late_makes_the_error_larger() -> None:
    # Each comes last to one of two: the second then runs for 3.9 ms, and the first for 0.9 ms.
    came = [[10.0, 14.0], [14.0, 10.0]]
    second = leaving(meeting_trace(1, came, host="b"), [3, 3])
    row = torchprof.clocks(torchprof.Ranks.of([meeting_trace(0, came, host="a"), second])).to_dict()[1]
    assert (row["ahead"], row["clock_error"]) == pytest.approx((3 * MS, 3.9 * MS), abs=2)


def test_ranks_that_leave_now_at_once_and_now_late_make_the_error_larger() -> None:
    # The first always comes last, so that its runs are short. The second leaves 0, 0, 2, 4 and 6 ms late: 2 ms in the median.
    came = [[16.0, 10.0]] * 5
    second = leaving(meeting_trace(1, came, host="b"), [0, 0, 2, 4, 6])
    row = torchprof.clocks(torchprof.Ranks.of([meeting_trace(0, came, host="a"), second])).to_dict()[1]
    assert row["ahead"] == pytest.approx(0.9 * MS, abs=2), "what is certain"
    assert row["clock_error"] == pytest.approx(4 * MS, abs=2), "from the second of five to the fourth"


def test_the_offset_is_held_to_what_is_certain() -> None:
    # In two of three the second leaves 3 ms late. All bounds together say that it is at most 0.9 ms ahead.
    came = [[10.0, 14.0], [14.0, 10.0], [14.0, 10.0]]
    second = leaving(meeting_trace(1, came, host="b"), [3, 3, 0])
    row = torchprof.clocks(torchprof.Ranks.of([meeting_trace(0, came, host="a"), second])).to_dict()[1]
    assert row["ahead"] == pytest.approx(0.9 * MS, abs=2)
    assert row["clock_error"] == pytest.approx(1.8 * MS, abs=2), "to the other end of the bounds"
    assert row["contradiction"] == 0


def test_the_first_of_a_host_to_leave_tells_and_one_that_lost_its_processor_does_not() -> None:
    came = [[10.0, 10.0, 14.0, 14.0]] * 3
    hosts = ("a", "a", "b", "b")
    traces = [meeting_trace(rank, came, host=hosts[rank]) for rank in range(4)]
    traces[3] = leaving(traces[3], [5, 5, 5])
    row = torchprof.clocks(torchprof.Ranks.of(traces)).to_dict()[1]
    assert (row["of_ranks"], row["ahead"]) == ([2, 3], 0)


def test_what_is_tied_to_a_clock_that_nothing_ties_to_the_first_is_unknown_too() -> None:
    # Ranks 2 and 3 reduce together, and with no other.
    came = [[10.0] * 4] * 2
    groups = [{"name": "1", "description": "rest", "backend": "gloo", "ranks": [2, 3]}]
    alone = [{"name": "2", "description": "first", "backend": "gloo", "ranks": [0, 1]}]
    ranks = torchprof.Ranks.of(
        [
            meeting_trace(rank, came, host=host, process_groups=groups if rank > 1 else alone)
            for rank, host in enumerate(("a", "a", "b", "c"))
        ]
    )
    rows = torchprof.clocks(ranks).to_dict()
    assert [(row["ahead"], row["clock_error"]) for row in rows] == [(0, 0), (None, None), (None, None)]
    found = clocks_of(ranks)
    assert (found.apart(0, 1), found.apart(0, 2), found.apart(1, 3)) == (0, None, None)
    assert found.apart(2, 3) == pytest.approx(0.9 * MS, abs=2)


def test_hosts_are_aligned_as_a_whole_and_stated(golden: Golden) -> None:
    ranks = run(0, 0, 3 * HOURS, 3 * HOURS, hosts=("node0", "node0", "node1", "node1"))
    rows = torchprof.clocks(ranks).to_dict()
    assert [(row["name"], row["of_ranks"]) for row in rows] == [("node0", [0, 1]), ("node1", [2, 3])]
    assert abs(rows[1]["ahead"] - 3 * HOURS) <= rows[1]["clock_error"] < MS
    golden(str(torchprof.clocks(ranks)), "clocks.txt")


def test_a_rank_whose_collectives_contradict_the_clock_of_its_host_has_its_own(golden: Golden) -> None:
    ranks = run(0, 0, -2 * HOURS, 0, hosts=("node0",) * 4)
    rows = torchprof.clocks(ranks).to_dict()
    assert [row["of_ranks"] for row in rows] == [[0, 1, 3], [2]]
    assert abs(rows[1]["ahead"] + 2 * HOURS) <= rows[1]["clock_error"]
    golden(str(torchprof.clocks(ranks)), "clocks_moved.txt")


def test_collectives_that_contradict_each_other_are_told() -> None:
    traces = [meeting_trace(0, [[10, 10], [10, 10]], host="a"), meeting_trace(1, [[10, 10], [10, 10]], host="b")]
    ops = traces[1].ops.copy()
    ops["start"][[4, 7]] += 5 * MS  # in the second step, this clock has gone ahead
    ops["end"][[4, 7]] += 5 * MS
    moved = {**{name: getattr(traces[1], name) for name in traces[1].__dataclass_fields__}, "ops": ops}
    rows = torchprof.clocks(torchprof.Ranks.of([traces[0], torchprof.Trace(**moved)])).to_dict()
    assert rows[1]["contradiction"] == pytest.approx(5 * MS - 2 * 0.9 * MS, abs=2)
    assert 0 <= rows[1]["ahead"] <= 5 * MS
    assert "contradict each other by 3.20 ms" in str(
        torchprof.clocks(torchprof.Ranks.of([traces[0], torchprof.Trace(**moved)]))
    )


def test_what_no_collective_ties_to_the_first_is_unknown_and_not_zero() -> None:
    ranks = torchprof.Ranks.of([meeting_trace(rank, [[10, 10]], host=f"node{rank}", process_groups=[]) for rank in range(2)])
    for trace in ranks:
        trace.strings[trace.strings.index("c10d::allreduce_")] = "aten::sum"
    rows = torchprof.clocks(ranks).to_dict()
    assert (rows[1]["ahead"], rows[1]["clock_error"]) == (None, None)
    text = str(torchprof.clocks(ranks))
    assert "no collective ties node1 to the first" in text
    assert "?" in text


def test_ranks_of_which_no_host_is_known_are_aligned_one_by_one() -> None:
    rows = torchprof.clocks(run(0, HOURS, hosts=(None, None))).to_dict()
    assert [row["name"] for row in rows] == ["rank 0", "rank 1"]
    assert abs(rows[1]["ahead"] - HOURS) <= rows[1]["clock_error"]


def test_one_rank_has_a_clock() -> None:
    assert len(torchprof.clocks(torchprof.Ranks.of([meeting_trace(0, [[10, 10]])]))) == 1


def test_clocks_takes_ranks_only() -> None:
    with pytest.raises(torchprof.ModuleTypeError, match=r"torchprof\.Ranks"):
        torchprof.clocks([])  # type: ignore[arg-type]


def test_show_by_clock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for trace in run(0, HOURS):
        trace.save(f"{tmp_path}/")
    main(["show", str(tmp_path), "--by", "clock", "--json"])
    assert [row["of_ranks"] for row in json.loads(capsys.readouterr().out)] == [[0], [1]]


def pair(first: int) -> dict[str, Any]:
    """The group of two ranks, of which this is the first."""
    return {"name": f"{first}", "description": f"pair {first}", "backend": "gloo", "ranks": [first, first + 1]}


def test_a_clock_that_is_tied_to_the_first_through_another_host_has_the_errors_of_both() -> None:
    # Ranks 0 and 1 reduce together, and ranks 2 and 3; 1 and 2 are on one host, and read one clock.
    came = [[10.0, 14.0, 10.0, 14.0], [14.0, 10.0, 14.0, 10.0]]
    hosts = ((0, "a"), (1, "b"), (2, "b"), (3, "c"))
    ahead = {"a": 0, "b": HOURS, "c": 3 * HOURS}
    ranks = torchprof.Ranks.of(
        [meeting_trace(rank, came, host=host, origin=ahead[host], process_groups=[pair(rank // 2 * 2)]) for rank, host in hosts]
    )
    rows = torchprof.clocks(ranks).to_dict()
    assert [row["of_ranks"] for row in rows] == [[0], [1, 2], [3]]
    assert [row["ahead"] for row in rows] == pytest.approx([0, HOURS, 3 * HOURS], abs=2)
    assert [row["clock_error"] for row in rows] == pytest.approx([0, 0.9 * MS, 1.8 * MS], abs=4)
