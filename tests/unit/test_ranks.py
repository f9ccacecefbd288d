"""The traces of many ranks: saved into a folder, read again, and what is wrong with them named."""

from __future__ import annotations

import gzip
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from handwritten import loop_trace
from kineto_files import document, op
from many_ranks import rank_trace

import torchprof
from torchprof.record.rank import own_rank, rank_facts
from torchprof.trace.rank import Rank, rank_of
from torchprof.trace.ranks import listed

OF_RANKS = (
    "RANK WORLD_SIZE LOCAL_RANK OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE PMI_RANK PMI_SIZE SLURM_PROCID SLURM_NTASKS".split()
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with four ranks."""
    for rank in range(4):
        rank_trace(rank).save(f"{tmp_path}/run/")
    return tmp_path / "run"


@pytest.fixture
def no_rank(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in OF_RANKS:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Rank(3, 8, 1)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, Rank(1, 2)),
        ({"PMI_RANK": "1", "PMI_SIZE": "4"}, Rank(1, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "16"}, Rank(0, 16)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "0"}, None),
        ({"RANK": "first", "WORLD_SIZE": "8"}, None),
        ({}, None),
    ],
)
def test_the_environment_tells_the_rank(
    no_rank: pytest.MonkeyPatch, environment: dict[str, str], expected: Rank | None
) -> None:
    for name, value in environment.items():
        no_rank.setenv(name, value)
    assert own_rank() == expected
    facts = rank_facts(None)
    assert rank_of(facts) == expected
    assert ("host" in facts) == (expected is not None)


def test_what_started_the_ranks_tells_the_run(no_rank: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "abc", "MASTER_PORT": "29500"}.items():
        no_rank.setenv(name, value)
    assert "TORCHELASTIC_RUN_ID=abc" in rank_facts(None)["run"]
    assert "MASTER_PORT=29500" in rank_facts(None)["run"]


def test_a_folder_gets_a_file_of_each_rank(run: Path, tmp_path: Path) -> None:
    assert sorted(os.listdir(run)) == [f"rank-000{rank}-of-0004.torchprof" for rank in range(4)]
    rank_trace(3, 20_000).save(run)  # which is there, so that no slash is needed
    assert "rank-00003-of-20000.torchprof" in os.listdir(run)
    loop_trace().save(f"{tmp_path}/alone/")
    assert os.listdir(tmp_path / "alone") == ["rank-0000-of-0001.torchprof"]


def test_a_folder_gives_the_ranks_in_their_order(run: Path) -> None:
    ranks = torchprof.load(run)
    assert isinstance(ranks, torchprof.Ranks)
    assert (ranks.numbers, ranks.world_size, ranks.problems) == ((0, 1, 2, 3), 4, ())
    assert [trace.facts["rank"] for trace in ranks] == [0, 1, 2, 3]
    assert [trace.facts["rank"] for trace in ranks[1:3]] == [1, 2]
    assert ranks.of_rank(2) is ranks[2]
    assert len(ranks) == 4
    assert repr(ranks).startswith("<Ranks: 4 of 4 ranks, ")
    assert [Path(file).name for file in ranks.files] == sorted(os.listdir(run))


def test_a_list_of_files_gives_them_too(run: Path) -> None:
    files = sorted(run.iterdir(), reverse=True)
    assert torchprof.load(files).numbers == torchprof.load([str(file) for file in files]).numbers == (0, 1, 2, 3)


def test_files_of_torchprof_run_and_of_torch_profiler_are_read(tmp_path: Path) -> None:
    rank_trace(0, 2).save(tmp_path / "train.rank0.torchprof")
    text = document([op("aten::mm", 1, 20)], distributedInfo={"backend": "nccl", "rank": 1, "world_size": 2})
    (tmp_path / "host_1.pt.trace.json.gz").write_bytes(gzip.compress(text.encode()))
    ranks = torchprof.load(tmp_path)
    assert ranks.numbers == (0, 1)
    assert ranks[1].facts["source"] == "torch.profiler"


def test_the_groups_of_a_file_of_torch_profiler_are_those_of_a_trace(tmp_path: Path) -> None:
    group = {"pg_name": "0", "pg_desc": "default_pg", "backend_config": "cuda:nccl", "pg_size": 2, "ranks": [0, 1]}
    told = {"backend": "nccl", "rank": 1, "world_size": 2, "pg_count": 1, "pg_config": [group]}
    (tmp_path / "trace.json").write_text(document([op("aten::mm", 1, 20)], distributedInfo=told))
    facts = torchprof.load(tmp_path / "trace.json").facts
    assert (facts["rank"], facts["world_size"]) == (1, 2)
    assert facts["process_groups"] == [{"name": "0", "description": "default_pg", "backend": "cuda:nccl", "ranks": [0, 1]}]


def test_missing_ranks_are_named(run: Path) -> None:
    (run / "rank-0001-of-0004.torchprof").unlink()
    ranks = torchprof.load(run)
    assert ranks.numbers == (0, 2, 3)
    assert ranks.problems == ("1 of 4 ranks is missing: 1",)
    with pytest.raises(torchprof.ArgumentError, match=r"number=1 is not among the ranks that are there: 0, 2-3"):
        ranks.of_rank(1)


@pytest.mark.parametrize("length", [0, 3, 500, -10])
def test_a_file_that_was_cut_short_is_named_and_the_rest_is_analyzed(run: Path, length: int) -> None:
    path = run / "rank-0002-of-0004.torchprof"
    path.write_bytes(path.read_bytes()[:length])
    ranks = torchprof.load(run)
    assert ranks.numbers == (0, 1, 3)
    missing, said = ranks.problems
    assert missing == "1 of 4 ranks is missing: 2"
    assert said.startswith(f"{path.name} is left out: ")
    assert len(torchprof.by_rank(ranks)) == 3
    assert missing in str(torchprof.by_rank(ranks))
    assert missing in str(torchprof.by_module(ranks))


def test_a_rank_of_another_run_is_left_out(run: Path) -> None:
    rank_trace(2, 8).save(run / "other size.torchprof")
    rank_trace(9).save(run / "no such rank.torchprof")
    loop_trace().save(run / "of no rank.torchprof")
    (run / "config.json").write_text("{}")
    ranks = torchprof.load(run)
    assert ranks.numbers == (0, 1, 2, 3)
    said = "\n".join(ranks.problems)
    assert "other size.torchprof is left out: it is of a run of 8 ranks, and not of 4" in said
    assert "no such rank.torchprof is left out: there is no rank 9 of 4" in said
    assert "of no rank.torchprof is left out: it is of no rank" in said
    assert "config.json is left out: " in said
    assert len(ranks.problems) == 4


def test_what_its_launcher_calls_otherwise_is_of_another_run() -> None:
    traces = [rank_trace(rank, run="b" if rank == 3 else "a") for rank in range(4)]
    ranks = torchprof.Ranks.of([*traces, rank_trace(3)], "abcde")
    assert ranks.numbers == (0, 1, 2, 3)
    assert ranks.files == ("a", "b", "c", "e"), "one that says nothing may be of this run"
    assert ranks.problems == ("d is left out: it is of another run",)


def test_of_duplicates_the_one_that_began_with_the_others_is_kept() -> None:
    origin = 5_000_000_000_000
    traces = [rank_trace(rank, 3, origin_unix_ns=origin + rank) for rank in (0, 1, 2)]
    before = rank_trace(1, 3, origin_unix_ns=origin - 3600 * 10**9)
    ranks = torchprof.Ranks.of([before, *traces], ["old", "0", "1", "2"])
    assert ranks.files == ("0", "1", "2")
    assert ranks.problems == ("old is left out: 1 is of the same rank, and began nearer to the others",)
    twice = torchprof.Ranks.of([traces[0], traces[0]], ["one", "two"])
    assert twice.problems[1:] == ("two is left out: one is of the same rank",)
    later = [rank_trace(rank, 2, origin_unix_ns=origin + 10**12) for rank in (0, 1)]
    two_runs = torchprof.Ranks.of([*(rank_trace(rank, 2, origin_unix_ns=origin) for rank in (0, 1)), *later])
    assert [trace.facts["origin_unix_ns"] for trace in two_runs] == [origin + 10**12] * 2, "the later of two whole runs"


def test_a_rank_that_recorded_otherwise_is_named() -> None:
    ended = rank_trace(2, ended_by="KeyboardInterrupt", losses={"ops": 3})
    ranks = torchprof.Ranks.of([rank_trace(0), rank_trace(1, forward=(10,)), ended, rank_trace(3)])
    assert ranks.problems == (
        "rank 1 recorded 1 step, and most ranks 3: figures are means of these",
        "KeyboardInterrupt ended the recording of rank 2",
        "INCOMPLETE: rows of rank 2 did not fit the budget",
    )


def test_of_ranks_without_a_majority_each_is_named() -> None:
    two = torchprof.Ranks.of([rank_trace(0, 2), rank_trace(1, 2, forward=(10,))])
    assert two.problems == ("rank 1 recorded 1 step and rank 0 recorded 3 steps: figures are means of these",)
    pairs = torchprof.Ranks.of([rank_trace(rank, forward=(10,) * (1 + rank // 2)) for rank in range(4)])
    assert pairs.problems == ("ranks 0-1 recorded 1 step and ranks 2-3 recorded 2 steps: figures are means of these",)
    all_differ = torchprof.Ranks.of([rank_trace(rank, 20, forward=(10,) * (1 + rank)) for rank in range(20)])
    assert all_differ.problems == ("ranks recorded 1 to 20 steps: figures are means of these",)


def test_what_is_not_printable_in_the_name_of_a_file_is_escaped(run: Path) -> None:
    (run / "\x1b[31mred\n.torchprof").write_bytes(b"no trace")
    (run / "\x1b[2Jtwin.torchprof").write_bytes((run / "rank-0000-of-0004.torchprof").read_bytes())
    ranks = torchprof.load(run)
    assert len(ranks.problems) == 2
    assert all(said.isprintable() for said in ranks.problems)
    assert ranks.problems[0].startswith(r"\x1b[31mred\n.torchprof is left out: ")
    assert any(r"\x1b[2Jtwin.torchprof" in said for said in ranks.problems)


def test_a_trace_of_no_rank_alone_is_the_only_rank(tmp_path: Path) -> None:
    loop_trace().save(f"{tmp_path}/run/")
    ranks = torchprof.load(tmp_path / "run")
    assert (ranks.numbers, ranks.world_size, ranks.problems) == ((0,), 1, ())


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(torchprof.TraceFileError, match=r"a folder without traces: no name in it ends in \.torchprof"):
        torchprof.load(tmp_path)
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(torchprof.TraceFileError, match=r"no file of a rank can be read: .*a\.json is left out: JSON, but"):
        torchprof.load(tmp_path)
    with pytest.raises(torchprof.ArgumentError, match="names no file"):
        torchprof.load([])
    with pytest.raises(torchprof.ArgumentError, match="path=3 is not a path"):
        torchprof.load([3])
    with pytest.raises(torchprof.TraceFileError, match="No such file"):
        torchprof.load([tmp_path / "missing.torchprof"])
    with pytest.raises(torchprof.ArgumentError, match="traces is empty"):
        torchprof.Ranks.of([])
    with pytest.raises(torchprof.ModuleTypeError, match=r"must be torchprof\.Traces, not int"):
        torchprof.Ranks.of([3])  # type: ignore[list-item]
    with pytest.raises(torchprof.ArgumentError, match="traces are 2 of programs of one process each"):
        torchprof.Ranks.of([loop_trace(), loop_trace()])
    loop_trace().save(tmp_path / "one.torchprof")
    loop_trace().save(tmp_path / "two.torchprof")
    with pytest.raises(torchprof.TraceFileError, match=r"is a folder, and no trace is of a rank: give one file, such as .*one"):
        torchprof.load(tmp_path)
    with pytest.raises(torchprof.ArgumentError, match="names 1 files of 2 traces"):
        torchprof.Ranks.of([rank_trace(0, 2), rank_trace(1, 2)], ["a"])


@pytest.mark.parametrize(
    "table",
    ["by_op", "by_step", "by_line", "by_function", "by_kernel", "memory", "gpu"],
)
def test_what_is_of_one_trace_says_how_to_get_one(table: str) -> None:
    ranks = torchprof.Ranks.of([rank_trace(0, 1)])
    with pytest.raises(torchprof.ArgumentError, match=r"is of several ranks: give the trace of one, such as ranks\[0\]"):
        getattr(torchprof, table)(ranks)


def test_files_and_comparisons_are_of_one_trace(tmp_path: Path) -> None:
    ranks = torchprof.Ranks.of([rank_trace(0, 1)])
    for write in (torchprof.export_folded, torchprof.export_speedscope):
        with pytest.raises(torchprof.ArgumentError, match=r"such as ranks\[0\]"):
            write(ranks, tmp_path / "file")  # type: ignore[operator]
    with pytest.raises(torchprof.ModuleTypeError, match=r"of several ranks: give the trace of one, such as a\[0\]"):
        torchprof.diff(ranks, ranks)
    assert not (tmp_path / "file").exists()


def test_a_file_of_an_older_torchprof_has_no_rank_or_the_one_of_its_facts() -> None:
    assert rank_of({}) is None
    assert rank_of({"rank": 1, "world_size": 2}) == Rank(1, 2)
    assert rank_of({"distributed": {"backend": "nccl", "rank": 3, "world_size": 8}}) == Rank(3, 8)
    assert rank_of({"distributed": {"rank": 3}}) == Rank(3, None)
    assert rank_of({"distributed": "nccl", "world_size": 8}) is None
    assert rank_of({"rank": -1, "world_size": 8}) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("rank", "3"), ("world_size", [8]), ("host", 3), ("process_groups", [{"name": "0"}]), ("meshes", [3])],
)
def test_a_fact_of_a_rank_that_cannot_be_is_damage(tmp_path: Path, name: str, value: object) -> None:
    replace(loop_trace(), facts={name: value}).save(tmp_path / "trace")
    with pytest.raises(torchprof.TraceFileError, match=f"damaged: facts.*{name}"):
        torchprof.load(tmp_path / "trace")


def test_ranks_are_written_short() -> None:
    assert listed([]) == ""
    assert listed([3]) == "3"
    assert listed([0, 1, 2, 3, 5, 7, 8]) == "0-3, 5, 7-8"
    assert listed(range(0, 60, 2)).endswith("22 and 18 more")


def test_reading_many_shows_how_far_it_is(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr("torchprof.importers.progress.PATIENCE", 0.0)
    monkeypatch.setattr("torchprof.importers.progress.is_terminal", lambda stream: True)
    monkeypatch.setattr("rich.progress.Progress.advance", lambda bar, task, read: told.append(read))
    (run / "broken.torchprof").write_bytes(b"PK\x03\x04")
    torchprof.load(run)
    assert sum(told) == sum(path.stat().st_size for path in run.iterdir())


def test_ranks_need_no_pytorch(run: Path) -> None:
    import subprocess

    program = (
        "import sys; sys.modules['torch'] = None; import torchprof; "
        f"ranks = torchprof.load({str(run)!r}); print(len(torchprof.by_rank(ranks)), len(torchprof.by_module(ranks)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "4 4\n"
