"""How evenly work and memory are divided between ranks: `torchprof.imbalance`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from goldens import Golden
from handwritten import FORWARD, trace
from many_ranks import holding, rank_trace

import torchprof
from torchprof.cli.main import main


def mesh(rank: int) -> list[dict[str, Any]]:
    return [{"dimensions": ["dp", "tp"], "shape": [2, 2], "coordinate": [rank // 2, rank % 2]}]


def working(rank: int, flops: int, peak: int, world: int = 4) -> torchprof.Trace:
    """A rank whose products have so many FLOPs in all three steps together, and which holds so much."""
    made = rank_trace(rank, world, meshes=mesh(rank), counts_flops=True)
    of_signatures = np.array([flops // 9, -1, -1, -1])  # nine products: forward and two of backward in each step
    return holding(replace(made, signature_flops=of_signatures), peak)


def ranks() -> torchprof.Ranks:
    return torchprof.Ranks.of(
        [working(rank, 9_000_000 * (2 if rank == 3 else 1), 1000 + 1000 * (rank // 2)) for rank in range(4)]
    )


def test_every_figure_stands_beside_the_mean(golden: Golden) -> None:
    table = torchprof.imbalance(ranks())
    golden(str(table), "imbalance.txt")
    rows = table.to_dict()
    assert [row["flops"] for row in rows] == [3e6, 3e6, 3e6, 6e6]
    assert [row["flops_ratio"] for row in rows] == pytest.approx([0.8, 0.8, 0.8, 1.6])
    assert [row["compute_ratio"] for row in rows] == pytest.approx([1, 1, 1, 1])
    assert [row["peak"] for row in rows] == [1000, 1000, 2000, 2000]
    assert [row["coordinate"] for row in rows] == ["dp=0, tp=0", "dp=0, tp=1", "dp=1, tp=0", "dp=1, tp=1"]


def test_a_dimension_of_the_mesh_has_a_row_for_each_place(golden: Golden) -> None:
    table = torchprof.imbalance(ranks(), dimension="dp")
    golden(str(table), "imbalance_by_dimension.txt")
    rows = table.to_dict()
    assert [(row["name"], row["of_ranks"]) for row in rows] == [("dp=0", [0, 1]), ("dp=1", [2, 3])]
    assert [row["flops"] for row in rows] == [3e6, 4.5e6]
    assert [row["of_ranks"] for row in torchprof.imbalance(ranks(), dimension="tp").to_dict()] == [[0, 2], [1, 3]]


def test_an_unknown_dimension_names_those_that_there_are() -> None:
    with pytest.raises(
        torchprof.ArgumentError, match="dimension='pp' is of no device mesh of these ranks: give one of 'dp', 'tp'"
    ):
        torchprof.imbalance(ranks(), dimension="pp")
    with pytest.raises(torchprof.ArgumentError, match="the recordings have no mesh"):
        torchprof.imbalance(torchprof.Ranks.of([rank_trace(0, 1)]), dimension="dp")


def embedding(rank: int, tokens: int) -> torchprof.Trace:
    """Two steps, in each of which a batch of tokens and then one position for each of two are embedded."""
    ops = [
        {"signature": 0, "start": begin, "end": begin + 10, "module_call": call, "flags": FORWARD, "inputs": at, "n_inputs": 2}
        for call, (begin, at) in enumerate([(10, 0), (30, 2), (110, 0), (130, 2)])
    ]
    return trace(
        strings=["aten::embedding", "Embedding"],
        shapes=[(100, 8), (2, tokens // 2), (2,)],
        tensors=[{"shape": 0, "dtype": 6}, {"shape": 1, "dtype": 4}, {"shape": 2, "dtype": 4}],
        operands=[0, 1, 0, 2],
        signatures=[{"name": 0}],
        modules=[{"address": 1, "type": 1}, {"address": 2, "type": 1}],
        module_calls=[
            {"start": begin, "end": begin + 10, "module": module} for begin, module in [(10, 0), (30, 1), (110, 0), (130, 1)]
        ],
        ops=ops,
        steps=[{"start": 0, "end": 100}, {"start": 100, "end": 200, "number": 1}],
        facts={"rank": rank, "world_size": 2, "duration_ns": 200, "memory": False, "ops": True},
    )


def test_tokens_are_the_indices_of_the_first_embedding() -> None:
    rows = torchprof.imbalance(torchprof.Ranks.of([embedding(0, 64), embedding(1, 192)])).to_dict()
    assert [row["tokens"] for row in rows] == [64, 192]
    assert [row["tokens_ratio"] for row in rows] == [0.5, 1.5]


def test_what_is_not_known_of_all_ranks_has_no_ratio() -> None:
    rows = torchprof.imbalance(torchprof.Ranks.of([embedding(0, 64), rank_trace(1, 2)])).to_dict()
    assert [row["tokens"] for row in rows] == [64, None]
    assert [row["tokens_ratio"] for row in rows] == [None, None]


def test_imbalance_takes_ranks_only() -> None:
    with pytest.raises(torchprof.ModuleTypeError, match="Ranks"):
        torchprof.imbalance(rank_trace(0))  # type: ignore[arg-type]


def test_show_by_imbalance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for made in ranks():
        made.save(f"{tmp_path}/")
    assert main(["show", str(tmp_path), "--by", "imbalance", "--dimension", "dp", "--json"]) == 0
    assert [row["of_ranks"] for row in json.loads(capsys.readouterr().out)] == [[0, 1], [2, 3]]
    with pytest.raises(SystemExit, match="2"):
        main(["show", str(tmp_path), "--by", "rank", "--dimension", "dp"])
    assert "--dimension is for --by imbalance" in capsys.readouterr().err
