"""For how long the stages of a pipeline idle, and why: `torchprof.bubbles`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from goldens import Golden
from handwritten import FORWARD, trace
from many_ranks import (
    BACKWARD,
    FIRST_STAGE,
    LAST_STAGE,
    MS,
    OF_FIRST,
    OF_LAST,
    TWO_STAGES,
    rank_trace,
    stage_trace,
    two_stages,
)

import torchprof
from torchprof.analysis.distributed.bubble_records import ideal_bubble
from torchprof.analysis.distributed.pipelines import Pipeline, pipelines_of
from torchprof.cli.main import main

CAUSES = ("warm_up", "drain", "waits_input", "waits_gradient", "rest")


def bubbles_of(traces: list[torchprof.Trace]) -> list[dict[str, Any]]:
    """The rows, in ms."""
    rows = torchprof.bubbles(torchprof.Ranks.of(traces)).to_dict()
    times = ("batch", "worked", "bubble", *CAUSES, "unseen")
    return [{**row, **{name: row[name] / MS if row[name] is not None else None for name in times}} for row in rows]


def causes_of(row: dict[str, Any]) -> dict[str, float]:
    return {name: row[name] for name in CAUSES if row[name]}


def test_a_bubble_divides_into_its_causes(golden: Golden) -> None:
    first, last = bubbles_of(two_stages(steps=2))
    assert (first["batch"], first["worked"], first["bubble"]) == (46, 24, 22)
    assert causes_of(first) == {"warm_up": 7, "drain": 4 + 6, "waits_gradient": 4, "rest": 1}
    assert (last["batch"], last["worked"], last["bubble"]) == (46, 41, 5)
    assert causes_of(last) == {"warm_up": 2, "drain": 3}
    assert first["bubble_share"] == pytest.approx(22 / 46)
    assert first["ideal"] == last["ideal"] == pytest.approx(1 / 5)
    golden(str(torchprof.bubbles(torchprof.Ranks.of(two_stages(steps=2)))), "bubbles.txt")


def test_stages_that_take_equally_long_have_the_ideal_bubble_and_wait_for_none() -> None:
    first = [
        *[("forward", 0, 1), ("forward", 1, 2), ("backward", 4, 6), ("forward", 6, 7), ("backward", 7, 9)],
        *[("forward", 9, 10), ("backward", 10, 12), ("backward", 13, 15)],
    ]
    of_first = [("receive", 2, 4), ("receive", 6, 7), ("receive", 9, 10), ("receive", 12, 13)]
    last = [
        *[("forward", 1, 2), ("backward", 2, 4), ("forward", 4, 5), ("backward", 5, 7)],
        *[("forward", 7, 8), ("backward", 8, 10), ("forward", 10, 11), ("backward", 11, 13)],
    ]
    rows = bubbles_of(
        [
            stage_trace(rank, works, messages, pipelines=[{**TWO_STAGES, "stages": [rank]}])
            for rank, (works, messages) in enumerate([(first, of_first), (last, [("receive", 0, 1)])])
        ]
    )
    assert [row["bubble_share"] for row in rows] == pytest.approx([1 / 5, 1 / 5])
    assert [row["ideal"] for row in rows] == pytest.approx([1 / 5, 1 / 5])
    assert [causes_of(row) for row in rows] == [{"warm_up": 2, "drain": 1}, {"warm_up": 1, "drain": 2}]


def test_of_all_forwards_before_all_backwards_gradients_are_waited_for_by_the_faster_stage() -> None:
    works = [("forward", 0, 2), ("forward", 2, 4), ("backward", 10, 12), ("backward", 15, 17)]
    told = {"pipelines": [{**TWO_STAGES, "schedule": "ScheduleGPipe", "stages": [0]}]}
    (row,) = bubbles_of([stage_trace(0, works, [("receive", 4, 10), ("receive", 12, 15)], **told)])
    assert causes_of(row) == {"warm_up": 6, "waits_gradient": 3}


def test_a_stage_that_only_runs_forward_waits_for_the_one_before() -> None:
    works, messages = [("forward", 3, 4), ("forward", 7, 8)], [("receive", 0, 3), ("receive", 4, 7)]
    (row,) = bubbles_of([stage_trace(0, works, messages, pipelines=[{**TWO_STAGES, "stages": [0]}])])
    assert (row["batch"], causes_of(row)) == (5, {"waits_input": 3})


def test_who_sends_to_whom_tells_the_stages() -> None:
    ranks = torchprof.Ranks.of(two_stages(is_told=False))
    assert pipelines_of(ranks) == (Pipeline((0, 1), None, 4, is_told=False),)
    told, found = (torchprof.bubbles(torchprof.Ranks.of(two_stages(is_told=each))).to_dict() for each in (True, False))
    assert found == told
    assert "Stages: told by who sends to whom" in str(torchprof.bubbles(ranks))


def test_a_stage_between_two_others_sends_to_both_and_is_between_them() -> None:
    works = [
        [("forward", 0, 1), ("backward", 5, 6)],
        [("forward", 1, 2), ("backward", 4, 5)],
        [("forward", 2, 3), ("backward", 3, 4)],
    ]
    messages = [
        [("send", 1, 1), ("receive", 1, 5)],
        [("receive", 0, 1), ("send", 2, 2), ("receive", 2, 4), ("send", 5, 5)],
        [("receive", 0, 2), ("send", 4, 4)],
    ]
    traces = [stage_trace(rank, works[rank], messages[rank], world=3) for rank in range(3)]
    assert [pipeline.ranks for pipeline in pipelines_of(torchprof.Ranks.of(traces))] == [(0, 1, 2)]
    rows = bubbles_of(traces)
    assert [causes_of(row) for row in rows] == [{"warm_up": 4}, {"warm_up": 1 + 2, "drain": 1}, {"warm_up": 2, "drain": 2}]
    assert [row["bubble_share"] for row in rows] == pytest.approx([row["ideal"] for row in rows])


def test_the_first_stage_need_not_be_the_first_rank() -> None:
    first, last = two_stages(is_told=False)
    swapped = [replace(last, facts={**last.facts, "rank": 0}), replace(first, facts={**first.facts, "rank": 1})]
    assert pipelines_of(torchprof.Ranks.of(swapped))[0].ranks == (1, 0)


def test_of_several_pipelines_the_ranks_of_one_are_in_a_small_group() -> None:
    group = {"description": "mesh_pp", "backend": "gloo"}
    traces = []
    for rank in range(4):
        works, messages = [(FIRST_STAGE, OF_FIRST), (LAST_STAGE, OF_LAST)][rank // 2]
        groups = [{**group, "name": "0", "ranks": [0, 1, 2, 3]}, {**group, "name": "1", "ranks": [rank % 2, rank % 2 + 2]}]
        traces.append(stage_trace(rank, works, messages, world=4, process_groups=groups))
    assert [pipeline.ranks for pipeline in pipelines_of(torchprof.Ranks.of(traces))] == [(0, 2), (1, 3)]
    table = torchprof.bubbles(torchprof.Ranks.of(traces))
    assert [(row["pipeline"], row["stage"]) for row in table.to_dict()] == [(0, [0]), (0, [1]), (1, [0]), (1, [1])]
    assert "Slowest stage of pipeline 1: 1 (rank 3)" in str(table)


def test_messages_that_cannot_be_the_same_make_no_pipeline() -> None:
    first, last = two_stages(is_told=False)
    early = replace(last, facts={**last.facts, "origin_unix_ns": last.facts["origin_unix_ns"] - 10 * MS})
    for other in (rank_trace(1, 2), stage_trace(1, LAST_STAGE, OF_LAST[1:]), early):
        assert pipelines_of(torchprof.Ranks.of([first, other])) == ()
    table = torchprof.bubbles(torchprof.Ranks.of([last]))
    assert not len(table)
    assert "No pipeline: " in str(table)


def test_times_are_by_one_clock_and_what_was_not_recorded_is_said() -> None:
    first, last = two_stages()
    late = stage_trace(1, LAST_STAGE, OF_LAST, began=1, pipelines=[{**TWO_STAGES, "stages": [1]}])
    assert bubbles_of([first, late])[0] == bubbles_of([first, last])[0]
    late_row = bubbles_of([first, late])[1]
    assert causes_of(late_row) == {"warm_up": 2, "drain": 3}
    assert late_row["unseen"] == 1
    said = "Warm-up, Drain: 1.00 ms of a step are before or after what rank 1 recorded, and are taken to be idle"
    assert said in str(torchprof.bubbles(torchprof.Ranks.of([first, late])))
    short = replace(last, facts={**last.facts, "duration_ns": 43 * MS})
    assert bubbles_of([first, short])[1]["unseen"] == 3


def test_python_between_microbatches_is_the_rest_and_other_work_is_none() -> None:
    busy = [("forward", 0, 2), ("optimizer", 3, 5), ("forward", 6, 8)]
    (row,) = bubbles_of([stage_trace(0, busy, pipelines=[{**TWO_STAGES, "stages": [0]}])])
    assert (row["batch"], row["worked"]) == (8, 6)
    assert causes_of(row) == {"rest": 2}


def test_what_comes_while_a_stage_works_holds_up_nothing() -> None:
    works = [("forward", 0, 2), ("forward", 4, 6), ("backward", 8, 10)]
    messages = [("receive", 0, 1), ("receive", 1, 3), ("receive", 5, 9)]  # the last one is there only after the backward began
    (row,) = bubbles_of([stage_trace(0, works, messages, pipelines=[{**TWO_STAGES, "stages": [0]}])])
    assert causes_of(row) == {"waits_input": 1, "rest": 1 + 2}


def test_a_backend_that_tells_not_when_it_sends_leaves_waiting_unknown() -> None:
    traces = two_stages()
    for each in traces:
        each.strings[4:] = ["something", "else"]
    first, last = bubbles_of(traces)
    assert (first["waits_input"], first["waits_gradient"], first["rest"]) == (None, None, None)
    assert (last["warm_up"], last["drain"], last["bubble"]) == (2, 3, 5)
    assert "?: the backend of a message tells not when it runs" in str(torchprof.bubbles(torchprof.Ranks.of(traces)))


def device_stage(**facts: Any) -> torchprof.Trace:
    """A stage on a device: forward, a receive that no op launched, backward, and an all-to-all, sent by the same kernel."""
    names = ["aten::mm", "c10d::recv_", "c10d::alltoall_base_", "sgemm", "ncclDevKernel_SendRecv"]
    ops = [
        {"name": 0, "start": 0, "end": 1, "flags": FORWARD},
        {"name": 1, "start": 2, "end": 3},
        {"name": 0, "start": 4, "end": 5, "flags": BACKWARD},
        {"name": 2, "start": 6, "end": 7},
        {"name": 0, "start": 8, "end": 9, "flags": BACKWARD},
    ]
    forward, backward = FORWARD >> 4, BACKWARD >> 4
    kernels = [
        {"name": 3, "start": 10, "end": 20, "op": 0, "phase": forward},
        {"name": 4, "start": 22, "end": 40, "op": -1, "stream": 2},
        {"name": 3, "start": 41, "end": 60, "op": 2, "phase": backward},
        {"name": 4, "start": 60, "end": 70, "op": 3, "stream": 2},
        {"name": 3, "start": 70, "end": 80, "op": 4, "phase": backward},
    ]
    facts = {"duration_ns": 100, "gpu": "cupti", "ops": True, "rank": 0, "world_size": 2, "host": "a", **facts}
    steps = [{"start": 0, "end": 100, "busy": 1, "kernels": len(kernels)}]
    return trace(strings=names, ops=ops, kernels=kernels, steps=steps, facts=facts)


def test_of_a_device_kernels_compute_and_send() -> None:
    (row,) = torchprof.bubbles(torchprof.Ranks.of([device_stage(pipelines=[{**TWO_STAGES, "stages": [0]}])])).to_dict()
    assert (row["batch"], row["worked"], row["bubble"]) == (70, 39, 31)
    assert (row["warm_up"], row["waits_input"], row["rest"]) == (18, 0, 2 + 1 + 10)


@pytest.mark.parametrize(
    ("ranks", "schedule", "microbatches", "ideal"),
    [
        ((0, 1, 2, 3), "Schedule1F1B", 4, 3 / 7),
        ((0, 1, 2, 3), "ScheduleGPipe", 12, 3 / 15),
        ((0, 1, 0, 1), "ScheduleInterleaved1F1B", 4, 1 / 9),
        ((0, 1), None, 1, 1 / 2),
        ((0, 1), "Schedule1F1B", None, None),
        ((0, 1, 1, 0), "ScheduleZBVZeroBubble", 4, None),
        ((0, 1, 0), "ScheduleInterleaved1F1B", 4, None),
    ],
)
def test_the_ideal_bubble_is_that_of_the_schedule(
    ranks: tuple[int, ...], schedule: str | None, microbatches: int | None, ideal: float | None
) -> None:
    assert ideal_bubble(Pipeline(ranks, schedule, microbatches, is_told=True)) == (pytest.approx(ideal) if ideal else None)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"microbatches": None}, "the ideal is not told, as the number of microbatches is not known"),
        ({"schedule": "ScheduleZBVZeroBubble"}, "the ideal is not told, as there is no formula for ScheduleZBVZeroBubble"),
    ],
)
def test_why_the_ideal_bubble_is_not_told(said: dict[str, Any], line: str) -> None:
    traces = [stage_trace(0, FIRST_STAGE, pipelines=[{**TWO_STAGES, "stages": [0], **said}])]
    assert line in str(torchprof.bubbles(torchprof.Ranks.of(traces)))


def test_several_stages_of_a_rank_are_one_row() -> None:
    of = {"ranks": [0, 1, 0, 1], "schedule": "ScheduleInterleaved1F1B", "microbatches": 2}
    traces = [
        stage_trace(rank, works, pipelines=[{**of, "stages": [rank, rank + 2]}])
        for rank, works in enumerate([FIRST_STAGE, LAST_STAGE])
    ]
    table = torchprof.bubbles(torchprof.Ranks.of(traces))
    assert [row["stage"] for row in table.to_dict()] == [[0, 2], [1, 3]]
    assert "ideal 20.0%, with 2 ranks with 2 stages each and 2 microbatches" in str(table)


def test_a_rank_that_is_missing_is_said_and_the_others_are_analyzed() -> None:
    table = torchprof.bubbles(torchprof.Ranks.of(two_stages()[:1]))
    assert [row["rank"] for row in table.to_dict()] == [0]
    assert "1 of 2 ranks is missing: 1" in str(table)


def test_ranks_that_work_in_no_step_together_have_no_figures() -> None:
    first, last = two_stages()
    idle = replace(last, ops=last.ops[:0], op_stacks=last.op_stacks[:0])
    rows = torchprof.bubbles(torchprof.Ranks.of([first, idle])).to_dict()
    assert [row["bubble"] for row in rows] == [None, None]
    assert str(torchprof.bubbles(torchprof.Ranks.of([first, idle])))


def test_warm_up_steps_do_not_count() -> None:
    traces = []
    for each in two_stages(steps=3):
        steps = each.steps.copy()
        steps["warmup"][0] = 1
        traces.append(replace(each, steps=steps))
    assert bubbles_of(traces) == bubbles_of(two_stages(steps=2))
    assert bubbles_of([replace(each, steps=each.steps[:0]) for each in two_stages()]) == bubbles_of(two_stages())


def test_findings_name_the_bubble_and_the_slowest_stage(golden: Golden) -> None:
    found = torchprof.findings(torchprof.Ranks.of(two_stages(steps=2)))
    golden(str(found), "findings_of_bubbles.txt")
    (finding,) = [each for each in found if each.rule == "bubbles"]
    assert finding.worth is not None
    assert (finding.worth.high, finding.worth.whole, finding.worth.measured) == (13.5 * MS, 50 * MS, False)
    assert "stage 1 (rank 1) has most to do itself: 41.0 ms of a step, and the others 25.0 ms" in finding.details


def test_advice_is_for_the_largest_cause() -> None:
    def advice(works: list[tuple[str, float, float]], messages: list[tuple[str, float, float]]) -> str:
        both = [stage_trace(rank, works, messages, pipelines=[{**TWO_STAGES, "stages": [rank]}]) for rank in range(2)]
        (found,) = torchprof.findings(torchprof.Ranks.of(both))
        return found.advice

    works = [("forward", 0, 2), ("forward", 10, 12)]
    assert "Python" in advice(works, [])
    assert "Move layers" in advice(works, [("receive", 2, 10)])
    (found,) = torchprof.findings(
        torchprof.Ranks.of([stage_trace(0, [("forward", 0, 20)], pipelines=[{**TWO_STAGES, "stages": [0]}]), two_stages()[1]])
    )
    assert "more microbatches" in found.advice


def test_how_long_a_rank_idles_is_not_told_of_one_alone() -> None:
    found = torchprof.findings(torchprof.Ranks.of([two_stages()[1]]))
    assert found.not_told["bubbles"] == "rank 1 alone is there of 2"


def test_nothing_is_found_where_there_is_no_pipeline() -> None:
    found = torchprof.findings(torchprof.Ranks.of([rank_trace(rank, 2) for rank in range(2)]))
    assert found.looked_for["bubbles"] == "stages of a pipeline that idle"
    assert not [each for each in found if each.rule == "bubbles"]
    summed = torchprof.findings(torchprof.Ranks.of([rank_trace(rank, 2, aggregate=True) for rank in range(2)]))
    assert "aggregated" in summed.not_told["bubbles"]


def test_bubbles_refuses_sums_and_what_are_no_ranks() -> None:
    with pytest.raises(torchprof.ArgumentError, match="aggregate"):
        torchprof.bubbles(torchprof.Ranks.of([rank_trace(0, 1, aggregate=True)]))
    with pytest.raises(torchprof.ModuleTypeError, match="Ranks"):
        torchprof.bubbles(rank_trace(0))  # type: ignore[arg-type]


def test_show_by_bubble(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for each in two_stages():
        each.save(f"{tmp_path}/run/")
    assert main(["show", f"{tmp_path}/run", "--by", "bubble", "--json"]) == 0
    assert [row["bubble"] for row in json.loads(capsys.readouterr().out)] == [22 * MS, 5 * MS]


def test_info_tells_the_stage_of_a_rank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "rank.torchprof")
    two_stages()[1].save(file)
    assert main(["info", file]) == 0
    assert "stage 1 of 2, Schedule1F1B" in capsys.readouterr().out
    assert main(["info", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pipelines"] == [{**TWO_STAGES, "stages": [1]}]


def test_the_facts_of_a_pipeline_are_kept_and_looked_at(tmp_path: Path) -> None:
    first = two_stages()[0]
    first.save(tmp_path / "good.torchprof")
    assert torchprof.load(tmp_path / "good.torchprof").facts["pipelines"] == first.facts["pipelines"]
    for wrong in ({"pipelines": [{"ranks": "0-1"}]}, {"groups_of_wrappers": [3]}):
        replace(first, facts={**first.facts, **wrong}).save(tmp_path / "wrong.torchprof")
        with pytest.raises(torchprof.TraceFileError, match="facts"):
            torchprof.load(tmp_path / "wrong.torchprof")
