"""The timelines of several ranks in one file of `export_chrome`."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from handwritten import gpu_trace
from many_ranks import HOURS, MS, meeting_trace

import torchprof
from torchprof.cli.main import main
from torchprof.exporters.chrome_ranks import shifted

CAME = [[10, 14], [20, 10]]


def exported(ranks: torchprof.Ranks | torchprof.Trace, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    path = folder / "ranks.json"
    torchprof.export_chrome(ranks, path)
    found = json.loads(path.read_text())
    return found["otherData"], found["traceEvents"]


def run(ahead: int = 0) -> torchprof.Ranks:
    return torchprof.Ranks.of([meeting_trace(rank, CAME, origin=rank * ahead, host=f"node{rank}") for rank in range(2)])


def test_every_rank_is_a_process_with_the_events_of_its_own_file(tmp_path: Path) -> None:
    ranks = run()
    facts, events = exported(ranks, tmp_path)
    assert (facts["ranks"], facts["world_size"], facts["problems"]) == ([0, 1], 2, [])
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert sorted(names.values()) == ["rank 0 on node0", "rank 1 on node1"]
    for pid, trace in zip(names, ranks, strict=True):
        _, alone = exported(trace, tmp_path)
        own = [event for event in events if event["pid"] == pid and event["ph"] == "X"]
        of_one = [event for event in alone if event["ph"] == "X"]
        assert [(event["name"], event["tid"]) for event in own] == [(event["name"], event["tid"]) for event in of_one]
        assert [event["dur"] for event in own] == pytest.approx([event["dur"] for event in of_one], abs=0.002)


def test_an_arrow_leads_along_each_collective_from_the_first_rank_to_the_last(tmp_path: Path) -> None:
    _, events = exported(run(), tmp_path)
    arrows = [event for event in events if event.get("cat") == "collective"]
    first, last = 1, 1001
    assert [(event["ph"], event["pid"], event["ts"]) for event in arrows if event["id"] == arrows[0]["id"]] == [
        ("s", first, pytest.approx(10_000, abs=900)),
        ("f", last, pytest.approx(14_000, abs=900)),
    ]
    assert [(event["ph"], event["pid"]) for event in arrows[2:]] == [("s", last), ("f", first)]
    assert {event["name"] for event in arrows} == {"all-reduce"}


@pytest.mark.parametrize("ahead", [3 * HOURS, -3 * HOURS])
def test_clocks_that_are_off_by_hours_are_on_one_time_line(tmp_path: Path, ahead: int) -> None:
    _, events = exported(run(ahead), tmp_path)
    asked = [event["ts"] for event in events if event["name"] == "c10d::allreduce_"]
    assert asked == pytest.approx([10_000, 60_000, 14_000, 50_000], abs=900)
    assert min(event["ts"] for event in events if "ts" in event) >= 0


def test_arrows_and_devices_of_ranks_are_not_taken_for_each_other(tmp_path: Path) -> None:
    ranks = torchprof.Ranks.of([gpu_trace(rank=rank, world_size=2, host="a") for rank in range(2)])
    _, events = exported(ranks, tmp_path)
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert sorted(names.values()) == [f"rank {rank} on a{device}" for rank in range(2) for device in ("", ", GPU 0", ", GPU 1")]
    by_id: dict[int, set[int]] = {}
    for event in events:
        if event.get("cat") in ("launch", "backward") and event["ph"] in "sf":
            by_id.setdefault(event["id"], set()).add(event["pid"] // 1000)
    assert by_id
    assert all(len(of) == 1 for of in by_id.values())


def test_what_is_none_stays_none_when_a_trace_is_shifted() -> None:
    trace = meeting_trace(0, CAME)
    ops = trace.ops.copy()
    ops["end"][0] = -1
    moved = shifted(torchprof.Trace(**{**{name: getattr(trace, name) for name in trace.__dataclass_fields__}, "ops": ops}), MS)
    assert moved.ops["end"][0] == -1
    assert moved.ops["start"][0] == MS
    assert shifted(trace, 0) is trace


def test_ranks_that_hold_sums_are_refused(tmp_path: Path) -> None:
    trace = meeting_trace(0, CAME, aggregate=True)
    empty = torchprof.Trace(**{**{name: getattr(trace, name) for name in trace.__dataclass_fields__}, "ops": trace.ops[:0]})
    with pytest.raises(torchprof.ArgumentError, match="no timeline"):
        torchprof.export_chrome(torchprof.Ranks.of([empty]), tmp_path / "x.json")


def test_export_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for trace in run():
        trace.save("run/")
    assert main(["export", "run/", "--to", "chrome"]) == 0
    assert json.loads(gzip.decompress((tmp_path / "run.chrome.json.gz").read_bytes()))["otherData"]["ranks"] == [0, 1]
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        main(["export", "run/", "--to", "folded"])
    assert "--to folded is of one rank" in capsys.readouterr().err
