"""``batch_size=-1`` shows -1 where the batch is, in whichever dimension, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import networks
import pytest
import torch
from torch import Tensor, nn

import torchprof
from torchprof.analysis.model.summary import rows_and_totals


def shapes(model: nn.Module, *size: int) -> dict[str, tuple[list[list[int]], list[list[int]]]]:
    """Input and output shapes by path."""
    rows = torchprof.summary(model, size, batch_size=-1, verbose=0).rows
    return {row.path: ([list(s) for s in row.input_shapes], [list(s) for s in row.output_shapes]) for row in rows}


def test_every_shape_of_an_image_network_begins_with_it() -> None:
    found = shapes(networks.Nested(), 3, 32, 32)
    assert found[""] == ([[-1, 3, 32, 32]], [[-1, 5]])
    assert found["stem.0"] == ([[-1, 3, 32, 32]], [[-1, 8, 15, 15]])
    assert all(shape[0] == -1 and -1 not in shape[1:] for sides in found.values() for side in sides for shape in side)


class SequenceFirst(nn.Module):
    """Its sizes of 2 are the batch, layers, features or nothing in particular."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 2, num_layers=2)
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.lstm(x.transpose(0, 1))[0]).flatten(0, 1)


def test_it_is_shown_where_it_is_and_not_where_another_dimension_has_its_size() -> None:
    assert shapes(SequenceFirst(), 5, 3) == {
        "": ([[-1, 5, 3]], [[10, 2]]),  # 5 times the batch is not the batch
        "lstm": ([[5, -1, 3]], [[5, -1, 2], [2, -1, 2], [2, -1, 2]]),
        "linear": ([[5, -1, 2]], [[5, -1, 2]]),
    }


class PositionsOfTwo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Embedding(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.positions(torch.arange(2))


def test_a_first_dimension_that_does_not_follow_it_is_shown_as_it_is() -> None:
    assert shapes(PositionsOfTwo(), 2, 4) == {"": ([[-1, 2, 4]], [[-1, 2, 4]]), "positions": ([[2]], [[2, 4]])}


class Halves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2)
        assert len(first) == len(second)
        return self.linear(torch.cat((first + second, first)))


def test_a_model_that_splits_the_batch_in_halves_is_compared_with_another_even_one() -> None:
    assert shapes(Halves(), 3) == {"": ([[-1, 3]], [[-1, 4]]), "linear": ([[-1, 3]], [[-1, 4]])}


class SampleBySample(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.linear(sample) for sample in x])


def test_where_other_batches_make_other_calls_the_first_dimension_is_taken_and_the_footer_says_so() -> None:
    summary = torchprof.summary(SampleBySample(), (3,), batch_size=-1, verbose=0)
    assert [(row.input_shapes, row.output_shapes) for row in summary.rows] == [(((-1, 3),), ((-1, 4),)), (((3,),), ((4,),))]
    said = "Batch: shown as -1, taken to be every first dimension of 2; all figures are those of a batch of 2\n"
    assert said in str(summary)


def test_a_compiled_model_is_not_compiled_again_to_compare() -> None:
    compiled: list[tuple[int, ...]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        compiled.append(tuple(inputs[-1].shape))
        return graph

    model = torch.compile(nn.Sequential(nn.Linear(3, 4)), backend=backend)
    summary = torchprof.summary(model, (3,), batch_size=-1, verbose=0)
    assert compiled == [(2, 3)]
    assert summary.rows[0].output_shapes == ((-1, 4),)
    assert "taken to be every first dimension" in str(summary)


def test_figures_are_those_of_the_batch_that_ran_and_the_footer_says_so() -> None:
    minus_one = torchprof.summary(networks.Nested(), (3, 32, 32), batch_size=-1, verbose=0)
    two = torchprof.summary(networks.Nested(), (3, 32, 32), batch_size=2, verbose=0)
    assert [row.output_bytes for row in minus_one.rows] == [row.output_bytes for row in two.rows]
    assert minus_one.totals.input_bytes == two.totals.input_bytes == 2 * 3 * 32 * 32 * 4
    assert "\nBatch: shown as -1; all figures are those of a batch of 2\n" in str(minus_one)
    assert "Batch:" not in str(two)


def test_it_is_printed_and_exported_and_a_saved_trace_has_it(tmp_path: Path) -> None:
    summary = torchprof.summary(nn.Sequential(nn.Linear(3, 2)), (3,), batch_size=-1, verbose=0)
    assert "0 (Linear)  [-1, 3]  [-1, 2]" in str(summary.select("input", "output"))
    assert json.loads(summary.to_json())[1]["output"] == [[-1, 2]]
    assert '"((-1, 3),)"' in summary.to_csv()
    summary.trace.save(tmp_path / "summary.torchprof")
    assert rows_and_totals(torchprof.load(tmp_path / "summary.torchprof")) == (summary.rows, summary.totals)


@pytest.mark.parametrize("backward", [False, True])
def test_the_second_run_changes_nothing_and_is_not_in_the_trace(backward: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    random = torch.get_rng_state()
    summary = torchprof.summary(model, (3, 8, 8), batch_size=-1, backward=backward, verbose=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert model[1].num_batches_tracked == 0
    assert [row.calls for row in summary.rows] == [1, 1, 1, 1]
    assert all(shape[0] == -1 for row in summary.rows for shape in (*row.input_shapes, *row.output_shapes))


def test_folded_and_cut_trees_show_it() -> None:
    model = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4)) for _ in range(3)])
    text = str(torchprof.summary(model, (4,), batch_size=-1, fold=True, depth=1, columns=["output"], verbose=0))
    assert "└─ 0..2 (Sequential) x3  [-1, 4]" in text


def test_a_model_on_meta_shows_it() -> None:
    summary = torchprof.summary(lambda: nn.Sequential(nn.Linear(3, 2)), (3,), batch_size=-1, verbose=0)
    assert summary.rows[1].output_shapes == ((-1, 2),)


def test_lazy_modules_show_it() -> None:
    assert shapes(nn.Sequential(nn.LazyLinear(2)), 3)["0"] == ([[-1, 3]], [[-1, 2]])


@pytest.mark.parametrize(
    ("model", "size", "said"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (3, 8, 8), "0 (Conv2d) took [3, 8, 8]"),
        (nn.Conv1d(3, 4, 3), (3, 8), "Conv1d took [3, 8]"),
        (nn.Sequential(nn.ConvTranspose3d(3, 4, 3)), (3, 8, 8, 8), "0 (ConvTranspose3d) took [3, 8, 8, 8]"),
        (nn.LSTM(3, 4, batch_first=True), (5, 3), "LSTM took [5, 3]"),
    ],
    ids=lambda value: value.split()[-3] if isinstance(value, str) else "",
)
def test_an_input_that_was_taken_as_one_sample_is_named_in_the_footer(
    model: nn.Module, size: tuple[int, ...], said: str
) -> None:
    text = f"Batch: none; {said} as one sample, batch_size=2 puts a batch dimension before it\n"
    assert text in str(torchprof.summary(model, size, verbose=0))
    assert "Batch:" not in str(torchprof.summary(model, size, batch_size=2, verbose=0))
    assert "Batch:" not in str(torchprof.summary(model, input_data=torch.zeros(size), verbose=0))


class OneByOne(nn.Module):
    """Gives its layer every sample by itself, and on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.conv(sample) for sample in x])


def test_what_a_model_gives_its_layers_is_its_own_affair() -> None:
    assert "Batch:" not in str(torchprof.summary(OneByOne(), (2, 3, 8), verbose=0))
    assert "Batch:" not in str(torchprof.summary(nn.Linear(3, 4), (3,), verbose=0))
