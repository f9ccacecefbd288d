"""Findings across ranks: stragglers, and imbalance of work and memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from goldens import Golden
from many_ranks import MS, holding, meeting_trace, rank_trace

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
