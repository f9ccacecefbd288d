"""The baseline: what is written, what is compared, how far figures may be apart, and what is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from goldens import Golden

from torchprof.errors import ArgumentError
from torchprof.integrations.pytest_plugin.baseline import drift, entry_of, read, write
from torchprof.integrations.pytest_plugin.tolerance import Tolerances

EXACT = Tolerances()


def result(**figures: Any) -> dict[str, Any]:
    known = {"peak": 4096, "saved": 1024, "flops": 1000, "ops": 5, "kernels": None, "syncs": None, "params": 12}
    by_op = {"aten::mm": [2, 1000], "aten::relu": [3, None]}
    return {"torch": "2.13.0", "device": "cpu", **known, "why": {"kernels": "no GPU"}, "by_op": by_op, "note": "", **figures}


def drifted(now: dict[str, Any], tolerances: Tolerances = EXACT, before: dict[str, Any] | None = None) -> list[str]:
    return list(drift(entry_of(before or result()), now, tolerances))


def test_the_same_figures_are_no_drift() -> None:
    assert drifted(result()) == []


def test_more_and_less_are_drift_to_the_byte() -> None:
    assert drifted(result(peak=4097)) == ["peak: 4.0 KiB (4,096 B) in the baseline, and 4.0 KiB (4,097 B) now, +0.0%"]
    assert drifted(result(saved=512)) == ["bytes saved for backward: 1.0 KiB (1,024 B) in the baseline, and 512 B now, -50.0%"]


def test_a_tolerance_is_a_part_of_the_baseline() -> None:
    tolerances = Tolerances.parse(["1%", "peak=10%"])
    assert drifted(result(peak=4500, flops=1010), tolerances) == []
    (said,) = drifted(result(peak=4506), tolerances)
    assert said.endswith("(tolerance 10.00%)")
    assert drifted(result(flops=1011), tolerances) != []


def test_what_was_zero_may_not_become_more() -> None:
    assert drifted(result(ops=1), before=result(ops=0)) != []


def test_a_figure_that_is_known_on_one_side_only_is_drift() -> None:
    assert drifted(result(kernels=7, why={})) == ["kernels: unknown in the baseline, and 7 now"]
    (said,) = drifted(result(), before=result(kernels=7, why={}))
    assert said == "kernels: 7 in the baseline, and unknown now: no GPU"


def test_flops_of_which_some_are_unknown_are_not_compared_as_if_they_were_known() -> None:
    (said,) = drifted(result(why={"flops": "those of my::op are unknown"}))
    assert said.startswith("FLOPs: 1.00 k (1,000) in the baseline, and unknown now: those of my::op are unknown")


def test_another_device_is_not_compared() -> None:
    (said,) = drifted(result(device="cuda:0", peak=1))
    assert said.startswith("the baseline is of cpu, and this ran on cuda:0")


def test_a_recording_that_lost_rows_is_compared_with_nothing_and_says_so() -> None:
    lost = "7 ops did not fit"
    names = ("peak", "saved", "flops", "ops", "params")
    said = drifted(result(device="", **dict.fromkeys(names), why=dict.fromkeys(names, lost)))
    assert [each.endswith(f"in the baseline, and unknown now: {lost}") for each in said[:5]] == [True] * 5


def test_another_pytorch_is_named_beside_what_changed() -> None:
    assert drifted(result(torch="2.14.0")) == []
    assert (
        drifted(result(torch="2.14.0", params=13))[-1] == "The baseline was written with torch 2.13.0, and this ran with 2.14.0"
    )


def test_the_ops_that_are_new_and_gone_explain_it(golden: Golden) -> None:
    by_op = {"aten::mm": [4, 2000], "aten::gelu": [3, 30]}
    golden("\n".join(drifted(result(ops=7, flops=2030, by_op=by_op))), "baseline_drift.txt")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = str(tmp_path / "base.json")
    assert read(path) is None
    write(path, None, {"a": result(), "b": result()})
    assert read(path) == {"a": entry_of(result()), "b": entry_of(result())}
    assert "kernels" not in entry_of(result())


def test_an_update_keeps_what_did_not_run(tmp_path: Path) -> None:
    path = str(tmp_path / "base.json")
    write(path, None, {"a": result(), "b": result()})
    write(path, read(path), {"b": result(ops=6), "c": result()})
    found = read(path)
    assert found is not None
    assert {test: figures["ops"] for test, figures in found.items()} == {"a": 5, "b": 6, "c": 5}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read"),
        ("{}", "is no baseline of torchprof"),
        ("[]", "is no baseline of torchprof"),
        ('{"torchprof_baseline": 9, "tests": {}}', "was written by another version"),
        ('{"torchprof_baseline": 1, "tests": {"a": 3}}', "is damaged at 'a'"),
        ('{"torchprof_baseline": 1, "tests": {"a": {"peak": "much"}}}', "is damaged at 'a'"),
        ('{"torchprof_baseline": 1, "tests": {"a": {"by_op": 3}}}', "is damaged at 'a'"),
        ('{"torchprof_baseline": 1, "tests": {"a": {"by_op": {"aten::mm": 3}}}}', "is damaged at 'a'"),
    ],
)
def test_a_file_that_is_no_baseline_is_told(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "base.json"
    path.write_text(text)
    with pytest.raises(ArgumentError, match=f"{said}.*delete it and run once more"):
        read(str(path))


def test_a_baseline_is_made_for_version_control(tmp_path: Path) -> None:
    path = tmp_path / "base.json"
    write(str(path), None, {"b": result(), "a": result()})
    text = path.read_text()
    assert text.endswith("}\n")
    assert list(json.loads(text)["tests"]) == ["a", "b"]


@pytest.mark.parametrize("text", ["5", "peak", "peak=x%", "-1%", "nan%", "time=1%", "=1%"])
def test_a_tolerance_that_cannot_be_read_is_told(text: str) -> None:
    with pytest.raises(pytest.UsageError, match="--torchprof-tolerance"):
        Tolerances.parse([text])
