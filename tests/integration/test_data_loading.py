"""Waiting for a ``DataLoader`` is a phase and a row of its own, and the loader is as it was when the recording has ended."""

from __future__ import annotations

import copy
import json
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from phase_oracle import COLUMNS
from test_phases import Features, check_partition, network, phases_of
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import torchprof
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace

SLOW = 0.01


class Slow(Dataset[Tensor]):
    """Takes 10 ms for each of its samples, and 3 ms to be asked for its length."""

    def __init__(self, count: int = 4) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        time.sleep(SLOW)
        return torch.full((8,), float(index))


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(3):
            time.sleep(SLOW)
            yield torch.ones(8)


class Raises(Slow):
    def __getitem__(self, index: int) -> Tensor:
        time.sleep(SLOW)
        raise KeyError(index)


class Prepared(DataLoader[Tensor]):
    """A loader that prepares itself, as those of accelerate do."""

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            yield batch * 2


def train(loader: Any, **options: Any) -> Trace:
    model = network()
    with torchprof.profile(model, **options) as prof:
        for _, x in enumerate(loader):
            model(x).square().mean().backward()
            prof.step()
    return prof.trace


def data_row(trace: Trace) -> dict[str, Any]:
    (row,) = [row for row in torchprof.by_module(trace).rows if row["name"] == "data"]
    return row


@pytest.mark.parametrize(
    ("loader", "batches"),
    [
        (DataLoader(Slow()), 4),
        (DataLoader(Slow(), batch_size=2, num_workers=1), 2),
        (DataLoader(Slow(), num_workers=1, persistent_workers=True), 4),
        (DataLoader(Stream()), 3),
        (Prepared(Slow()), 4),
    ],
    ids=["here", "workers", "persistent", "stream", "subclass"],
)
@pytest.mark.parametrize("aggregate", [False, True])
def test_waiting_for_data_is_a_phase_and_a_row(loader: Any, batches: int, aggregate: bool) -> None:
    trace = train(loader, aggregate=aggregate)
    steps = torchprof.by_step(trace).rows
    assert len(steps) == batches
    row = data_row(trace)
    assert row["time"] == row["data"] == pytest.approx(sum(step["data"] for step in steps) / batches)
    assert row["share"] == pytest.approx(sum(step["data"] for step in steps) / sum(step["time"] for step in steps))
    assert row["forward"] == row["backward"] == 0
    assert steps[0]["data"] > 0
    assert "Data" in str(torchprof.by_step(trace))
    text = str(torchprof.by_module(trace))
    assert "\ndata " in text
    assert "data" in torchprof.by_module(trace)._repr_html_()
    if not aggregate:
        check_partition(trace)
        assert phases_of(trace, "enumerate(DataLoader)") == {Phase.DATA: batches + 1}, "the last raises StopIteration"
        assert phases_of(trace, "iter(DataLoader)") == {Phase.DATA: 1}


def test_the_share_of_a_slow_loader_is_that_of_the_step() -> None:
    trace = train(DataLoader(Slow(2)))
    shares = {row["name"]: row["share"] for row in torchprof.by_module(trace).rows if row["depth"] == 0}
    slept = 2 * SLOW * 1e9 / sum(step["time"] for step in torchprof.by_step(trace).rows)
    assert slept <= shares["data"] < 1 - shares["Sequential"]
    assert sum(shares.values()) == pytest.approx(1)
    table = str(torchprof.by_module(trace))
    assert "of which the rows are 100.0%" in table


def test_modules_that_transform_data_are_in_the_phase_data() -> None:
    trace = train(DataLoader(Features(), batch_size=4))
    check_partition(trace)
    rows = {row["name"]: row for row in torchprof.by_module(trace).rows}
    transform = rows["<LayerNorm>"]
    assert transform["calls"] == 4
    assert transform["forward"] == 0 < transform["data"] == transform["time"]
    assert phases_of(trace, "aten::layer_norm") == {Phase.DATA: 12}
    assert "Data" in str(torchprof.by_module(trace))
    folded = {row["name"]: row for row in torchprof.by_module(train(DataLoader(Features(), batch_size=4), aggregate=True)).rows}
    assert (folded["<LayerNorm>"]["calls"], folded["<LayerNorm>"]["forward"]) == (4, 0)
    assert folded["<LayerNorm>"]["data"] > 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_that_raises_is_still_data_and_raises_what_it_raised(workers: int) -> None:
    loader = DataLoader(Raises(), num_workers=workers)
    with torchprof.profile(network()) as prof:
        with pytest.raises(KeyError):
            next(iter(loader))
        prof.step()
    check_partition(prof.trace)
    assert phases_of(prof.trace, "enumerate(DataLoader)") == {Phase.DATA: 1}
    assert torchprof.by_step(prof.trace).rows[0]["data"] >= SLOW * 1e9 * (workers == 0)


def test_loaders_are_as_they_were_also_where_the_iterator_goes_on() -> None:
    loader = DataLoader(Slow())
    function, kind, attributes = DataLoader.__iter__, type(DataLoader.__iter__), dict(vars(DataLoader))
    with torchprof.profile(network()) as prof:
        iterator = iter(loader)
        assert next(iterator).tolist() == [[0.0] * 8]
        assert DataLoader.__iter__ is function
        assert dict(vars(DataLoader)) == attributes
        assert list(pickle.loads(pickle.dumps(loader)))[3].tolist() == [[3.0] * 8]
        assert list(copy.deepcopy(loader))[3].tolist() == [[3.0] * 8]

        class Late(DataLoader[Tensor]):
            pass

        assert len(list(Late(Slow(1)))) == 1
        prof.step()
    assert phases_of(prof.trace, "iter(DataLoader)") == {Phase.DATA: 4}
    assert type(DataLoader.__iter__) is kind
    assert [x[0, 0].item() for x in iterator] == [1, 2, 3]
    assert len(list(loader)) == 4


def test_an_iterator_from_before_the_recording_is_seen() -> None:
    iterator = iter(DataLoader(Slow()))
    next(iterator)
    with torchprof.profile(network()) as prof:
        next(iterator)
        prof.step()
    assert phases_of(prof.trace, "enumerate(DataLoader)") == {Phase.DATA: 1}
    assert torchprof.by_step(prof.trace).rows[0]["data"] >= SLOW * 1e9


def test_data_is_seen_in_the_timeline_and_in_flame_graphs(tmp_path: Path) -> None:
    trace = train(DataLoader(Slow(2)))
    torchprof.export_chrome(trace, tmp_path / "steps.json")
    events = json.loads((tmp_path / "steps.json").read_text())["traceEvents"]
    slices = [event for event in events if event["ph"] == "X" and event["cat"] == "phase" and event["name"] == "data"]
    assert sum(event["dur"] for event in slices) == pytest.approx(sum(trace.steps["data"]) / 1e3, rel=0.5)
    torchprof.export_folded(trace, tmp_path / "steps.folded")
    assert "data;enumerate(DataLoader)" in (tmp_path / "steps.folded").read_text()


def test_ops_of_the_loader_are_chosen_by_phase() -> None:
    trace = train(DataLoader(Slow(2)))
    names = {row["name"] for row in torchprof.by_op(trace, phase="data").rows}
    assert "aten::full" in names or "aten::fill_" in names
    assert "aten::addmm" not in names
    assert {*COLUMNS.values()} >= {"data"}


def test_without_steps_the_recording_divides_into_phases() -> None:
    with torchprof.profile(network()) as prof:
        for x in DataLoader(Slow(2)):
            nn.Linear(8, 8)(x)
    rows = torchprof.by_module(prof.trace).rows
    assert data_row(prof.trace)["time"] >= 2 * SLOW * 1e9
    assert sum(row["time"] for row in rows if row["depth"] == 0) == pytest.approx(prof.trace.facts["duration_ns"], rel=1e-6)


@pytest.mark.parametrize("aggregate", [False, True])
def test_waiting_for_data_is_seen_where_modules_are_not_recorded(aggregate: bool) -> None:
    kind = type(DataLoader.__iter__)
    trace = train(DataLoader(Slow(2)), modules=False, aggregate=aggregate)
    names = {row["name"]: row["calls"] for row in torchprof.by_op(trace, phase="data").rows}
    assert names["iter(DataLoader)"] == 1 / 2
    assert names["enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"] == 2 / 2, "the third is in no step"
    assert type(DataLoader.__iter__) is kind


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
@pytest.mark.parametrize("modules", [True, False])
def test_compiled_code_between_batches_and_around_a_loader_is_as_without(modules: bool) -> None:
    loader = DataLoader(Slow(2))
    step = torch.compile(lambda x: (x + 1).sum(), backend="eager")

    @torch.compile(backend="eager")
    def epoch() -> list[Tensor]:
        return [x.sin() for x in loader]

    with torchprof.profile(modules=modules) as prof:
        sums = [step(x) for x in loader]
        found = epoch()
    assert [float(each) for each in sums] == [8, 16]
    assert [float(x[0, 0]) for x in found] == pytest.approx([0, float(torch.ones(()).sin())])
    assert phases_of(prof.trace, "iter(DataLoader)") == {Phase.DATA: 2}


def slowly(count: int) -> Iterator[Tensor]:
    for index in range(count):
        time.sleep(SLOW)
        yield torch.full((1, 8), float(index))


class ByIndex:
    """Can be iterated over by ``[]`` alone."""

    def __getitem__(self, index: int) -> Tensor:
        if index == 3:
            raise IndexError
        time.sleep(SLOW)
        return torch.full((1, 8), float(index))


def mapped() -> Iterator[Tensor]:
    return map(torch.clone, slowly(3))


@pytest.mark.parametrize("make", [lambda: slowly(3), mapped, ByIndex], ids=["generator", "map", "by index"])
@pytest.mark.parametrize("aggregate", [False, True])
def test_what_is_said_to_be_data_is_of_the_phase(make: Any, aggregate: bool) -> None:
    iterable = make()
    trace = train(torchprof.data(iterable), aggregate=aggregate)
    steps = torchprof.by_step(trace).rows
    assert len(steps) == 3
    assert all(step["data"] >= SLOW * 1e9 for step in steps)
    assert data_row(trace)["share"] > 0.5
    if not aggregate:
        check_partition(trace)
        name = f"torchprof.data({type(iterable).__name__})"
        assert phases_of(trace, name) == {Phase.DATA: 1 + 3 + 1}, "iter(), each next(), and the one that finds the end"
        assert phases_of(trace, "aten::full") == {Phase.DATA: 3}


def test_what_is_not_said_to_be_data_is_other() -> None:
    assert all(step["data"] == 0 and step["other"] >= SLOW * 1e9 for step in torchprof.by_step(train(slowly(2))).rows)


def test_data_gives_what_the_iterable_gives_as_often_as_it_does() -> None:
    batches = [torch.ones(1), torch.zeros(1)]
    said = torchprof.data(batches)
    assert len(said) == 2
    assert [id(each) for _ in range(2) for each in said] == [id(each) for each in batches] * 2
    assert list(torchprof.data(x for x in (1, None, 2))) == [1, None, 2]
    with pytest.raises(TypeError, match="len"):
        len(torchprof.data(iter(batches)))


def test_a_loader_that_is_said_to_be_data_is_data_once() -> None:
    trace = train(torchprof.data(DataLoader(Slow(2))))
    check_partition(trace)
    (first, second) = torchprof.by_step(trace).rows
    assert first["data"] < first["time"]
    assert second["data"] >= SLOW * 1e9


def test_what_data_raises_is_what_the_iterable_raises() -> None:
    def raises() -> Iterator[Tensor]:
        yield torch.ones(8)
        raise KeyError("no")

    with torchprof.profile() as prof, pytest.raises(KeyError, match="no"):
        list(torchprof.data(raises()))
    assert phases_of(prof.trace, "torchprof.data(generator)") == {Phase.DATA: 3}


def test_a_loop_that_breaks_off_closes_the_iterable() -> None:
    closed = []

    def closes() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    for _ in torchprof.data(closes()):
        break
    assert closed == [True]


@pytest.mark.parametrize("iterable", [3, None, nn.Linear(2, 2)])
def test_what_cannot_be_iterated_over_is_refused(iterable: Any) -> None:
    with pytest.raises(torchprof.ModuleTypeError, match=rf"data\(iterable\) .* not {type(iterable).__name__}"):
        torchprof.data(iterable)
