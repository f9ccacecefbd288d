"""How much of communication is hidden behind computation: `torchprof.overlap`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from goldens import Golden
from handwritten import gpu_trace, trace
from many_ranks import MS, rank_trace

import torchprof
from torchprof.cli.main import main
from torchprof.trace.schema import Activity

NCCL = "ncclDevKernel_AllReduce"


def device_trace(kernels: list[dict[str, Any]], **facts: Any) -> torchprof.Trace:
    return trace(
        strings=["sgemm", NCCL, "Memcpy DtoD"],
        kernels=kernels,
        steps=[{"start": 0, "end": 100, "busy": 1, "kernels": len(kernels)}],
        facts={"duration_ns": 100, "gpu": "cupti", "ops": True, **facts},
    )


def overlap_of(*kernels: dict[str, Any]) -> list[dict[str, Any]]:
    return torchprof.overlap(torchprof.Ranks.of([device_trace(list(kernels))])).to_dict()


def test_the_share_of_collectives_during_which_a_kernel_computes_on_the_same_device() -> None:
    (row,) = overlap_of({"start": 10, "end": 50, "name": 1, "stream": 2}, {"start": 30, "end": 70, "name": 0, "stream": 1})
    assert (row["communication"], row["hidden"], row["exposed"], row["overlap"]) == (40, 20, 20, 0.5)


def test_kernels_that_overlap_each_other_count_once() -> None:
    (row,) = overlap_of(
        {"start": 10, "end": 30, "name": 1},
        {"start": 20, "end": 50, "name": 1, "stream": 3},
        {"start": 20, "end": 40, "name": 0, "stream": 1},
        {"start": 25, "end": 45, "name": 0, "stream": 2},
    )
    assert (row["communication"], row["hidden"]) == (40, 25)


def test_copies_hide_nothing() -> None:
    (row,) = overlap_of(
        {"start": 10, "end": 50, "name": 1}, {"start": 10, "end": 50, "name": 2, "kind": int(Activity.COPY), "stream": 1}
    )
    assert row["overlap"] == 0.0


def test_another_device_hides_nothing() -> None:
    rows = overlap_of(
        {"start": 10, "end": 50, "name": 1, "device_index": 0},
        {"start": 10, "end": 50, "name": 0, "device_index": 1},
        {"start": 60, "end": 70, "name": 1, "device_index": 1},
        {"start": 60, "end": 65, "name": 0, "device_index": 1},
    )
    assert [(row["name"], row["overlap"]) for row in rows] == [("0 cuda:0", 0.0), ("0 cuda:1", 0.5)]


def test_without_collectives_there_is_no_share() -> None:
    (row,) = overlap_of({"start": 10, "end": 50, "name": 0})
    assert (row["communication"], row["overlap"]) == (0, None)


def test_on_the_cpu_threads_of_gloo_communicate_and_ops_compute(golden: Golden) -> None:
    ranks = torchprof.Ranks.of([rank_trace(rank) for rank in range(4)])
    table = torchprof.overlap(ranks)
    golden(str(table), "overlap.txt")
    for row in table.to_dict():
        assert (row["communication"], row["hidden"], row["exposed"]) == (7 * MS, MS, 6 * MS)
        assert row["overlap"] == pytest.approx(1 / 7)


def test_of_devices_the_definition_is_said(golden: Golden) -> None:
    ranks = torchprof.Ranks.of([gpu_trace(rank=rank, world_size=2) for rank in range(2)])
    golden(str(torchprof.overlap(ranks)), "overlap_of_devices.txt")


def test_what_a_backend_does_not_tell_is_unknown() -> None:
    silent = rank_trace(0, 1)
    silent.strings[silent.strings.index("gloo:all_reduce")] = "something"
    table = torchprof.overlap(torchprof.Ranks.of([silent]))
    assert table.to_dict()[0]["overlap"] is None
    assert "?: the backend of a collective tells not when it runs" in str(table)


def test_warm_up_does_not_count() -> None:
    warm = device_trace([{"start": 10, "end": 50, "name": 1}])
    steps = warm.steps.copy()
    steps["warmup"] = 1
    (row,) = torchprof.overlap(torchprof.Ranks.of([replace(warm, steps=steps)])).to_dict()
    assert not row["communication"]


def test_overlap_refuses_sums_and_what_are_no_ranks() -> None:
    with pytest.raises(torchprof.ArgumentError, match="aggregate"):
        torchprof.overlap(torchprof.Ranks.of([rank_trace(0, 1, aggregate=True)]))
    with pytest.raises(torchprof.ModuleTypeError, match="Ranks"):
        torchprof.overlap(rank_trace(0))  # type: ignore[arg-type]


def test_show_by_overlap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for rank in range(2):
        rank_trace(rank, 2).save(f"{tmp_path}/")
    assert main(["show", str(tmp_path), "--by", "overlap", "--json"]) == 0
    assert np.allclose([row["overlap"] for row in json.loads(capsys.readouterr().out)], 1 / 7)
