"""FLOPs in the summary: of every row and in total, and what is said of those that are unknown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import flop_registry, register_flop_formula

import torchprof
from torchprof.tables.summary import Summary


def rows(summary: Summary, name: str = "flops") -> dict[str, Any]:
    return {row["path"]: row[name] for row in summary.table.rows}


def shown(summary: Summary, *columns: str) -> dict[str, list[str]]:
    """The cells of the printed rows, by the name of the row."""
    lines = str(summary.select(*columns)).splitlines()
    body = lines[3 : 3 + len(summary.rows)]
    return {line.strip("│├└─ ").split()[0]: line.split(")", 1)[-1].split() for line in body}


def summary_of(model: nn.Module, *inputs: Tensor, **options: Any) -> Summary:
    return torchprof.summary(model, input_data=inputs, verbose=0, **options)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.never = nn.Linear(6, 8)
        self.same = self.first

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        x = self.blocks[0](x)
        return x @ x.T


LINEAR, BLOCK, OWN = 2 * 4 * 6 * 8, 2 * 4 * 8 * 8, 2 * 4 * 8 * 4


def test_a_row_has_the_flops_of_all_its_calls_with_what_is_inside() -> None:
    found = summary_of(Net(), torch.rand(4, 6))
    assert rows(found) == {
        "": LINEAR + 3 * BLOCK + OWN,
        "first": LINEAR,
        "blocks": 3 * BLOCK,  # a container shows what is in it
        "blocks.0": 2 * BLOCK,
        "blocks.1": BLOCK,
        "never": None,
        "same": None,  # counted at its first place
    }
    assert found.totals.flops == LINEAR + 3 * BLOCK + OWN
    assert rows(found, "macs")["first"] == LINEAR / 2
    cells = shown(found, "flops")
    assert (cells["never"], cells["same"]) == (["not", "called"], ["same", "module", "as", "first"])
    assert f"FLOPs: {(LINEAR + 3 * BLOCK + OWN) / 1000:.2f} k (a multiply-add is two)" in str(found)


def test_depth_and_fold_keep_the_sums() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), nn.Linear(8, 8))
    x = torch.rand(4, 8)
    assert rows(summary_of(model, x, depth=1)) == {"": 3 * BLOCK, "0": 2 * BLOCK, "1": BLOCK}
    assert rows(summary_of(model, x, fold=True)) == {"": 3 * BLOCK, "0": 2 * BLOCK, "0.0": 2 * BLOCK, "1": BLOCK}


def test_backward_has_a_column_of_its_own_and_recomputation_is_in_neither() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.Tanh())

        def forward(self, x: Tensor) -> Any:
            return checkpoint(self.second, self.first(x), use_reentrant=False)

    found = summary_of(Checkpointed(), torch.rand(4, 8), backward=True)
    assert rows(found) == {"": 2 * BLOCK, "first": BLOCK, "second": BLOCK, "second.0": BLOCK, "second.1": 0}
    backward = {"": 3 * BLOCK, "first": BLOCK, "second": 2 * BLOCK, "second.0": 2 * BLOCK, "second.1": 0}
    assert rows(found, "flops_backward") == backward
    assert (found.totals.flops, found.totals.flops_backward, found.totals.flops_recomputed) == (2 * BLOCK, 3 * BLOCK, BLOCK)
    assert "FLOPs: 1.02 k, backward: 1.54 k, forward again: 512 (a multiply-add is two)" in str(found)


def test_warmup_passes_are_not_counted() -> None:
    assert summary_of(nn.Linear(8, 8), torch.rand(4, 8), warmup=2).totals.flops == BLOCK


def test_a_model_on_meta_has_the_flops_of_a_real_one() -> None:
    with torch.device("meta"):
        model, x = nn.TransformerEncoderLayer(16, 2, 32), torch.rand(5, 3, 16)
    on_meta = summary_of(model, x).totals.flops
    assert on_meta == summary_of(nn.TransformerEncoderLayer(16, 2, 32), torch.rand(5, 3, 16)).totals.flops
    assert on_meta is not None
    assert on_meta > 2 * 15 * (16 * 48 + 16 * 16 + 2 * 16 * 32)


def test_quantized_layers_are_counted() -> None:
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 4)), {nn.Linear}, dtype=torch.qint8)  # type: ignore[no-untyped-call]
    assert summary_of(model, torch.rand(3, 8)).totals.flops == 2 * 3 * 8 * 4


def test_what_raised_and_was_caught_is_not_counted() -> None:
    class Tries(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            try:
                return x @ x
            except RuntimeError:
                return x @ x.T

    assert summary_of(Tries(), torch.rand(4, 8)).totals.flops == 2 * 4 * 8 * 4


@torch.library.custom_op("torchprof_summary::blind", mutates_args=())
def blind(x: Tensor) -> Tensor:
    """What it computes is not seen."""
    return torch.from_numpy(x.detach().numpy() @ x.detach().numpy().T)


class Blind(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return blind(x)


NAME = "torchprof_summary::blind"


def test_an_op_without_a_formula_is_unknown_in_its_row_and_makes_sums_lower_bounds() -> None:
    model = nn.Sequential(nn.Linear(8, 8), Blind())
    found = summary_of(model, torch.rand(4, 8))
    assert rows(found) == {"": BLOCK, "0": BLOCK, "1": None}
    assert rows(found, "flops_unknown") == {"": (NAME,), "0": (), "1": (NAME,)}
    assert shown(found, "flops", "macs") == {
        "Sequential": ["Sequential", ">=", "512", ">=", "256"],
        "0": ["512", "256"],
        "1": ["?", "?"],
    }
    assert (found.totals.flops, found.totals.flops_unknown) == (BLOCK, {NAME: 1})
    assert "FLOPs: at least 512 (a multiply-add is two)" in str(found)
    assert f"Unknown FLOPs (? and >=): of {NAME}" in str(found)
    assert "torch.utils.flop_counter.register_flop_formula" in str(found)


def test_a_model_of_which_nothing_is_known_says_so() -> None:
    found = summary_of(Blind(), torch.rand(4, 8))
    assert rows(found) == {"": None}
    assert "FLOPs: unknown" in str(found)


def test_unknown_ops_stay_known_to_be_there_under_depth_and_fold() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 8), Blind()), nn.Linear(4, 8))
    folded = summary_of(nn.Sequential(*(nn.Sequential(Blind()) for _ in range(2))), torch.rand(4, 4), fold=True)
    assert rows(summary_of(model, torch.rand(4, 8), depth=1), "flops_unknown") == {"": (NAME,), "0": (NAME,), "1": ()}
    assert rows(folded, "flops_unknown") == {"": (NAME,), "0": (NAME,), "0.0": (NAME,)}
    assert rows(folded) == {"": None, "0": None, "0.0": None}


def test_a_formula_that_was_registered_is_used_from_then_on() -> None:
    packet = torch.ops.torchprof_summary.blind
    assert summary_of(Blind(), torch.rand(4, 8)).totals.flops_unknown == {NAME: 1}
    register_flop_formula(packet)(lambda x, *args, out_shape=None, **kwargs: 2 * x[0] * x[1] * out_shape[1])
    try:
        found = summary_of(Blind(), torch.rand(4, 8))
    finally:
        del flop_registry[packet]
    assert (found.totals.flops, found.totals.flops_unknown) == (2 * 4 * 8 * 4, {})
    assert summary_of(Blind(), torch.rand(4, 8)).totals.flops_unknown == {NAME: 1}


def test_a_model_that_has_no_flops_shows_no_column_of_them() -> None:
    found = summary_of(nn.ReLU(), torch.rand(4))
    assert "FLOPs" not in str(found)
    assert found.totals.flops == 0


def test_where_forward_raises_the_flops_until_then_are_shown() -> None:
    class Raises(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("of the user's own")

    with pytest.raises(ValueError, match="of the user's own") as raised:
        summary_of(nn.Sequential(nn.Linear(8, 8), Raises()), torch.rand(4, 8))
    found = raised.value.torchprof_summary  # type: ignore[attr-defined]
    assert (rows(found)["0"], found.totals.flops) == (BLOCK, BLOCK)


def test_a_summary_that_ran_nothing_knows_nothing_of_flops() -> None:
    found = torchprof.summary(nn.Linear(8, 8), verbose=0)
    assert found.totals.flops is None
    assert "FLOPs" not in str(found)


@pytest.mark.parametrize("aggregate", [False, True])
def test_other_tables_say_what_is_unknown_too(aggregate: bool) -> None:
    model = nn.Sequential(nn.Linear(8, 8), Blind())
    with torchprof.profile(model, aggregate=aggregate) as prof:
        for _ in range(2):
            model(torch.rand(4, 8))
            prof.step()
    by_module = torchprof.by_module(prof.trace)
    found = {row["path"]: (row["flops"], row["flops_unknown"]) for row in by_module.rows if row["type"]}
    assert found == {"": (BLOCK, [NAME]), "0": (BLOCK, []), "1": (None, [NAME])}
    (of_op,) = (row for row in torchprof.by_op(prof.trace).rows if row["name"] == NAME)
    assert (of_op["flops"], of_op["flops_unknown"], of_op["flop_rate"]) == (None, [NAME], None)
    for table in (by_module, torchprof.by_op(prof.trace)):
        assert f"Unknown FLOPs (? and >=): of {NAME}" in str(table)
    assert ">= 512" in str(by_module)


def test_a_step_says_what_is_unknown_in_it(tmp_path: Any) -> None:
    with torchprof.profile() as prof:
        blind(torch.rand(2, 2))
        prof.step()
        torch.rand(4, 8) @ torch.rand(8, 8)
        prof.step()
    prof.trace.save(tmp_path / "saved.torchprof")
    for trace in (prof.trace, torchprof.load(tmp_path / "saved.torchprof")):
        table = torchprof.by_step(trace)
        assert [(row["flops"], row["flops_unknown"]) for row in table.rows] == [(None, [NAME]), (BLOCK, [])]


def test_ops_recorded_without_tensors_have_no_flops_and_none_are_claimed() -> None:
    with torchprof.profile(shapes=False) as prof:
        torch.rand(4, 8) @ torch.rand(8, 8)
    (row,) = (row for row in torchprof.by_op(prof.trace).rows if row["name"] == "aten::mm")
    assert row["flops"] is None


def test_an_estimate_counts_lstms_and_names_what_it_does_not_know() -> None:
    lstm = 2 * 3 * 2 * 4 * 16 * ((8 + 16) + (16 + 16))
    found = torchprof.estimate(nn.LSTM(8, 16, 2), torch.rand(3, 2, 8), loss=lambda out: out[0].sum())
    assert (found.flops, found.flops_unknown) == (3 * lstm, ())


def square(x: Tensor) -> Tensor:
    return (x @ x).sum()


@pytest.mark.parametrize(
    ("transform", "products"),
    [
        (lambda x: torch.func.grad(square)(x), 3),
        (lambda x: torch.func.vjp(square, x)[1](torch.ones(()))[0], 3),
        (lambda x: torch.func.grad_and_value(square)(x)[0], 3),
        (lambda x: torch.func.vmap(torch.func.grad(square))(x[None])[0], 3),
    ],
    ids="grad vjp grad_and_value vmap".split(),
)
def test_products_inside_torch_func_are_counted_once(transform: Callable[[Tensor], Tensor], products: int) -> None:
    class Transformed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return transform(x)

    totals = torchprof.summary(Transformed(), (16, 16), verbose=0).totals
    assert (totals.flops or 0) + (totals.flops_backward or 0) == products * 2 * 16**3
    assert not totals.flops_unknown
