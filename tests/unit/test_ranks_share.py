"""What the files of several ranks have alike is read and kept once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from many_ranks import rank_trace

import torchprof
from torchprof.trace.known import MOST_TABLES, Known
from torchprof.trace.model import Model
from torchprof.trace.schema import LAYOUTS


def saved(folder: Path, *traces: torchprof.Trace) -> torchprof.Ranks:
    for trace in traces:
        trace.save(f"{folder}/")
    ranks = torchprof.load(folder)
    assert isinstance(ranks, torchprof.Ranks)
    return ranks


def test_tables_and_strings_that_are_equal_are_one_object(tmp_path: Path) -> None:
    first, second = saved(tmp_path, rank_trace(0, 2), rank_trace(1, 2))
    assert first.ops is second.ops
    assert first.strings is second.strings
    assert first.model == second.model
    assert (first.facts["rank"], second.facts["rank"]) == (0, 1)


def test_tables_that_differ_are_each_ranks_own(tmp_path: Path) -> None:
    expected = [rank_trace(0, 2), rank_trace(1, 2, forward=(20, 20, 20))]
    for found, trace in zip(saved(tmp_path, *expected), expected, strict=True):
        for name in LAYOUTS:
            assert np.array_equal(getattr(found, name), getattr(trace, name)), name
        assert found.strings == trace.strings
        assert found.model == trace.model


def test_models_that_differ_by_addresses_alone_share_all_else(tmp_path: Path) -> None:
    first, second = rank_trace(0, 2), rank_trace(1, 2)
    assert second.model is not None
    modules = tuple(module._replace(address=module.address + 1000) for module in second.model.modules)
    rows = second.modules.copy()
    rows["address"] += 1000
    ranks = saved(tmp_path, first, replace(second, model=Model(modules), modules=rows))
    assert ranks[0].model == first.model
    assert ranks[1].model == Model(modules)
    assert ranks[0].model is not None
    assert ranks[1].model is not None
    assert ranks[0].model.modules[1].parameters is ranks[1].model.modules[1].parameters
    assert str(torchprof.by_module(ranks)) == str(torchprof.by_module(torchprof.Ranks.of([first, second])))


def test_models_that_differ_are_each_ranks_own(tmp_path: Path) -> None:
    ranks = saved(tmp_path, rank_trace(0, 3), rank_trace(1, 3, modules=("other",)), rank_trace(2, 3))
    assert [trace.model.modules[1].path for trace in ranks if trace.model is not None] == ["fc", "other", "fc"]


@pytest.mark.parametrize(
    "damaged", [{}, [], [1], [{"path": ""}], [{"path": "", "address": "x"}], [{"path": "", "name": "", "address": 1}]]
)
def test_a_damaged_model_is_refused_also_beside_a_right_one(damaged: object) -> None:
    model = rank_trace(0).model
    assert model is not None
    known = Known()
    assert known.model(model.to_json()) == model
    with pytest.raises(ValueError, match="model"):
        known.model(damaged)
    without = [{name: value for name, value in module.items() if name != "address"} for module in model.to_json()]
    with pytest.raises(ValueError, match="address"):
        known.model(without)
    assert known.model(model.to_json()) == model


def test_tables_of_ranks_with_nothing_in_common_are_not_all_kept() -> None:
    known = Known()
    layout = np.dtype(np.int64)
    first = known.table("dims", np.array([1]).tobytes(), layout)
    assert known.table("dims", np.array([1]).tobytes(), layout) is first
    for number in range(2, MOST_TABLES + 3):
        known.table("dims", np.array([number]).tobytes(), layout)
    assert known.table("dims", np.array([1]).tobytes(), layout) is not first
