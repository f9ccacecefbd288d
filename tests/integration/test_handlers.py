"""`torchprof.handlers`: what to do with the trace of every cycle."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import torchprof
from torchprof import handlers


def run(handler: object, steps: int = 4, **options: object) -> None:
    model = nn.Linear(4, 4)
    schedule = torchprof.schedule(wait=1, active=1, repeat=0)
    with torchprof.profile(model, schedule=schedule, on_trace_ready=handler, **options) as prof:  # type: ignore[arg-type]
        for _ in range(steps):
            model(torch.ones(2, 4)).sum().backward()
            prof.step()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_cycle_is_a_file_that_can_be_read(tmp_path: Path) -> None:
    keep = handlers.save(tmp_path / "traces")
    run(keep)
    assert names(tmp_path / "traces") == ["trace.step1.torchprof", "trace.step3.torchprof"]
    assert [torchprof.load(file).steps["number"].tolist() for file in keep.files] == [[1], [3]]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    for _ in range(2):
        run(handlers.save(tmp_path), steps=2)
    assert names(tmp_path) == ["trace.step1-2.torchprof", "trace.step1.torchprof"]


def test_names_of_files_have_the_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    keep = handlers.save(tmp_path, "train")
    run(keep, steps=2)
    assert names(tmp_path) == ["train.step1.rank3.torchprof"]
    facts = torchprof.load(keep.files[0]).facts
    assert (facts["rank"], facts["world_size"]) == (3, 8)


def test_a_recording_without_steps_has_the_plain_name(tmp_path: Path) -> None:
    with torchprof.profile(on_trace_ready=handlers.save(tmp_path)):
        torch.ones(2).exp()
    assert names(tmp_path) == ["trace.torchprof"]


def test_a_timeline_is_one_that_perfetto_opens(tmp_path: Path) -> None:
    run(handlers.chrome(tmp_path), steps=2)
    assert names(tmp_path) == ["trace.step1.json.gz"]
    with gzip.open(tmp_path / "trace.step1.json.gz") as file:
        assert json.load(file)["traceEvents"]


def test_a_page_is_html(tmp_path: Path) -> None:
    run(handlers.html(tmp_path, title="A first try"), steps=2)
    assert "<title>A first try" in (tmp_path / "trace.step1.html").read_text(encoding="utf-8")


def test_figures_go_to_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("torchprof.integrations.tensorboard", reason="which the trackers are with")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(handlers.tensorboard(tmp_path))
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    scalars = events.Tags()["scalars"]
    assert scalars
    assert [event.step for event in events.Scalars(scalars[0])] == [1, 3]


def test_several_are_called_one_after_another_and_the_first_failure_comes_out(tmp_path: Path) -> None:
    def fails(prof: torchprof.profile) -> None:
        raise LookupError("no tracker")

    keep = handlers.save(tmp_path)
    with pytest.raises(LookupError, match="no tracker"):
        run(handlers.each(fails, keep), steps=2)
    assert len(keep.files) == 1


def test_a_trace_of_an_exception_is_saved_too(tmp_path: Path) -> None:
    keep = handlers.save(tmp_path)

    @torchprof.profile(on_trace_ready=keep)
    def fails() -> None:
        torch.ones(2).exp()
        raise LookupError

    with pytest.raises(LookupError):
        fails()
    assert torchprof.load(keep.files[0]).facts["ended_by"] == "LookupError"


@pytest.mark.parametrize("name", ["", "a/b", "..", 3, "a\0"])
def test_a_name_that_is_none_is_named(name: object, tmp_path: Path) -> None:
    with pytest.raises(torchprof.ArgumentError, match="name="):
        handlers.save(tmp_path, name)  # type: ignore[arg-type]


def test_bad_arguments_are_told_when_a_handler_is_made(tmp_path: Path) -> None:
    with pytest.raises(torchprof.ArgumentError, match=r"^folder=3 is not a path$"):
        handlers.save(3)  # type: ignore[arg-type]
    with pytest.raises(torchprof.ArgumentError, match="title=3"):
        handlers.html(tmp_path, title=3)  # type: ignore[arg-type]
    with pytest.raises(torchprof.ArgumentError, match="not 3"):
        handlers.each(3)  # type: ignore[arg-type]
    with pytest.raises(torchprof.ArgumentError, match="was given none"):
        handlers.each()
    with pytest.raises(torchprof.ArgumentError, match=r"^folder=3 is not a path$"):
        handlers.tensorboard(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "why"), [("", "it is empty"), ("a/b", "it has '/' in it, which is not allowed")])
def test_why_a_name_is_none_is_said(name: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(torchprof.ArgumentError, match=why):
        handlers.save(tmp_path, name)


def test_what_needs_single_ops_is_refused_before_anything_runs(tmp_path: Path) -> None:
    timelines = handlers.chrome(tmp_path / "timelines")
    said = r"on_trace_ready=torchprof.handlers.chrome\(...\) needs single ops, .*: say aggregate=False"
    for handler in (timelines, handlers.each(handlers.save(tmp_path), handlers.each(print, timelines))):
        with pytest.raises(torchprof.ArgumentError, match=said):
            torchprof.watch(on_trace_ready=handler)
        with pytest.raises(torchprof.ArgumentError, match=said):
            torchprof.profile(aggregate=True, on_trace_ready=handler)
        torchprof.watch(aggregate=False, on_trace_ready=handler)
        torchprof.profile(on_trace_ready=handler)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [handlers.save, handlers.html])
def test_the_others_take_sums(make: Any, tmp_path: Path) -> None:
    handler = make(tmp_path)
    with torchprof.profile(aggregate=True, on_trace_ready=handlers.each(handler)) as prof:
        torch.ones(2).exp()
        prof.step()
    assert len(handler.files) == 1
