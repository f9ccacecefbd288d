"""`diff`: what is said of two things that are known to the number."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from goldens import Golden
from handwritten import gpu_trace, loop_trace, two_layer_trace
from hypothesis import given
from hypothesis import strategies as st
from stacked import training
from two_runs import LAYERS, OWN, run

import torchprof
from torchprof.comparison.side import BYS
from torchprof.trace.schema import UNKNOWN_FLOPS

STEADY = [{"fc": 100 + at, "act": 50} for at in (0, 2, 1, 3, 2)]
SLOWER = [{"fc": 100 + at, "act": 80} for at in (1, 2, 0, 3, 2)]


def row(diff: torchprof.Diff, name: str) -> dict[str, object]:
    (found,) = (each for each in diff.table.rows if each["name"] == name)
    return found


def total(diff: torchprof.Diff, figure: str) -> dict[str, object]:
    (found,) = (each for each in diff.totals if each["figure"] == figure)
    return found


def test_what_became_slower_is_named_first() -> None:
    found = torchprof.diff(run(STEADY), run(SLOWER))
    first = found.table.rows[0]
    assert (first["name"], first["self_a"], first["self_b"], first["self_difference"]) == ("act", 50, 80, 30)
    assert (first["self_change"], first["verdict"]) == (0.6, "slower")
    assert (first["self_low"], first["self_high"]) == (30, 30), "it does not vary"
    assert row(found, "fc")["verdict"] == "same"
    time = total(found, "time")
    assert (time["a"], time["b"]) == (100 + 1.6 + 50 + OWN, 100 + 1.6 + 80 + OWN)
    assert time["verdict"] == "slower, same ops"


@pytest.mark.parametrize(("act", "verdict"), [(53, "within run-to-run noise"), (60, "slower, same ops")])
def test_a_time_is_slower_where_it_is_by_more_than_runs_of_the_same_code_differ(act: int, verdict: str) -> None:
    """All steps of a run may be a little slower than those of another, though nothing was changed."""
    found = torchprof.diff(run(STEADY), run([{**step, "act": act} for step in STEADY]))
    time = total(found, "time")
    assert time["low"] > 0  # type: ignore[operator]
    assert time["verdict"] == verdict
    assert ("The same ops ran in A and B" in str(found)) == (act == 60)
    assert "are beyond 5%; runs of the same code differ" in str(found)


def test_where_other_work_was_done_it_is_simply_slower() -> None:
    found = torchprof.diff(run(STEADY), run(SLOWER, sizes={"act": 5}))
    assert total(found, "time")["verdict"] == "slower"
    assert "The same ops ran" not in str(found)
    elsewhere = torchprof.diff(run(STEADY, torch="2.0"), run(SLOWER, torch="3.0"))
    assert elsewhere.notes
    assert total(elsewhere, "time")["verdict"] == "slower"


def test_what_varies_is_within_noise() -> None:
    a, b = ([{"fc": fc, "act": 50} for fc in times] for times in ((100, 90, 110, 95, 106), (104, 93, 112, 99, 105)))
    found = torchprof.diff(run(a), run(b))
    assert row(found, "fc")["verdict"] == "within noise"
    assert row(found, "fc")["self_difference"] == pytest.approx(2.4)
    assert len(found.changed) == 0
    assert "By module: nothing changed beyond noise in 3 rows" in str(found)


def test_intervals_of_a_table_hold_together_and_that_of_the_step_alone() -> None:
    a, b = ([{"fc": fc, "act": 50} for fc in times] for times in ((100, 98, 102, 99, 101), (104, 102, 105, 103, 106)))
    found = torchprof.diff(run(a), run(b))
    step, fc = total(found, "time"), row(found, "fc")
    assert step["difference"] == fc["self_difference"] == 4
    assert fc["self_low"] < step["low"] < 4 < step["high"] < fc["self_high"]  # type: ignore[operator]


@pytest.mark.parametrize("steps", [1, 2])
def test_of_few_steps_noise_is_not_known(steps: int) -> None:
    found = torchprof.diff(run(STEADY), run(SLOWER[:steps]))
    assert row(found, "act")["verdict"] == "noise unknown"
    assert row(found, "act")["self_low"] is None
    assert f"Noise of times: not known, B: it has {steps} step" in str(found)


def test_an_aggregated_run_knows_the_noise_of_steps_and_not_of_rows() -> None:
    a = run(STEADY, aggregate=True)
    assert torchprof.diff(a, a).totals[0]["low"] is not None
    assert "self_low" not in torchprof.diff(a, a).table.rows[0] or torchprof.diff(a, a).table.rows[0]["self_low"] is None


def test_a_layer_that_is_added_costs_nothing_before() -> None:
    more = {**LAYERS, "drop": "Dropout"}
    found = torchprof.diff(run(STEADY), run([{**step, "drop": 20} for step in STEADY], more))
    added = row(found, "drop")
    assert (added["how"], added["verdict"], added["self_a"], added["self_b"]) == ("added", "added", 0, 20)
    assert (added["flops_difference"], added["calls_difference"], added["self_change"]) == (4 * 8, 1, None)
    removed = row(torchprof.diff(run([{**step, "drop": 20} for step in STEADY], more), run(STEADY)), "drop")
    assert (removed["how"], removed["self_difference"]) == ("removed", -20)


def test_a_layer_that_is_renamed_says_what_it_was() -> None:
    found = torchprof.diff(
        run(STEADY), run([{"fc": step["fc"], "relu": 50} for step in STEADY], {"fc": "Linear", "relu": "ReLU"})
    )
    renamed = row(found, "relu")
    assert (renamed["how"], renamed["was"], renamed["self_difference"]) == ("renamed", "act", 0)
    assert "renamed from act" in str(found)


def test_flops_and_parameters_have_no_noise() -> None:
    found = torchprof.diff(run(STEADY), run(STEADY, sizes={"fc": 6}))
    assert row(found, "fc")["flops_difference"] == 2 * 8
    assert row(found, "fc")["params_difference"] == 2
    assert total(found, "flops")["change"] == pytest.approx(16 / 64)
    assert [each["name"] for each in found.changed.rows] == ["fc"], "Net has only what is in fc"


def test_what_one_side_does_not_know_is_unknown_and_not_nothing() -> None:
    found = torchprof.diff(run(STEADY), run(STEADY, counts_flops=False))
    flops = total(found, "flops")
    assert (flops["a"], flops["b"], flops["difference"], flops["verdict"]) == (64, None, None, "unknown")
    assert row(found, "fc")["flops_difference"] is None
    (check,) = found.failures("flops > +1%")
    assert "cannot be told" in check.why


def test_ops_are_compared_by_name() -> None:
    found = torchprof.diff(run(STEADY), run(SLOWER), by="op")
    assert found.table.rows[0]["name"] == "aten::relu"
    assert found.table.rows[0]["self_difference"] == 30


def test_kernels_are_compared_by_their_whole_names() -> None:
    found = torchprof.diff(gpu_trace(), gpu_trace(), by="kernel")
    assert len(found) == len(torchprof.by_kernel(gpu_trace()))
    assert {each["verdict"] for each in found.table.rows} == {"same"}


def test_two_files_are_loaded(tmp_path: Path) -> None:
    for name, steps in (("a", STEADY), ("b", SLOWER)):
        run(steps).save(tmp_path / name)
    found = torchprof.diff(tmp_path / "a", tmp_path / "b")
    assert found.table.rows == torchprof.diff(run(STEADY), run(SLOWER)).table.rows
    assert str(found).startswith(f"A: {tmp_path / 'a'}, mean of 5 steps")


def test_what_is_not_the_same_about_two_runs_is_said_before_all_else() -> None:
    a = run(STEADY, torch="2.12.0", devices=["NVIDIA A100"], source="torch.profiler")
    b = run(STEADY, torch="2.13.0", devices=["NVIDIA H100"], source="torch.profiler", aggregate=True)
    assert torchprof.diff(a, b).notes == (
        "Not the same: torch: 2.12.0 in A, 2.13.0 in B",
        "Not the same: GPUs: NVIDIA A100 in A, NVIDIA H100 in B",
        "Not the same: sums only (aggregate=True): no in A, yes in B",
    )


def test_another_batch_is_said_to_be_one() -> None:
    assert torchprof.diff(run(STEADY), run(STEADY, batch=16)).notes == (
        "Not the same: batch 8 in A, 16 in B: figures are per step, not per sample",
    )


def test_a_run_with_steps_and_one_without_are_not_compared_by_what_is_of_a_step() -> None:
    a = run(STEADY)
    b = replace(a, steps=a.steps[:0], facts={**a.facts, "phase_ns": [800, 0, 0, 0, 0, 0]})
    found = torchprof.diff(a, b)
    assert found.notes[0].startswith("NOT COMPARABLE: A is per step, B has no steps")
    assert row(found, "fc")["self_difference"] is None
    assert row(found, "fc")["params_difference"] == 0
    (check,) = found.failures("fc: self > +5%")
    assert "B is of a recording without steps" in check.why


def test_a_step_that_took_much_longer_is_named() -> None:
    odd = [*STEADY, {"fc": 900, "act": 50}]
    assert "A: 1 step took more than 2 times as long as the median, which makes intervals wide: step 5" in str(
        torchprof.diff(run(odd), run(STEADY))
    )


def test_of_many_such_steps_it_is_said_how_many_are_not_named() -> None:
    odd = [*STEADY, *STEADY, *STEADY, *({"fc": 900, "act": 50} for _ in range(10))]
    assert "intervals wide: steps 15, 16, 17, 18, 19 and 5 more" in str(torchprof.diff(run(odd), run(STEADY)))


def left_out(steps: Sequence[Mapping[str, int]], *evaluated: int) -> torchprof.Trace:
    trace = run(steps, evaluation_steps=list(evaluated))
    rows = trace.steps.copy()
    rows["warmup"][list(evaluated)] = 1
    return replace(trace, steps=rows)


def test_means_with_and_without_evaluations_are_not_compared() -> None:
    a, b = left_out(STEADY, 4), run(SLOWER, aggregate=True, evaluation_steps=[4])
    for found, which in ((torchprof.diff(a, b), "BA"), (torchprof.diff(b, a), "AB"), (torchprof.diff(run(STEADY), b), "BA")):
        why = f"steps with an evaluation are in the means of {which[0]}, and none is known in those of {which[1]}"
        for figure in ("time", "forward", "ops", "flops"):
            each = total(found, figure)
            assert (each["difference"], each["verdict"], each["unknown_because"]) == (None, "unknown", why)
            assert None not in (each["a"], each["b"])
        assert row(found, "fc")["self_difference"] is row(found, "fc")["calls_difference"] is None
        assert row(found, "fc")["params_difference"] == 0
        assert "By module: the difference is unknown in 3 rows" in str(found)
        assert "recompute" not in [each["figure"] for each in found.totals], "of which there is none"
        for limit in ("flops > 0%", "time < -50%", "act: self > +1 ms"):
            assert [check.why for check in found.failures(limit)] == [f"it cannot be told: {why}"]
    assert torchprof.diff(a, b).notes[0] == (
        "Not the same: steps of the means in which a model was also evaluated: none known in A, 20.0% in B"
    )


def test_evaluations_that_both_leave_out_or_both_have_are_compared() -> None:
    outside = torchprof.diff(left_out(STEADY, 4), left_out(SLOWER, 3))
    inside = torchprof.diff(*(run(each, aggregate=True, evaluation_steps=[4]) for each in (STEADY, SLOWER)))
    for found in (outside, inside):
        assert found.notes == ()
        assert str(total(found, "time")["verdict"]).startswith("slower")
    part = torchprof.diff(*(run(STEADY, aggregate=True, evaluation_steps=each) for each in ([4], [1, 4])))
    assert part.notes == ("Not the same: steps of the means in which a model was also evaluated: 20.0% in A, 40.0% in B",)
    assert total(part, "time")["verdict"] == "same"


def unknown_flops(trace: torchprof.Trace) -> torchprof.Trace:
    """FLOPs of one op are unknown."""
    flops = trace.signature_flops.copy()
    flops[0] = UNKNOWN_FLOPS
    return replace(trace, signature_flops=flops)


@pytest.mark.parametrize(("sides", "where"), [("A", "A"), ("B", "B"), ("AB", "A and B")])
def test_a_lower_bound_is_one_on_the_sides_of_which_it_is_said(sides: str, where: str) -> None:
    a, b = (unknown_flops(run(STEADY)) if side in sides else run(STEADY) for side in "AB")
    found = torchprof.diff(a, b)
    assert total(found, "flops")["unknown_because"] == f"in {where} it is a lower bound"
    of_a, of_b = ((">= 32" if side in sides else "64") for side in "AB")
    assert f"FLOPs: {of_a} → {of_b}, difference unknown: in {where} it is a lower bound" in str(found)


@pytest.mark.parametrize("by", [None, *BYS])
def test_a_trace_does_not_differ_from_itself(by: str | None) -> None:
    traces = [loop_trace(), gpu_trace(), two_layer_trace(), run(STEADY), training().trace()]
    compared = 0
    for each in traces:
        try:
            found = torchprof.diff(each, each, by=by)  # type: ignore[arg-type]
        except torchprof.ArgumentError:  # not every trace has such rows
            continue
        compared += 1
        assert len(found.changed) == 0
        assert all(each["difference"] in (0, None) for each in found.totals)
        assert {each["how"] for each in found.table.rows} <= {"same"}
    assert compared


def test_two_empty_traces_have_nothing_to_compare() -> None:
    assert "there is nothing to compare" in str(torchprof.diff(torchprof.Trace.empty(), torchprof.Trace.empty()))


times = st.lists(st.fixed_dictionaries({"fc": st.integers(0, 1000), "act": st.integers(0, 1000)}), min_size=1, max_size=6)


@given(times, times)
def test_the_other_way_round_every_difference_has_the_other_sign(a: list[dict[str, int]], b: list[dict[str, int]]) -> None:
    there, back = torchprof.diff(run(a), run(b)), torchprof.diff(run(b), run(a))
    for name in ("fc", "act", "Net"):
        one, other = row(there, name), row(back, name)
        assert one["self_difference"] == pytest.approx(-other["self_difference"])  # type: ignore[operator]
        if one["self_low"] is not None:
            assert (one["self_low"], one["self_high"]) == pytest.approx((-other["self_high"], -other["self_low"]))  # type: ignore[operator]
        opposite = {"slower": "faster", "faster": "slower", "mostly slower": "mostly faster", "mostly faster": "mostly slower"}
        assert one["verdict"] == opposite.get(str(other["verdict"]), other["verdict"])


@given(times, times, st.integers(0, 50))
def test_the_differences_of_rows_add_up_to_that_of_the_step(
    a: list[dict[str, int]], b: list[dict[str, int]], rest: int
) -> None:
    for by in ("module",):
        found = torchprof.diff(run(a), run(b, rest=rest), by=by)
        whole = sum(each["self_difference"] for each in found.table.rows)
        assert whole == pytest.approx(total(found, "time")["difference"])


def test_all_of_it_is_plain_data(tmp_path: Path) -> None:
    found = torchprof.diff(run(STEADY), run(SLOWER))
    data = json.loads(found.to_json(tmp_path / "diff.json"))
    assert data == json.loads((tmp_path / "diff.json").read_text())
    assert set(data) == {"a", "b", "by", "notes", "totals", "rows"}
    assert data["rows"][0]["self_difference"] == 30
    assert found.to_csv().splitlines()[1].startswith("act,act,ReLU,4,same")
    assert "act" in found.table.sort("self_b").select("self_b", "calls_difference").to_csv(printed_only=True)


def test_it_is_a_page_that_needs_nothing_else(tmp_path: Path) -> None:
    layers = {"<b>fc": "Linear", "act": "ReLU"}
    a, b = ([{"<b>fc": step["fc"], "act": step["act"]} for step in steps] for steps in (STEADY, SLOWER))
    torchprof.diff(run(a, layers), run(b, layers, sizes={"<b>fc": 5})).to_html(tmp_path / "diff.html")
    page = (tmp_path / "diff.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "&lt;b&gt;fc" in page
    assert "<b>fc" not in page
    assert "http" not in page


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(torchprof.ModuleTypeError, match="b=5 cannot be compared"):
        torchprof.diff(run(STEADY), 5)
    with pytest.raises(torchprof.ModuleTypeError, match="a is a Trace and b a Memory"):
        torchprof.diff(loop_trace(), torchprof.memory(two_layer_trace()))
    with pytest.raises(torchprof.ArgumentError, match="by='layer' is unknown: use one of 'module'"):
        torchprof.diff(run(STEADY), run(STEADY), by="layer")  # type: ignore[arg-type]
    with pytest.raises(torchprof.ArgumentError, match="a memory is compared by 'category'"):
        torchprof.diff(*[torchprof.memory(two_layer_trace())] * 2, by="op")


def test_accounts_of_memory_are_compared_by_category() -> None:
    one = two_layer_trace()
    rows = one.allocations.copy()
    rows["bytes"] = [3000, 1500, 500]
    other = torchprof.Trace(**{**vars(one), "allocations": rows})
    found = torchprof.diff(torchprof.memory(one), torchprof.memory(other))
    peak = total(found, "peak")
    assert (peak["a"], peak["b"]) == (4000, 4500)
    assert peak["verdict"] == "more"
    assert sum(each["at_peak_difference"] for each in found.table.rows) == 500


def test_the_printed_text(golden: Golden) -> None:
    layers = {"conv": "Conv2d", "relu": "ReLU", "drop": "Dropout"}
    random = np.random.default_rng(0)

    def steps(*means: int) -> list[dict[str, int]]:
        return [
            {name: round(mean * random.normal(1, 0.02)) for name, mean in zip(layers, means, strict=True)} for _ in range(12)
        ]

    a = [{"conv": each["conv"], "act": each["relu"]} for each in steps(400_000, 90_000, 0)]
    b = steps(520_000, 90_000, 30_000)
    found = torchprof.diff(run(a, {"conv": "Conv2d", "act": "ReLU"}), run(b, layers, {"conv": 6}, batch=16))
    golden(str(found), "diff.txt")
