"""What a plan says of configurations: what fits, by its bound, and why the others do not. Of figures written by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from goldens import Golden

from torchprof import Configuration, Plan
from torchprof.estimation.planner.cache import Cache
from torchprof.estimation.planner.choice import Choice
from torchprof.estimation.planner.found import Found, Limit
from torchprof.estimation.planner.plan import by_bound

GIB = 2**30
CAPACITY = 80 * GIB
FITS = Found(
    needed=60 * GIB,
    fits=True,
    by_category={"activations": 20 * GIB, "optimizer state": 30 * GIB, "parameters": 10 * GIB},
    passes=2,
    sent=(
        {"collective": "all-gather", "dimension": "fsdp", "ranks": 4, "calls": 8, "bytes": 3 * GIB},
        {"collective": "all-reduce", "dimension": "tp", "ranks": 2, "calls": 8, "bytes": GIB},
    ),
    flops=8 * 10**12,
    flops_recomputed=2 * 10**12,
    limit=Limit(0.5, 0.25, 0.5, 0.75),
)


def choice(gpus: int = 8, accumulation: int = 4, **over: object) -> Choice:
    return Choice(gpus, 1, 1024, accumulation, {"tp": 2, **over})


def row(found: Found | None, **options: object) -> Configuration:
    return Configuration(choice(**options), CAPACITY, found)  # type: ignore[arg-type]


def planned() -> Plan:
    rows = [
        row(None, gpus=64),
        row(Found(error="tp 2 cannot be"), gpus=4),
        row(Found(600 * GIB, False, {"parameters": 400 * GIB, "gradients": 200 * GIB}, is_least=True), gpus=1),
        row(replace(FITS, needed=90 * GIB, fits=False), gpus=2),
        row(replace(FITS, fits=None, unmeasured=30 * GIB), gpus=12),
        row(replace(FITS, limit=Limit(1.0, None, None, None, ("what is sent along fsdp",))), gpus=16),
        row(FITS, gpus=8),
        row(replace(FITS, needed=70 * GIB, limit=Limit(0.1, 0.25, 0.25, 0.5)), gpus=32),
        row(replace(FITS, needed=81 * GIB, alloc_retries=3, limit=Limit(0.1, 0.1, 0.1, 0.5)), gpus=24),
    ]
    return Plan(tuple(sorted(rows, key=by_bound)), "H100-80GB", CAPACITY, ("tp",), (("tp 2 does not divide 9 GPUs", 3),), True)


def test_a_plan_is_printed_with_what_fits_and_why_the_rest_does_not(golden: Golden) -> None:
    golden(str(planned()), "plan.txt")


def test_what_fits_comes_first_by_the_bound_of_its_time_per_token() -> None:
    plan = planned()
    assert [each.choice.gpus for each in plan.rows] == [32, 8, 16, 24, 12, 2, 1, 4, 64]
    assert [each.choice.gpus for each in plan.fitting] == [32, 8, 16, 24]
    assert plan.best is plan.rows[0]
    assert len(plan) == 9


def test_what_fits_only_just_says_so_and_stands_behind_the_others() -> None:
    tight = planned().fitting[-1]
    assert (tight.choice.gpus, tight.only_just, tight.alloc_retries, tight.headroom) == (24, True, 3, -GIB)
    assert tight.verdict == "fits only just: 81.0 GiB with room"
    assert [each.only_just for each in planned().rows] == [False] * 3 + [True] + [False] * 5
    assert row(FITS).alloc_retries == 0
    assert row(replace(FITS, needed=90 * GIB, fits=False)).alloc_retries is None


def test_figures_are_of_all_passes_of_a_step() -> None:
    found = row(FITS)  # two passes were estimated, of four
    assert found.sent == 8 * GIB
    assert found.sent_by_dimension == {"fsdp": 6 * GIB, "tp": 2 * GIB}
    assert found.flops == 16 * 10**12
    assert found.flops_recomputed == 4 * 10**12
    assert found.recomputed == pytest.approx(1 / 3)
    assert found.bound == 1.0
    assert found.tokens_per_second == 1024 * 4 * 4
    assert found.headroom == 20 * GIB


def test_what_was_not_estimated_has_no_figures() -> None:
    for found in (row(None), row(Found(error="no")), row(Found(600 * GIB, False, {"parameters": 600 * GIB}, is_least=True))):
        record = found.to_dict()
        assert {record[name] for name in ("sent", "flops", "recomputed", "bound", "tokens_per_second", "mfu")} == {None}


def test_a_plan_is_data(tmp_path: Path) -> None:
    plan = planned()
    plan.to_json(tmp_path / "plan.json")
    data = json.loads((tmp_path / "plan.json").read_text())
    assert data == plan.to_dict()
    assert [each["status"] for each in data["configurations"]] == [
        *("fits", "fits", "fits", "fits", "unknown", "does not fit", "does not fit", "failed", "not estimated"),
    ]
    assert data["configurations"][0]["tp"] == 2
    assert data["left_out"] == [{"why": "tp 2 does not divide 9 GPUs", "combinations": 3}]
    assert list(plan.to_pandas()["gpus"]) == [each.choice.gpus for each in plan.rows]
    assert "<table" in plan._repr_html_()
    assert repr(plan) == "<Plan: 4 of 9 configurations fit H100-80GB>"


def test_a_plan_in_which_nothing_fits_has_no_best() -> None:
    plan = Plan((row(Found(600 * GIB, False, {"parameters": 600 * GIB}, is_least=True)),), "T4", CAPACITY, ("tp",))
    assert plan.best is None
    assert "parameters alone are more" in str(plan)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return Cache("everything")


def test_what_was_found_is_kept(cache: Cache) -> None:
    assert cache.get("one") is None
    cache.put("one", FITS)
    assert cache.get("one") == FITS
    assert cache.get("other") is None
    assert Cache("something else").get("one") is None


def test_what_raised_is_tried_again(cache: Cache) -> None:
    cache.put("one", Found(error="no"))
    assert cache.get("one") is None


def test_without_a_key_nothing_is_kept(cache: Cache, tmp_path: Path) -> None:
    Cache(None).put("one", FITS)
    assert Cache(None).get("one") is None
    assert list(tmp_path.rglob("*.json")) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"needed": 3}', '{"limit": 5}', "\udcff" * 3, "[" * 100_000])
def test_a_damaged_file_is_ignored(cache: Cache, tmp_path: Path, text: str) -> None:
    cache.put("one", FITS)
    (file,) = tmp_path.rglob("*.json")
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert cache.get("one") is None


@pytest.mark.parametrize(("name", "value"), [("needed", "much"), ("by_category", []), ("error", None), ("sent", 3)])
def test_a_file_that_says_nonsense_is_ignored(cache: Cache, tmp_path: Path, name: str, value: object) -> None:
    cache.put("one", FITS)
    (file,) = tmp_path.rglob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    assert cache.get("one") is None


def test_a_folder_that_cannot_be_written_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    Cache("everything").put("one", FITS)
    assert Cache("everything").get("one") is None
