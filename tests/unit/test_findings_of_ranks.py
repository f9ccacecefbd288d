"""Findings across ranks: stragglers, and imbalance of work and memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from goldens import Golden
from many_ranks import HOURS, MS, holding, meeting_trace, rank_trace

import torchprof
from torchprof.advice.registry import all_rank_rules
from torchprof.cli.main import main

EVEN = [[10, 10], [10, 10]]


def run(came: list[list[float]]) -> torchprof.Ranks:
    return torchprof.Ranks.of([meeting_trace(rank, came) for rank in range(len(came[0]))])


def balanced(flops: tuple[int, ...], peaks: tuple[int, ...]) -> torchprof.Ranks:
    traces = []
    for rank, (each, peak) in enumerate(zip(flops, peaks, strict=True)):
        made = rank_trace(rank, len(flops), counts_flops=True)
        traces.append(holding(replace(made, signature_flops=np.array([each, -1, -1, -1])), peak))
    return torchprof.Ranks.of(traces)


def test_a_straggler_is_found_with_its_module_and_what_it_is_worth(golden: Golden) -> None:
    found = torchprof.findings(run([[10, 18], [10, 18]]))
    golden(str(found), "findings_of_ranks.txt")
    (finding,) = [each for each in found if each.rule == "straggler"]
    assert finding.module == "fc"
    assert finding.worth is not None
    assert (finding.worth.of, finding.worth.low, finding.worth.high, finding.worth.whole) == ("step time", 0, 8 * MS, 40 * MS)
    assert not finding.worth.measured


def test_ranks_that_come_together_have_no_straggler() -> None:
    found = torchprof.findings(run(EVEN))
    assert not [each for each in found if each.rule == "straggler"]
    assert found.looked_for["straggler"] == "ranks that come late to collectives"


def test_a_rank_that_is_late_by_less_than_a_fiftieth_of_a_step_is_not_worth_a_word() -> None:
    assert not torchprof.findings(run([[10, 10.7], [10, 10.7]]))
    assert torchprof.findings(run([[10, 10.9], [10, 10.9]]))


def test_a_late_begin_of_the_recording_is_no_cost_of_a_step() -> None:
    second = meeting_trace(1, EVEN[:1], origin=6 * MS)
    assert not torchprof.findings(torchprof.Ranks.of([meeting_trace(0, EVEN[:1], runs=8), second]))


def test_of_data_the_advice_is_about_data() -> None:
    traces = [meeting_trace(rank, [[10, 22], [10, 22]]) for rank in range(2)]
    ops, calls = traces[1].ops.copy(), traces[1].module_calls.copy()
    ops["flags"][[0, 3]], ops["module_call"][[0, 3]] = int(torchprof.Phase.DATA) << 4, -1
    calls["end"] = calls["start"]
    (finding,) = torchprof.findings(torchprof.Ranks.of([traces[0], replace(traces[1], ops=ops, module_calls=calls)]))
    assert "mostly by loading data" in finding.what
    assert "num_workers" in finding.advice


def test_a_rank_with_more_flops_is_found() -> None:
    (finding,) = torchprof.findings(balanced((1_000_000, 1_000_000, 4_000_000), (1000, 1000, 1000)))
    assert finding.rule == "imbalance"
    assert finding.what.startswith("Rank 2 computes 2.00 times the mean of all ranks: 12.0 M of 6.00 M FLOPs in a step")
    assert finding.worth is not None
    assert (finding.worth.low, finding.worth.high) == (0, 15 * MS)  # half of the 30 ms in which it computes


def test_a_rank_that_holds_more_is_found() -> None:
    (finding,) = torchprof.findings(balanced((1, 1, 1, 1), (1000, 1000, 1000, 3000)))
    assert finding.what == "Rank 3 holds 2.00 times the mean of all ranks at its peak: 2.9 KiB of 1.5 KiB"
    assert finding.worth is not None
    assert (finding.worth.of, finding.worth.high, finding.worth.whole) == ("peak memory", 1500, 3000)


def test_ranks_that_are_even_are_not_found_and_small_differences_neither() -> None:
    assert not torchprof.findings(balanced((100, 100, 100), (1000, 1000, 1000)))
    assert not torchprof.findings(balanced((1000, 1000, 1060), (1000, 1000, 1060)))


def test_what_cannot_be_told_says_why() -> None:
    found = torchprof.findings(
        torchprof.Ranks.of([rank_trace(rank, 2, aggregate=True, counts_flops=False) for rank in range(2)])
    )
    assert found.not_told["straggler"] == "the recordings were aggregated, which keeps no single collectives"
    assert torchprof.findings(torchprof.Ranks.of([rank_trace(0, 1)])).not_told["imbalance"] == "there is one rank"
    assert set(found.looked_for) | set(found.not_told) == {rule.name for rule in all_rank_rules()}


def test_the_problems_of_ranks_are_said() -> None:
    ranks = torchprof.Ranks.of([meeting_trace(rank, [[10, 10, 18]] * 2) for rank in (0, 2)])
    assert "Ranks: 1 of 3 ranks is missing: 1" in torchprof.findings(ranks).remarks


def test_findings_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for made in run([[10, 18], [10, 18]]):
        made.save(f"{tmp_path}/")
    assert main(["findings", str(tmp_path), "--json"]) == 0
    assert [finding["rule"] for finding in json.loads(capsys.readouterr().out)] == ["straggler"]


def test_ranks_of_which_little_can_be_told_are_not_said_to_be_good() -> None:
    aggregated = [holding(rank_trace(rank, 2, aggregate=True, counts_flops=False), 1000) for rank in range(2)]
    found = torchprof.findings(torchprof.Ranks.of(aggregated))
    first, looked_for, *rest = str(found).splitlines()
    assert first == "Nothing to improve was found in what the recording tells"
    assert looked_for == "Looked for: ranks with more memory than the others"
    assert "Not looked for: imbalance in part (the FLOPs of all ranks are not known)" in rest
    assert "Not looked for: straggler (the recordings were aggregated, which keeps no single collectives)" in rest


def test_findings_of_a_part_stay_where_the_rest_cannot_be_told() -> None:
    found = torchprof.findings(balanced((1, 1), (1000, 3000)))
    assert [each.rule for each in found] == ["imbalance"]
    without = [replace(each, facts={**each.facts, "counts_flops": False}) for each in balanced((1, 1), (1000, 3000))]
    assert [each.rule for each in torchprof.findings(torchprof.Ranks.of(without))] == ["imbalance"]


def test_a_rank_that_is_left_of_several_says_that_the_others_are_missing() -> None:
    found = torchprof.findings(torchprof.Ranks.of([meeting_trace(0, EVEN)]))
    assert found.not_told == {
        "bubbles": "rank 0 alone is there of 2",
        "imbalance": "rank 0 alone is there of 2",
        "straggler": "rank 0 alone is there of 2: who came late takes the others too",
    }
    assert str(found).startswith("The trace does not tell what could be better")


def test_where_ranks_are_missing_a_straggler_is_one_of_those_that_are_there() -> None:
    (finding,) = torchprof.findings(torchprof.Ranks.of([meeting_trace(rank, [[10, 18, 10]] * 2) for rank in (0, 1)]))
    assert finding.what.startswith("Rank 1, of the ranks that are there, came last to 2 of 2 collectives, late by 8.00 ms")


def test_the_finding_and_the_table_say_the_same_of_a_rank() -> None:
    for ranks in (
        run([[10, 18], [10, 18]]),
        torchprof.Ranks.of([meeting_trace(0, EVEN, runs=8), meeting_trace(1, [[10, 18], [10, 18]], origin=6 * MS)]),
        torchprof.Ranks.of([meeting_trace(rank, [[10, 18]] * 3, host=f"node{rank}", origin=HOURS * rank) for rank in range(2)]),
    ):
        (finding,) = [each for each in torchprof.findings(ranks) if each.rule == "straggler"]
        said = finding.what.partition(", mostly")[0]
        assert said.startswith("Rank 1 came last to ")
        assert str(torchprof.stragglers(ranks)).startswith(f"{said} (")


def test_a_rank_that_the_clocks_may_make_late_is_not_found() -> None:
    found = torchprof.findings(torchprof.Ranks.of([meeting_trace(rank, [[10, 10.85]] * 3, host=f"h{rank}") for rank in (0, 1)]))
    assert found.not_told["straggler"] == "the clocks of the ranks may be off by more than they are late by"
    came = [[10, 11.2]] * 3  # of which 0.3 ms are certain: less than a fiftieth of a step
    assert not torchprof.findings(torchprof.Ranks.of([meeting_trace(rank, came, host=f"h{rank}") for rank in (0, 1)]))
    assert torchprof.findings(run(came))


def test_a_cause_is_said_to_be_the_most_of_it_where_it_is() -> None:
    first, second = (meeting_trace(rank, [[10, 30]]) for rank in range(2))
    calls, ops = second.module_calls.copy(), second.ops.copy()
    calls["end"] -= 12 * MS
    ops["end"][0] -= 12 * MS  # fc takes 8 ms longer, and Python after it 12
    (finding,) = torchprof.findings(torchprof.Ranks.of([first, replace(second, ops=ops, module_calls=calls)]))
    assert "mostly by Python outside of ops" in finding.what
    assert finding.details == ("of that, 12.0 ms by Python outside of ops", "of that, 8.00 ms by forward of fc")
