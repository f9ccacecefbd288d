"""What a summary says of modules whose calls differ, and of what modules are: kernels, modes, dtypes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from my_network import MyNetwork
from torch import Tensor, nn

import torchprof
from torchprof import Summary
from torchprof.analysis.model.rows import Row


def row(found: Summary, path: str) -> Row:
    return next(each for each in found.rows if each.path == path)


def cells(found: Summary, *columns: str) -> dict[str, list[str]]:
    """The texts of these columns, by path."""
    (grid,) = found.select(*columns).parts()
    return {each.path: [column.texts[at] for column in grid.columns] for at, each in enumerate(found.rows)}  # type: ignore[union-attr]


def test_a_module_called_at_two_shapes_has_both_and_its_calls_are_shown() -> None:
    found = torchprof.summary(MyNetwork(num_class=2), (3, 112, 112), batch_size=4, verbose=0)
    relu = row(found, "relu")
    assert (relu.calls, relu.input_shapes, relu.further_inputs) == (2, ((4, 32, 54, 54),), (((4, 64, 27, 27),),))
    assert relu.further_outputs == (((4, 64, 27, 27),),)
    assert relu.output_bytes == 4 * 4 * (32 * 54 * 54 + 64 * 27 * 27)
    assert row(found, "conv1").further_inputs == ()
    assert found.columns[:3] == ("input", "output", "calls")
    assert cells(found, "input", "calls")["relu"] == ["[4, 32, 54, 54] (+1)", "2"]


def test_calls_are_not_shown_where_each_module_was_called_once() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)))
    for fold in (False, True):
        found = torchprof.summary(model, (2, 4), fold=fold, verbose=0)
        assert "calls" not in found.columns, "six rows as two are still called once each"


def test_calls_that_are_out_of_sight_are_not_shown() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.inner(x))

    model = nn.Sequential(Twice())
    assert "calls" in torchprof.summary(model, (2, 4), verbose=0).columns
    assert "calls" not in torchprof.summary(model, (2, 4), depth=1, verbose=0).columns


class Growing(nn.Module):
    """A layer called on 5, 1, 1 and 1 tokens, as a model that generates."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [self.layer(x)]
        outputs += [self.layer(x[:, -1:]) for _ in range(3)]
        return torch.cat(outputs, 1)


def test_a_size_that_differs_is_a_range_and_each_shape_is_kept_once() -> None:
    found = torchprof.summary(Growing(), (2, 5, 4), verbose=0)
    layer = row(found, "layer")
    assert (layer.calls, layer.further_inputs) == (4, (((2, 1, 4),),))
    assert cells(found, "input", "output")["layer"] == ["[2, 1..5, 4]", "[2, 1..5, 4]"]
    assert cells(found, "output")[""] == ["[2, 8, 4]"]


def test_further_shapes_are_in_every_form_of_the_data() -> None:
    found = torchprof.summary(Growing(), (2, 5, 4), verbose=0)
    assert json.loads(found.to_json())[1]["further_inputs"] == [[[2, 1, 4]]]
    assert list(csv.DictReader(io.StringIO(found.to_csv())))[1]["further_inputs"] == "(((2, 1, 4),),)"
    assert found.to_dict()["rows"][1]["further_outputs"] == (((2, 1, 4),),)
    assert found.to_pandas()["further_inputs"][1] == (((2, 1, 4),),)


def test_siblings_whose_calls_differ_are_not_folded() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            for length in (1, 1, 2):
                layer = self.layers[length - 1]
                x = x + layer(x[:, :length]).sum()
            return x

    found = torchprof.summary(Net(), (2, 5, 4), fold=True, verbose=0)
    assert [each.name for each in found.rows] == ["Net", "layers", "0", "1", "2"]


@pytest.mark.parametrize(
    ("module", "size", "shape", "text"),
    [
        (nn.Conv2d(3, 4, 3), (3, 3), (1, 3, 8, 8), "[3, 3]"),
        (nn.Conv1d(3, 4, 5), (5,), (1, 3, 8), "[5]"),
        (nn.ConvTranspose3d(3, 4, (1, 2, 3)), (1, 2, 3), (1, 3, 4, 4, 4), "[1, 2, 3]"),
        (nn.MaxPool2d(2), 2, (1, 3, 8, 8), "2"),
        (nn.AvgPool2d([2, 4]), (2, 4), (1, 3, 8, 8), "[2, 4]"),
        (nn.Unfold((2, 3)), (2, 3), (1, 3, 8, 8), "[2, 3]"),
        (nn.AdaptiveAvgPool2d(1), None, (1, 3, 8, 8), ""),
        (nn.ReLU(), None, (1, 3), ""),
    ],
)
def test_the_size_of_a_kernel(
    module: nn.Module, size: int | tuple[int, ...] | None, shape: tuple[int, ...], text: str, tmp_path: Path
) -> None:
    found = torchprof.summary(nn.Sequential(module), shape, verbose=0)
    assert row(found, "0").kernel_size == size
    assert cells(found, "kernel_size") == {"": [""], "0": [text]}
    found.trace.save(tmp_path / "a.torchprof")
    assert torchprof.load(tmp_path / "a.torchprof").model == found.trace.model


def test_an_attribute_of_that_name_that_is_no_size_is_left_alone() -> None:
    class Odd(nn.Module):
        def __init__(self, size: object) -> None:
            super().__init__()
            self.kernel_size = size

        def forward(self, x: Tensor) -> Tensor:
            return x

    class Property(nn.Module):
        @property
        def kernel_size(self) -> int:
            raise AssertionError("observing runs no code of the program")

        def forward(self, x: Tensor) -> Tensor:
            return x

    model = nn.Sequential(Odd(torch.ones(2)), Odd("3x3"), Odd((3, None)), Odd(None), Property())
    found = torchprof.summary(model, (1, 3), verbose=0)
    assert [each.kernel_size for each in found.rows] == [None] * 6


def test_the_mode_of_every_module() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout())
    model[1].eval()
    found = torchprof.summary(model, (1, 3), verbose=0)
    assert [each.training for each in found.rows] == [True, True, False]
    assert cells(found, "mode") == {"": ["train"], "0": ["train"], "1": ["eval"]}
    assert cells(torchprof.summary(model.eval(), verbose=0), "mode") == {"": ["eval"], "0": ["eval"], "1": ["eval"]}


def test_a_module_at_two_places_has_the_same_mode_and_kernel_at_both() -> None:
    pool = nn.MaxPool1d(2)
    assert cells(torchprof.summary(nn.Sequential(pool, pool), verbose=0), "mode", "kernel_size") == {
        "": ["train", ""],
        "0": ["train", "2"],
        "1": ["train", "2"],
    }


def test_a_mode_that_is_not_known_is_said_to_be() -> None:
    class Makes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.Linear(3, 3)(x)

    assert cells(torchprof.summary(Makes(), (1, 3), verbose=0), "mode") == {"": ["train"], "<Linear>": ["?"]}


def test_dtypes_of_outputs_and_of_parameters() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.narrow = nn.Linear(3, 3, dtype=torch.bfloat16)
            self.bare = nn.Parameter(torch.ones(2, dtype=torch.float64))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            y = self.narrow(x.bfloat16())
            return x, y.argmax(-1), x

    found = torchprof.summary(Mixed(), (1, 3), verbose=0)
    assert row(found, "").output_dtypes == ("float32", "int64", "float32")
    assert cells(found, "dtype", "param_dtype") == {"": ["float32, int64", "float64"], "narrow": ["bfloat16", "bfloat16"]}


def test_these_columns_say_nothing_of_what_did_not_run() -> None:
    found = torchprof.summary(nn.Sequential(nn.Conv2d(3, 4, 3)), verbose=0)
    assert cells(found, "kernel_size", "mode", "dtype", "param_dtype")["0"] == ["[3, 3]", "train", "", "float32"]
