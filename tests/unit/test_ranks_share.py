"""What the files of several ranks have alike is read and kept once."""

from __future__ import annotations

import json
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
    assert read(known, model.to_json()) == model
    with pytest.raises(ValueError, match="model"):
        read(known, damaged)
    without = [{name: value for name, value in module.items() if name != "address"} for module in model.to_json()]
    with pytest.raises(ValueError, match="address"):
        read(known, without)
    for wrong in ("x", 1.5, None, True):
        with pytest.raises(ValueError, match="address"):
            read(known, [{**module, "address": wrong} for module in model.to_json()])
    assert read(known, model.to_json()) == model


@pytest.mark.parametrize(
    "facts",
    [
        {"address": 7},
        {"model": 7},
        {"model": [{"address": 7}]},
        {"note": '"model": [], "dtypes": "address": 7'},
        {"x": {"model": None, "dtypes": []}},
    ],
)
def test_facts_that_look_like_a_model_are_facts(facts: dict[str, object]) -> None:
    model = rank_trace(0).model
    assert model is not None
    known = Known()
    for told in (model.to_json(), None, model.to_json(), None):
        text = written(told, facts)
        document, found = known.document(text, lambda document: None)
        assert document["facts"] == facts
        assert found == (model if told is not None else None)


def test_a_document_of_another_format_is_told_by_that_before_its_model_is_read() -> None:
    def refuse(document: object) -> None:
        raise KeyError("format")

    with pytest.raises(KeyError, match="format"):
        Known().document(written([{"newer": 1}]), refuse)


def written(model: object, facts: object = None) -> bytes:
    document = {"torchprof": 5, "strings": [], "facts": facts, "model": model, "dtypes": [], "device_types": []}
    return json.dumps(document).encode()


def read(known: Known, model: object) -> Model | None:
    return known.document(written(model), lambda document: None)[1]


def test_tables_that_are_shared_are_looked_through_once_and_others_always(tmp_path: Path) -> None:
    first, second, third = (rank_trace(rank, 3) for rank in range(3))
    wrong = third.steps.copy()
    wrong["end"][1] = wrong["start"][1] - 2
    ranks = saved(tmp_path, first, second, replace(third, steps=wrong))
    assert ranks.numbers == (0, 1)
    assert any("ends before it begins" in problem for problem in ranks.problems)
    fewer = replace(rank_trace(2, 3), signatures=third.signatures[:1], signature_flops=third.signature_flops[:1])
    ranks = saved(tmp_path, fewer)
    assert ranks.numbers == (0, 1), "the ops are those of the others, but signatures that they name are not there"
    assert any("signatures that are not there" in problem for problem in ranks.problems)


def test_tables_of_ranks_with_nothing_in_common_are_not_all_kept() -> None:
    known = Known()
    layout = np.dtype(np.int64)
    first = known.table("dims", np.array([1]).tobytes(), layout)
    assert known.table("dims", np.array([1]).tobytes(), layout) is first
    for number in range(2, MOST_TABLES + 3):
        known.table("dims", np.array([number]).tobytes(), layout)
    assert known.table("dims", np.array([1]).tobytes(), layout) is not first
