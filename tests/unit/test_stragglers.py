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


def test_a_rank_that_begins_its_first_step_later_is_told_and_in_no_figure_of_a_step() -> None:
    second = meeting_trace(1, [[10, 10]], origin=6 * MS)
    found = torchprof.stragglers(torchprof.Ranks.of([meeting_trace(0, [[10, 10]], runs=8), second]))
    first = found.every.to_dict()[0]
    assert (first["last_rank"], first["behind"], first["before"], first["late"]) == (1, 6 * MS, 6 * MS, 0)
    assert first["causes"] == []
    assert len(found.causes) == 0
    text = str(found)
    assert "Began their first step later than the others: rank 1 by 6.00 ms; that happens once" in text
    assert text.startswith("Rank 1 came last to 1 of 1 collective, and was newly late to none")


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
    assert set(found) == {"ranks", "causes", "collectives", "every", "clocks", "remarks"}
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


def on_hosts(came: list[list[float]], *hosts: str, **facts: object) -> torchprof.Ranks:
    """Ranks on these hosts, each an hour ahead of the one before."""
    names = list(dict.fromkeys(hosts))
    return torchprof.Ranks.of(
        [
            meeting_trace(rank, came, host=host, origin=names.index(host) * HOURS, **facts)  # type: ignore[arg-type]
            for rank, host in enumerate(hosts)
        ]
    )


def test_of_ranks_that_recorded_other_steps_figures_are_means_of_those_that_were_matched() -> None:
    came = [[10, 18], [10, 18], [10, 18], [10, 18]]
    found = torchprof.stragglers(torchprof.Ranks.of([meeting_trace(0, came), meeting_trace(1, came[:2])]))
    assert [row["behind"] for row in found.every.to_dict()] == [8 * MS, 8 * MS]
    assert found.causes.to_dict()[0]["late"] == 8 * MS
    assert "late by 8.00 ms of a step" in str(found)
    assert found.collectives.to_dict()[0]["calls"] == 1


def test_steps_in_which_nothing_was_sent_count() -> None:
    traces = [meeting_trace(rank, [[10, 18], [10, 18]]) for rank in range(2)]
    traces = [
        replace(each, ops=np.delete(each.ops, [1, 6])) for each in traces
    ]  # the all-reduce of the first step, and its range
    found = torchprof.stragglers(torchprof.Ranks.of(traces))
    assert [row["step"] for row in found.every.to_dict()] == [1]
    assert found.to_dict()["ranks"][0]["late"] == pytest.approx(4 * MS)


def test_waiting_for_a_collective_is_no_cause_and_hides_none() -> None:
    # Each comes last once, and waits at the others. What it did longer is forward, and not the Python in which it waited.
    found = torchprof.stragglers(run([[18, 10, 10], [10, 18, 10], [10, 10, 19]])).causes.to_dict()
    assert sum(row["late"] for row in found if row["phase"] != "forward") < 0.02 * MS
    # The second is in Python for 12 ms before it asks, in both steps. The first waits for as long after it asked.
    first, second = (meeting_trace(rank, [[10, 22], [10, 22]]) for rank in range(2))
    ops, calls = second.ops.copy(), second.module_calls.copy()
    for rows, of in ((ops, [0, 3]), (calls, [0, 1, 2, 3])):
        rows["end"][of] -= 12 * MS
    found = torchprof.stragglers(torchprof.Ranks.of([first, replace(second, ops=ops, module_calls=calls)])).causes.to_dict()
    assert (found[0]["phase"], found[0]["count"]) == ("other", 2)
    assert found[0]["late"] == pytest.approx(12 * MS, abs=0.1 * MS)


def test_the_parts_of_what_a_rank_is_late_by_are_that() -> None:
    for ranks in (run(), on_hosts(CAME, "a", "a", "b", "b"), run([[10, 18, 11], [10, 18, 13]])):
        found = torchprof.stragglers(ranks)
        of_ranks = {row["rank"]: row["late"] for row in found.to_dict()["ranks"]}
        for rank, late in of_ranks.items():
            assert sum(row["late"] for row in found.causes.to_dict() if row["rank"] == rank) == pytest.approx(late)
        assert sum(row["late"] for row in found.collectives.to_dict()) == pytest.approx(sum(of_ranks.values()))
        for row in found.every.to_dict():
            assert sum(cause["late"] for cause in row["causes"]) == row["late"] <= row["behind"]


def test_where_causes_take_longer_than_the_rank_is_late_each_is_a_part_of_that() -> None:
    first, second = (meeting_trace(rank, [[10, 18]]) for rank in range(2))
    ops, calls = second.ops.copy(), second.module_calls.copy()
    ops["start"][0] += 2 * MS  # 15 ms of fc's 17 are of its op, and all of them are 8 ms later than 9 ms
    late = lateness(torchprof.Ranks.of([first, replace(second, ops=ops, module_calls=calls)]))[0]
    assert sum(late.causes.values()) == late.new == 8 * MS


def test_a_constant_straggler_on_another_host_is_as_late_as_on_the_same() -> None:
    ranks = on_hosts([[10, 18]] * 4, "a", "b")
    found = torchprof.stragglers(ranks)
    (row,) = found.to_dict()["ranks"]
    assert (row["rank"], row["count"], row["late"]) == (1, 4, 8 * MS)
    assert row["late_error"] == pytest.approx(0.9 * MS, abs=2), "it runs for so long when all are there"
    assert str(found).startswith("Rank 1 came last to 4 of 4 collectives, late by 8.00 ms ± 900 us of a step (20.0% of it)")
    assert found.causes.to_dict()[0]["late_error"] == pytest.approx(row["late_error"])
    assert "±: by how much the clocks may be off in that" in str(found)
    assert "±" not in str(torchprof.stragglers(run([[10, 18]] * 4)))


def test_what_the_error_of_the_clocks_could_overturn_is_not_claimed() -> None:
    found = torchprof.stragglers(on_hosts([[10, 10.5]] * 3, "a", "b"))
    assert str(found).startswith("Who came last to 3 collectives is not told by the clocks")
    said = "Not told: which of ranks 0-1 came last to 3 collectives: they came nearer to each other than the clocks may be off"
    assert said in str(found)
    assert found.to_dict()["ranks"] == []
    (row,) = found.collectives.to_dict()
    assert (row["last_rank"], row["last_share"], row["behind"], row["late"]) == (None, None, None, None)
    assert not any(row["told"] for row in found.every.to_dict())


def test_two_late_ranks_whose_clocks_do_not_tell_them_apart_are_both_named() -> None:
    found = torchprof.stragglers(on_hosts([[10, 10, 30, 30.2]] * 2, "a", "a", "b", "c"))
    assert found.to_dict()["ranks"] == []
    assert [row["rivals"] for row in found.every.to_dict()] == [[2], [2]]
    assert "Not told: which of ranks 2-3 came last to 2 collectives: they came nearer to each other" in str(found)


def test_which_of_two_ranks_is_late_by_more_is_claimed_beyond_their_errors_alone() -> None:
    said = "Which of rank {} and rank {} is late by more is not told"
    near = torchprof.stragglers(on_hosts([[10, 18, 10], [10, 10, 18.5]] * 2, "a", "b", "c"))
    assert said.format(2, 1) in str(near)
    far = torchprof.stragglers(on_hosts([[10, 18, 10], [10, 10, 28]] * 2, "a", "b", "c"))
    assert said.format(2, 1) not in str(far)
    assert said.format(2, 1) not in str(torchprof.stragglers(run([[10, 18, 10], [10, 10, 18.5]] * 2)))


def test_where_nothing_ties_the_clocks_of_two_hosts_nobody_is_last() -> None:
    ranks = torchprof.Ranks.of([meeting_trace(rank, [[10, 18]] * 2, host=f"node{rank}") for rank in range(2)])
    for trace in ranks:
        trace.strings[trace.strings.index("gloo:all_reduce")] = "of another backend"
    found = torchprof.stragglers(ranks)
    assert str(found).startswith("Who came last to 2 collectives is not told by the clocks")
    assert [row["late_error"] for row in found.every.to_dict()] == [None, None]


@pytest.mark.parametrize(("later", "count"), [(0.0005, 0), (0.001, 0), (0.002, 1)])
def test_ranks_that_come_within_a_microsecond_come_together(later: float, count: int) -> None:
    found = torchprof.stragglers(run([[10, 10 + later]]))
    assert len(found.to_dict()["ranks"]) == count
    assert ("No rank was late to any of 1 collective" in str(found)) == (not count)


def test_where_one_rank_is_left_it_says_that_the_others_are_missing() -> None:
    alone = torchprof.stragglers(torchprof.Ranks.of([meeting_trace(1, [[10, 18, 10]] * 2)]))
    assert str(alone).startswith("Rank 1 alone is there of 3: who came late takes the others too")
    assert "Left out: 2 collectives of groups of which one rank alone is there" in str(alone)
    pairs = [[0, 1], [2, 3]]
    groups = [{"name": f"{at}", "description": f"pair {at}", "backend": "gloo", "ranks": pair} for at, pair in enumerate(pairs)]
    of_each = [meeting_trace(rank, [[10] * 4], process_groups=[groups[rank // 2]]) for rank in (1, 2)]
    text = str(torchprof.stragglers(torchprof.Ranks.of(of_each)))
    assert text.startswith("Of every group, one rank alone is there, of ranks 1-2 of 4")
    only = torchprof.stragglers(torchprof.Ranks.of([meeting_trace(0, [[10]])]))
    assert str(only).startswith("There is one rank, which waits for no other")


def test_of_a_group_with_a_missing_rank_it_is_said_that_this_one_may_have_come_last() -> None:
    found = str(torchprof.stragglers(torchprof.Ranks.of([meeting_trace(rank, CAME) for rank in (0, 1, 2)])))
    assert "Of 3 collectives, ranks of the group are missing: one of them may have come last" in found
    assert "one of them may have come last" not in str(torchprof.stragglers(run()))
