"""Who came last to collectives, and why: `torchprof.stragglers`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from goldens import Golden
from handwritten import gpu_trace
from many_ranks import HOURS, MS, meeting_trace

import torchprof
from torchprof.analysis.distributed.activities import timeline_of
from torchprof.analysis.distributed.straggling import lateness
from torchprof.cli.main import main

CAME = [[10, 10, 18, 10], [10, 10, 18, 10], [12, 10, 10, 10]]
"""Rank 2 is late by 8 ms in two of three steps, and rank 0 by 2 ms in one."""


def run(came: list[list[float]] = CAME, **facts: object) -> torchprof.Ranks:
    return torchprof.Ranks.of([meeting_trace(rank, came, **facts) for rank in range(len(came[0]))])  # type: ignore[arg-type]


def test_the_last_rank_is_named_with_what_it_did_longer_than_the_others(golden: Golden) -> None:
    found = torchprof.stragglers(run())
    golden(str(found), "stragglers.txt")
    first, second = found.causes.to_dict()
    assert (first["rank"], first["phase"], first["module"], first["count"]) == (2, "forward", "fc", 2)
    assert first["late"] == pytest.approx(16 / 3 * MS)
    assert first["share"] == pytest.approx(16 / 3 / 40)
    assert (second["rank"], second["phase"], second["late"]) == (0, "forward", pytest.approx(2 / 3 * MS))
    (row,) = found.collectives.to_dict()
    assert (row["name"], row["calls"], row["last_rank"], row["group"]) == ("all-reduce", 1, 2, "default_pg")
    assert row["last_share"] == pytest.approx(2 / 3)
    assert row["behind"] == pytest.approx(6 * MS)
    assert row["late"] == pytest.approx(6 * MS)


def test_every_collective_tells_who_came_last_and_by_how_much() -> None:
    rows = torchprof.stragglers(run()).every.to_dict()
    assert [(row["step"], row["last_rank"], row["behind"], row["late"]) for row in rows] == [
        (0, 2, 8 * MS, 8 * MS),
        (1, 2, 8 * MS, 8 * MS),
        (2, 0, 2 * MS, 2 * MS),
    ]
    assert all(sum(cause["late"] for cause in row["causes"]) == row["late"] for row in rows)


def test_clocks_that_are_off_by_hours_change_nothing_but_the_error_that_is_stated() -> None:
    came = [[10, 14], [14, 10], [10, 20]]
    ranks = torchprof.Ranks.of([meeting_trace(0, came, host="a"), meeting_trace(1, came, host="b", origin=-5 * HOURS)])
    rows = torchprof.stragglers(ranks).every.to_dict()
    assert [row["last_rank"] for row in rows] == [1, 0, 1]
    assert [row["behind"] for row in rows] == pytest.approx([4 * MS, 4 * MS, 10 * MS], abs=MS)
    assert "b is 5.000 h behind, within 900 us" in str(torchprof.stragglers(ranks))


def asking_again(trace: torchprof.Trace, later: int) -> torchprof.Trace:
    """The same with a second all-reduce in its only step, asked for so much later."""
    ask, run = trace.ops[1:2].copy(), trace.ops[-1:].copy()
    for row in (ask, run):
        row["start"] += later
        row["end"] += later
    return replace(trace, ops=np.concatenate([trace.ops[:2], ask, trace.ops[2:], run]))


def test_a_rank_that_was_late_already_is_not_late_again_where_the_others_did_not_wait() -> None:
    came = [[10, 50]]  # the other asks again before this one asks for the first time
    late = lateness(torchprof.Ranks.of([asking_again(meeting_trace(rank, came, step=100), 5 * MS) for rank in range(2)]))
    assert [(each.rank, each.late) for each in late] == [(1, 40 * MS), (1, 40 * MS)]
    assert [each.new for each in late] == [40 * MS, 0]


def test_a_rank_that_was_waited_for_is_late_again() -> None:
    assert [each.new for each in lateness(run([[10, 30], [10, 30]]))] == [20 * MS, 20 * MS]


def test_a_rank_that_begins_its_first_step_later_is_told() -> None:
    second = meeting_trace(1, [[10, 10], [10, 10]], origin=6 * MS)
    ranks = torchprof.Ranks.of([meeting_trace(0, [[10, 10], [10, 10]], runs=8), second])
    first = torchprof.stragglers(ranks).every.to_dict()[0]
    assert (first["last_rank"], first["late"]) == (1, 6 * MS)
    assert first["causes"] == [{"phase": "before", "module": "", "lines": [], "late": 6 * MS}]
    assert "before: it began its first step later" in str(torchprof.stragglers(ranks))


def test_python_outside_of_all_ops_and_modules_is_a_cause_too() -> None:
    came = [[10, 10], [10, 10]]
    first, second = (meeting_trace(rank, came, runs=5) for rank in range(2))
    ops = second.ops.copy()
    ops["start"][4] += 3 * MS  # it asks later, and runs nothing until then
    ops["end"][4] += 3 * MS
    late = torchprof.stragglers(torchprof.Ranks.of([first, replace(second, ops=ops)])).every.to_dict()[1]
    assert (late["last_rank"], late["late"]) == (1, 3 * MS)
    assert late["causes"] == [{"phase": "other", "module": "", "lines": [], "late": 3 * MS}]


def test_loading_data_is_a_cause() -> None:
    traces = [meeting_trace(rank, [[10, 22], [10, 22]]) for rank in range(2)]
    slow = traces[1]
    calls, ops = slow.module_calls.copy(), slow.ops.copy()
    for step in range(2):  # in place of forward
        ops["flags"][3 * step] = int(torchprof.Phase.DATA) << 4
        ops["module_call"][3 * step] = -1
    calls["end"] = calls["start"]
    found = torchprof.stragglers(torchprof.Ranks.of([traces[0], replace(slow, ops=ops, module_calls=calls)]))
    row = found.causes.to_dict()[0]
    assert (row["rank"], row["phase"], row["module"]) == (1, "data", "")
    assert row["late"] == pytest.approx(12 * MS)


def test_collectives_of_steps_in_which_ranks_differ_are_left_out_and_said() -> None:
    short = meeting_trace(1, [[10, 12], [10, 12]])
    ranks = torchprof.Ranks.of([meeting_trace(0, [[10, 12], [10, 12], [10, 12]]), short])
    found = torchprof.stragglers(ranks)
    assert len(found.every) == 2
    assert "Left out: 1 collective of steps in which ranks of a group asked for different ones" in str(found)


def test_a_group_that_is_not_known_is_said() -> None:
    ranks = run(process_groups=[])
    text = str(torchprof.stragglers(ranks))
    assert text.startswith("No collective of several ranks was recorded that waits for all of them")
    assert "Left out: 12 collectives of which the process group is not known" in text


def test_a_missing_rank_is_named_and_the_others_are_compared() -> None:
    ranks = torchprof.Ranks.of([meeting_trace(rank, CAME) for rank in (0, 1, 2)])
    found = torchprof.stragglers(ranks)
    assert found.causes.to_dict()[0]["rank"] == 2
    assert "Ranks: 1 of 4 ranks is missing: 3" in str(found)


def test_where_all_come_at_once_nobody_was_late() -> None:
    assert str(torchprof.stragglers(run([[10, 10]]))).startswith("No rank was late to any of 1 collective")


def test_the_timeline_of_a_rank_covers_all_of_its_time_once() -> None:
    for trace in (meeting_trace(0, CAME), gpu_trace()):
        timeline = timeline_of(trace)
        assert (timeline.start[1:] >= timeline.end[:-1]).all()
        duration = int(trace.facts["duration_ns"])
        assert sum(timeline.between(0, duration).values()) == duration


def test_of_a_device_what_its_kernels_were_launched_for_counts() -> None:
    timeline = timeline_of(gpu_trace())
    found = timeline.between(75_000, 175_000)
    assert {(each.phase, each.module): time for each, time in found.items()} == {("forward", "fc"): 100_000}


@pytest.mark.parametrize("facts", [{"aggregate": True}, {"ops": False}])
def test_recordings_without_single_ops_are_refused(facts: dict[str, bool]) -> None:
    with pytest.raises(torchprof.ArgumentError, match="record with"):
        torchprof.stragglers(run(**facts))


def test_stragglers_takes_ranks_only() -> None:
    with pytest.raises(torchprof.ModuleTypeError, match=r"torchprof\.Ranks"):
        torchprof.stragglers(meeting_trace(0, CAME))  # type: ignore[arg-type]


def test_stragglers_in_a_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for trace in run():
        trace.save(f"{tmp_path}/")
    main(["stragglers", str(tmp_path)])
    assert capsys.readouterr().out == f"{torchprof.stragglers(torchprof.load(tmp_path))}\n"
    main(["stragglers", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"causes", "collectives", "every", "clocks", "remarks"}
    assert found["causes"][0]["rank"] == 2
    assert main(["stragglers", str(tmp_path / "rank-0000-of-0004.torchprof")]) == 1
    assert "give the folder with the files of all ranks" in capsys.readouterr().err


def test_of_many_ranks_the_last_is_compared_with_those_near_the_median() -> None:
    came = [[10.0 + (rank % 3) for rank in range(20)]]
    came[0][7] = 30.0
    (late,) = lateness(run(came))
    assert late.rank == 7
    assert late.late == 19 * MS
    assert np.isclose(sum(late.causes.values()), late.new)
