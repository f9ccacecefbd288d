"""Tables across ranks: by rank, and by module."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from goldens import Golden
from handwritten import gpu_trace, loop_trace, two_layer_trace
from many_ranks import MS, rank_trace

import torchprof
from torchprof.analysis.distributed.exposed import work_of
from torchprof.analysis.distributed.intervals import Intervals
from torchprof.analysis.distributed.odd_ones import odd_ones
from torchprof.analysis.time.module_means import module_means
from torchprof.analysis.time.module_records import module_records
from torchprof.cli.main import main


def ranks(slow: int = 2) -> torchprof.Ranks:
    """Four ranks, of which one takes twice as long in forward."""
    return torchprof.Ranks.of([rank_trace(rank, forward=(20 if rank == slow else 10,) * 3) for rank in range(4)])


def test_by_rank_tells_the_phases_of_every_rank_and_the_odd_one(golden: Golden) -> None:
    table = torchprof.by_rank(ranks())
    golden(str(table), "by_rank.txt")
    rows = table.to_dict()
    assert [row["rank"] for row in rows] == [0, 1, 2, 3]
    assert [row["forward"] for row in rows] == [10 * MS, 10 * MS, 20 * MS, 10 * MS]
    for row in rows:
        phases = ("forward", "recompute", "backward", "optimizer", "data", "other")
        assert sum(row[name] for name in phases) == row["time"] == 40 * MS
    assert [row["odd"] for row in rows] == [[], [], ["Forward +10.0 ms", "Backward -10.0 ms"], []]
    assert [row["hostname"] for row in rows] == ["node0", "node0", "node1", "node1"]


def test_what_runs_on_threads_of_gloo_is_communication_and_exposed_where_no_op_runs() -> None:
    for row in torchprof.by_rank(ranks()).to_dict():
        assert row["communication"] == 7 * MS, "from 31 to 38 ms"
        assert row["exposed"] == 6 * MS, "but for the product from 32 to 33 ms"
        assert row["compute"] == 30 * MS, "up to 29 ms, and that product"
        assert row["idle"] is None, "there is no device"


def test_kernels_of_nccl_communicate_and_all_others_compute() -> None:
    work = work_of(gpu_trace())
    assert work.communication == 2 * 20_000, "ncclDevKernel_AllReduce on cuda:1, in two active steps"
    assert work.exposed == 2 * 20_000
    busy = int(gpu_trace().steps["busy"][1:].sum())
    assert work.compute is not None
    assert work.compute + work.exposed == busy
    assert work.idle == 2_000_000 - busy


def test_what_is_not_known_is_none() -> None:
    aggregated = rank_trace(0, 1, aggregate=True)
    assert work_of(aggregated).compute is None
    lost = rank_trace(0, 1, losses={"ops": 1})
    assert work_of(lost).exposed is None
    other_backend = rank_trace(0, 1)
    other_backend.strings[other_backend.strings.index("gloo:all_reduce")] = "something"
    work = work_of(other_backend)
    assert (work.communication, work.exposed) == (None, None), "its threads tell nothing"
    assert work.compute is not None
    text = str(torchprof.by_rank(torchprof.Ranks.of([aggregated])))
    assert "Exposed" not in text


def test_two_ranks_have_no_odd_one(golden: Golden) -> None:
    table = torchprof.by_rank(torchprof.Ranks.of([rank_trace(0, 2), rank_trace(1, 2, forward=(30, 30, 30))]))
    golden(str(table), "by_rank_of_two.txt")
    assert [row["odd"] for row in table.to_dict()] == [[], []]


def record(rank: int, time: float, **more: object) -> dict[str, object]:
    return {"rank": rank, "time": time, "forward": 0.0, **more}


def test_the_rule_of_the_odd_one() -> None:
    def found(*times: float, **more: object) -> list[int]:
        return [odd.rank for odd in odd_ones([record(rank, time, **more) for rank, time in enumerate(times)], ("time",))]

    assert found(100, 100, 130) == [2]
    assert found(100, 100, 104) == [], "5% of a step"
    assert found(100, 100, 106) == [2]
    assert found(100, 120, 80, 110, 90, 130) == [], "all differ as much"
    assert found(100, 102, 98, 101, 99, 130) == [5]
    assert found(100, 100, 130, errors={"time": 11.0}) == [], "three standard errors"
    assert found(100, 130) == [], "of two, neither is"
    assert found(0, 0, 0) == []


def test_by_module_tells_mean_slowest_and_spread(golden: Golden) -> None:
    table = torchprof.by_module(ranks())
    golden(str(table), "by_module_of_ranks.txt")
    rows = {row["name"]: row for row in table.to_dict()}
    fc = rows["fc"]
    assert (fc["forward"], fc["slowest"], fc["slowest_rank"]) == (12.5 * MS, 20 * MS, 2)
    assert (fc["fastest"], fc["rank_spread"], fc["ranks"], fc["calls"]) == (10 * MS, 10 * MS, 4, 1)
    assert next(row["name"] for row in torchprof.by_module(ranks(), depth=0).to_dict() if row["path"] == "") == "Net"
    assert "fc" not in {row["name"] for row in torchprof.by_module(ranks(), depth=0).to_dict()}
    with pytest.raises(torchprof.ArgumentError, match="depth"):
        torchprof.by_module(ranks(), depth=-1)


def test_modules_that_some_ranks_have_not_are_means_of_those_that_have_them() -> None:
    stages = [rank_trace(rank, 2, modules=(f"stage{rank}",), forward=(10 + 10 * rank,) * 3) for rank in range(2)]
    rows = {row["name"]: row for row in torchprof.by_module(torchprof.Ranks.of(stages)).to_dict()}
    assert [(rows[name]["ranks"], rows[name]["forward"]) for name in ("Net", "stage0", "stage1")] == [
        (2, 15 * MS),
        (1, 10 * MS),
        (1, 20 * MS),
    ]
    assert "Ranks" in str(torchprof.by_module(torchprof.Ranks.of(stages)))
    assert list(rows)[-1] in ("other", "outside modules")


def test_a_table_of_ranks_is_data_in_every_form() -> None:
    for table in (torchprof.by_rank(ranks()), torchprof.by_module(ranks())):
        assert json.loads(table.to_json()) == json.loads(json.dumps(table.to_dict()))
        assert len(table.to_pandas()) == len(table)
        assert len(table.to_csv().splitlines()) == len(table) + 1
        assert "<table" in table._repr_html_()
        assert len(table.sort("time").head(1)) == 1


def test_tables_across_ranks_take_ranks_alone() -> None:
    for wrong in (rank_trace(0), [rank_trace(0)], None):
        with pytest.raises(torchprof.ModuleTypeError, match=r"must be torchprof\.Ranks"):
            torchprof.by_rank(wrong)  # type: ignore[arg-type]


def test_a_rank_in_a_mesh_tells_its_place() -> None:
    mesh = {"dimensions": ["dp", "tp"], "shape": [1, 2], "coordinate": [0, 1]}
    table = torchprof.by_rank(torchprof.Ranks.of([rank_trace(0, 2), rank_trace(1, 2, meshes=[mesh])]))
    assert [row["coordinate"] for row in table.to_dict()] == [None, "dp=0, tp=1"]
    assert "In mesh" in str(table)


def test_the_shell_shows_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = f"{tmp_path}/run/"
    for trace in ranks():
        trace.save(folder)
    assert main(["show", folder, "--by", "rank"]) == 0
    assert capsys.readouterr().out == f"{torchprof.by_rank(torchprof.load(folder))}\n"
    assert main(["show", folder, "--depth", "0"]) == 0
    assert capsys.readouterr().out == f"{torchprof.by_module(torchprof.load(folder), depth=0)}\n"
    assert main(["show", folder, "--by", "rank", "--json"]) == 0
    assert [row["rank"] for row in json.loads(capsys.readouterr().out)] == [0, 1, 2, 3]
    with pytest.raises(SystemExit, match="2"):
        main(["show", folder, "--by", "op"])
    said = capsys.readouterr().err
    assert "has several ranks, of which there are --by module, --by rank, --by collective, --by clock, --by overlap, " in said
    with pytest.raises(SystemExit, match="2"):
        main(["show", f"{folder}rank-0001-of-0004.torchprof", "--by", "rank"])
    assert "is of one process: give the folder with the files of all ranks" in capsys.readouterr().err
    assert main(["memory", folder]) == 1
    assert "is a folder" in capsys.readouterr().err


def test_info_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = f"{tmp_path}/run/"
    for trace in list(ranks())[1:]:
        replace(trace, facts={**trace.facts, "torch": "2.13", "python": "3.11"}).save(folder)
    assert main(["info", folder]) == 0
    text = capsys.readouterr().out
    assert "Ranks          3 of 4\n" in text
    assert "Hosts          node0 (1), node1 (2)\n" in text
    assert "Steps          3 each\n" in text
    assert "Problem        1 of 4 ranks is missing: 0\n" in text
    assert main(["info", folder, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["world_size"], found["problems"]) == ("ranks", 4, ["1 of 4 ranks is missing: 0"])
    assert [(rank["rank"], rank["host"], rank["steps"]) for rank in found["ranks"]] == [
        (1, "node0", 3),
        (2, "node1", 3),
        (3, "node1", 3),
    ]


def test_intervals_are_sets_of_moments() -> None:
    generator = np.random.default_rng(0)

    def some() -> tuple[Intervals, set[int]]:
        start = generator.integers(0, 60, 6)
        end = start + generator.integers(0, 12, 6)
        moments = {at for begin, stop in zip(start.tolist(), end.tolist(), strict=True) for at in range(begin, stop)}
        return Intervals.of(start, end), moments

    for _ in range(200):
        (a, in_a), (b, in_b) = some(), some()
        assert a.length == len(in_a)
        assert (a & b).length == len(in_a & in_b)
        assert a.without(b) == len(in_a - in_b)
        assert (a.start[1:] > a.end[:-1]).all()
    none = Intervals.of(np.array([], dtype=np.int64), np.array([], dtype=np.int64))
    assert (none.length, (none & none).length, none.without(none)) == (0, 0, 0)


@pytest.mark.parametrize(
    "trace",
    [
        gpu_trace(),
        loop_trace(),
        two_layer_trace(),
        rank_trace(0, 1),
        torchprof.Trace.empty(),
        replace(loop_trace(), model=None),
    ],
    ids=["gpu", "loop", "layers", "rank", "empty", "no model"],
)
def test_means_of_modules_are_those_of_the_table_of_one_trace(trace: torchprof.Trace) -> None:
    records, means = module_records(trace), [dict(mean) for mean in module_means(trace)]
    assert len(records) == len(means)
    for record, mean in zip(records, means, strict=True):
        assert record["flops_unknown"] == mean.pop("flops_unknown")
        assert {name: record[name] for name in mean} == pytest.approx(mean)
