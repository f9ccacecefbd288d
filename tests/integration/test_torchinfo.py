"""torchinfo's function, with torchprof's table: what both count is compared with the package itself."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from typing import Any

import networks
import numpy as np
import pytest
import torch
import torchinfo
from torch import Tensor, nn
from torch.nn.utils import prune
from torchinfo.enums import ColumnSettings, Mode, RowSettings

import torchprof
from torchprof.torchinfo import summary

MODELS: dict[str, tuple[Any, Any]] = {
    name: (make, [(2, *each) for each in size] if isinstance(size, list) else (2, *size))
    for name, (make, size) in networks.FOR_TORCHSUMMARY.items()
}


def path_of(layer: Any) -> str:
    names = []
    while layer.parent_info is not None:
        names.append(layer.var_name)
        layer = layer.parent_info
    return ".".join(reversed(names))


@pytest.mark.parametrize("name", MODELS)
def test_totals_and_shapes_are_those_of_torchinfo(name: str) -> None:
    make, size = MODELS[name]
    model = make()
    theirs = torchinfo.summary(model, input_size=size, device="cpu", verbose=0)
    ours = summary(model, input_size=size, device="cpu", depth=9, verbose=0)
    assert ours.total_params == theirs.total_params
    assert ours.trainable_params == theirs.trainable_params
    assert ours.total_param_bytes == theirs.total_param_bytes
    if "shared" not in name:  # theirs counts the last output of a module for each of its calls
        assert ours.total_output_bytes == theirs.total_output_bytes
    rows = {row.path: row for row in ours.rows}
    compared = 0
    for layer in reversed(theirs.summary_list):  # of several calls the first remains
        row = rows[path_of(layer)]
        if layer.executed and not layer.is_recursive and "same module" not in row.note:
            assert list(row.output_shapes[0]) == layer.output_size
            assert list(row.input_shapes[0]) == layer.input_size
            assert row.params_total == layer.num_params
            compared += 1
    assert compared >= 2


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def test_totals_differ_where_the_guide_says_so() -> None:
    assert summary(Tied(), (2, 4), verbose=0).total_params == 16 + 4 + 4
    assert torchinfo.summary(Tied(), (2, 4), device="cpu", verbose=0).total_params == 2 * 16 + 4 + 4
    pruned = nn.Sequential(nn.Linear(4, 4))
    prune.l1_unstructured(pruned[0], "weight", 10)
    assert summary(pruned, (2, 4), verbose=0).total_params == 20
    assert torchinfo.summary(pruned, (2, 4), device="cpu", verbose=0).total_params == 10


class Own(nn.Module):
    """Has a parameter beside a child."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4))
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.layer(x if y is None else x + y) * self.scale


class Leaf(nn.Module):
    """Returns more than one tensor."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.rand(4, 4))
        self.result = result

    def forward(self, x: Tensor) -> Any:
        return self.result(x @ self.matrix, x[:1])


ATTRIBUTES = "total_input total_output_bytes total_param_bytes total_params trainable_params total_mult_adds input_size".split()
A_STORAGE = sys.getsizeof(torch.empty(0).untyped_storage())
"""Bytes of the object in Python that torchinfo counts with the memory of each input."""

COMPARED: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    # a model, sizes of its inputs, and what differs, with torchinfo's figure: see the guide
    "without bias": (lambda: nn.Sequential(nn.Linear(4, 8, bias=False)), (2, 4), {}),
    "no parameters": (lambda: nn.Sequential(nn.ReLU()), (2, 4), {}),
    "one layer": (lambda: nn.Linear(4, 8), (2, 4), {"total_mult_adds": 2 * (4 + 1) * 8}),
    "norm": (lambda: nn.Sequential(nn.BatchNorm1d(4)), (2, 4), {"total_mult_adds": 2 * 2 * 4}),
    "convolution": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3, bias=False)), (2, 3, 8, 8), {}),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3, bias=False)),
        (2, 3, 8, 8),
        {"total_mult_adds": 2 * 10 * 10 * 3 * 4 * 9},
    ),
    "LSTM": (lambda: nn.LSTM(4, 8, 2, batch_first=True, bias=False), (2, 5, 4), {}),
    "GRU": (lambda: nn.Sequential(nn.GRU(4, 8, bias=False)), (5, 2, 4), {}),
    "LSTM with bias": (lambda: nn.LSTM(4, 8), (5, 2, 4), {"total_mult_adds": 5 * 2 * (4 + 8 + 1 + 1) * 4 * 8}),
    "several tensors": (lambda: nn.Sequential(Leaf(lambda *found: found)), (2, 4), {"total_mult_adds": 0}),
    "nested tensors": (lambda: nn.Sequential(Leaf(lambda *found: [[*found], found])), (2, 4), {"total_mult_adds": 0}),
    "a dict": (
        lambda: nn.Sequential(Leaf(lambda a, b: {"a": a, "b": b})),
        (2, 4),
        {"total_mult_adds": 0, "total_output_bytes": 2 * 16},
    ),
    "beside a child": (Own, (2, 4), {"total_mult_adds": 2 * 5 * 4, "total_param_bytes": 80}),
    "two inputs": (Own, [(2, 4), (2, 4)], {"total_mult_adds": 2 * 5 * 4, "total_param_bytes": 80}),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(4, bias=False)), (2, 4), {}),
    "frozen": (
        lambda: nn.Sequential(nn.Linear(4, 4, bias=False).requires_grad_(False), nn.Linear(4, 4, bias=False)),
        (2, 4),
        {},
    ),
    "shared": (Tied, (2, 4), {"total_mult_adds": 80, "total_params": 40, "trainable_params": 40, "total_param_bytes": 160}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("given", ["input_size", "input_data"])
@pytest.mark.parametrize("name", COMPARED)
def test_every_attribute_is_torchinfos_but_for_those_that_the_guide_lists(name: str, given: str) -> None:
    make, size, differs = COMPARED[name]
    inputs = [torch.rand(each) for each in size] if isinstance(size, list) else torch.rand(size)
    arguments = {given: size if given == "input_size" else inputs}
    theirs = torchinfo.summary(make(), device="cpu", verbose=0, **arguments)
    ours = summary(make(), verbose=0, **arguments)
    count = len(size) if isinstance(size, list) else 1
    found = {key: getattr(theirs, key) for key in ATTRIBUTES if getattr(theirs, key) != getattr(ours, key)}
    assert found.pop("total_input") == ours.total_input + A_STORAGE * count
    assert found == differs


@pytest.mark.filterwarnings("ignore")
def test_without_data_the_attributes_are_torchinfos_too() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    theirs, ours = torchinfo.summary(model, verbose=0), summary(model, verbose=0)
    assert [getattr(ours, key) for key in ATTRIBUTES] == [getattr(theirs, key) for key in ATTRIBUTES]


def test_data_in_containers_has_its_sizes_in_place() -> None:
    class Takes(nn.Module):
        def forward(self, x: Tensor, more: Any) -> Tensor:
            return x + more["y"][0]

    data = {"x": torch.rand(2, 3), "more": {"y": [torch.rand(3)]}}
    theirs, ours = torchinfo.summary(Takes(), input_data=data, verbose=0), summary(Takes(), input_data=data, verbose=0)
    assert ours.input_size == theirs.input_size == {"x": (2, 3), "more": {"y": [(3,)]}}


def test_the_signature_is_that_of_torchinfo() -> None:
    theirs, ours = (inspect.signature(function).parameters for function in (torchinfo.summary, summary))
    assert list(ours) == list(theirs)
    for name, parameter in ours.items():
        assert (parameter.kind, parameter.default) == (theirs[name].kind, theirs[name].default)


class Net(nn.Module):
    """Five levels deep."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Sequential(nn.Sequential(nn.Linear(4, 4)))))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor, scale: Any = 1) -> Tensor:
        return self.head(self.body(x)) * scale


@pytest.mark.parametrize(
    ("mode", "trains"), [(None, False), ("eval", False), ("train", True), ("same", True), (Mode.TRAIN, True)]
)
def test_the_mode_is_eval_by_default_and_every_modules_own_afterwards(mode: Any, trains: bool) -> None:
    model = Net().train()
    model.head.eval()
    seen = []
    model.register_forward_hook(lambda module, args, output: seen.append((module.training, module.head.training)))
    summary(model, (2, 3), mode=mode, verbose=0)
    assert seen == [(trains, trains and mode != "same")]
    assert (model.training, model.body.training, model.head.training) == (True, True, False)


class KeepsFrozen(nn.Module):
    """In train mode, the norm stays in eval mode, and its parameters get a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3).requires_grad_(False)

    def train(self, mode: bool = True) -> KeepsFrozen:
        super().train(mode)
        self.norm.eval()
        self.norm.requires_grad_(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


def test_what_a_models_own_train_changes_is_put_back_even_where_forward_raises() -> None:
    model = KeepsFrozen()
    summary(model, (2, 3), mode="train", verbose=0)
    with pytest.raises(RuntimeError):
        summary(model, (2, 5), mode="train", verbose=0)
    assert (model.training, model.norm.training) == (True, True)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_it_is_no_deeper_than_three_by_default() -> None:
    assert max(row.depth for row in summary(Net(), (2, 3), verbose=0).rows) == 3
    assert max(row.depth for row in summary(Net(), (2, 3), depth=5, verbose=0).rows) == 5
    assert len(summary(Net(), (2, 3), depth=0, verbose=0).rows) == 1


def test_columns_have_other_names_here() -> None:
    names = ["input_size", ColumnSettings.OUTPUT_SIZE, "num_params", "params_percent", "trainable"]
    found = summary(Net(), (2, 3), col_names=names, depth=1, verbose=0)
    assert found.columns == ("input", "output", "params", "params_share", "trainable")
    assert [round(100 * row["params_share"], 1) for row in found.table.rows] == [0.0, 78.3, 21.7]
    assert "78.3%" in str(found)
    assert "78.26%" in str(torchinfo.summary(Net(), (2, 3), col_names=("params_percent",), depth=1, verbose=0))


def test_multiply_adds_are_those_of_torchinfo_where_layers_have_no_bias() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2, bias=False))
    theirs = torchinfo.summary(model, (2, 3, 8, 8), device="cpu", verbose=0)
    ours = summary(model, (2, 3, 8, 8), col_names=["mult_adds"], verbose=0)
    assert ours.total_mult_adds == theirs.total_mult_adds == 2 * 36 * 108 + 2 * 288
    assert [row["macs"] for row in ours.table.rows] == [8352, 7776, 0, 0, 576]


def test_multiply_adds_differ_where_the_guide_says_so() -> None:
    layer = nn.Sequential(nn.Linear(3, 4))
    assert summary(layer, (2, 3), verbose=0).total_mult_adds == 2 * 12
    assert torchinfo.summary(layer, (2, 3), device="cpu", verbose=0).total_mult_adds == 2 * (12 + 4)  # with the bias
    assert summary(layer, (2, 5, 3), verbose=0).total_mult_adds == 2 * 5 * 12
    assert torchinfo.summary(layer, (2, 5, 3), device="cpu", verbose=0).total_mult_adds == 2 * (12 + 4)  # of one step
    norm = nn.Sequential(nn.BatchNorm1d(3))
    assert summary(norm, (2, 3), verbose=0).total_mult_adds == 0
    assert torchinfo.summary(norm, (2, 3), device="cpu", verbose=0).total_mult_adds == 2 * 6


def test_kernel_sizes_are_those_of_torchinfo() -> None:
    theirs = torchinfo.summary(networks.Convolutional(), (2, 3, 112, 112), device="cpu", verbose=0)
    ours = summary(networks.Convolutional(), (2, 3, 112, 112), col_names=["kernel_size"], verbose=0)
    sizes = {row["path"]: row["kernel_size"] for row in ours.table.rows}
    found = {path_of(layer): layer.kernel_size for layer in theirs.summary_list}
    assert {path: list(size) if isinstance(size, tuple) else size for path, size in sizes.items()} == found
    assert found["conv1"] == [3, 3]
    assert found["pool"] == 2


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"col_names": ["output_size", "memory"]}, ["col_names", "'memory'", "num_params"]),
        ({"row_settings": ["colors"]}, ["row_settings", "'colors'", "ascii_only"]),
        ({"mode": "test"}, ["mode", "'test'", "'eval'"]),
        ({"verbose": 3}, ["verbose", "3"]),
        ({"device": "meta"}, ["device", "'meta'", "cpu", "model.to('meta')"]),
        ({"batch_dim": 4, "input_size": (3,)}, ["batch_dim", "4", "0 to 1"]),
        ({"input_data": torch.zeros(2, 3)}, ["input_size", "input_data"]),
    ],
)
def test_arguments_that_cannot_be_are_named(arguments: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(torchprof.ArgumentError) as caught:
        summary(Net(), **{"input_size": (2, 3), **arguments})
    assert all(name in str(caught.value) for name in names), str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"cache_forward_pass": True}, r"cache_forward_pass=True has no effect: .*select\(\)"),
        ({"col_width": 40}, "col_width=40 has no effect: columns are as wide as what they show"),
        ({"input_size": None, "input_data": torch.zeros(2, 3), "batch_dim": 0}, "batch_dim=0 has no effect with input_data"),
        ({"input_size": None, "scale": 2}, "scale: not used, because nothing is run"),
    ],
)
def test_what_has_no_meaning_is_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.warns(UserWarning, match=said) as caught:
        summary(Net(), verbose=0, **{"input_size": (2, 3), **arguments})
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("batch_dim", [0, 1, 2])
def test_a_batch_of_one_is_put_at_the_dimension_that_is_named(batch_dim: int) -> None:
    theirs = torchinfo.summary(nn.Sequential(nn.Identity()), (5, 3), batch_dim=batch_dim, device="cpu", verbose=0)
    ours = summary(nn.Sequential(nn.Identity()), (5, 3), batch_dim=batch_dim, verbose=0)
    assert [list(shape) for shape in ours.rows[0].input_shapes] == [theirs.summary_list[0].input_size]
    assert [list(shape) for shape in ours.rows[0].input_shapes] == [[*[5, 3][:batch_dim], 1, *[5, 3][batch_dim:]]]


def test_a_batch_can_be_the_last_dimension() -> None:
    assert summary(nn.Identity(), (5, 3), batch_dim=-1, verbose=0).rows[0].input_shapes == ((5, 3, 1),)


@pytest.mark.parametrize(
    "data",
    [
        torch.zeros(2, 3),
        [torch.zeros(2, 3)],
        (torch.zeros(2, 3), 5),
        {"x": torch.zeros(2, 3)},
        {"x": torch.zeros(2, 3), "scale": 5},
    ],
    ids=["tensor", "list", "tuple", "dict", "dict with more"],
)
def test_input_data_is_what_it_is_for_torchinfo(data: Any) -> None:
    def given(function: Any) -> list[Any]:
        seen: list[Any] = []
        model = Net()
        model.register_forward_hook(lambda module, args, kwargs, output: seen.extend((args, kwargs)), with_kwargs=True)
        function(model, input_data=data, verbose=0)
        return seen

    (our_args, our_kwargs), (args, kwargs) = given(summary), given(torchinfo.summary)
    assert str((our_args, our_kwargs)) == str((args, kwargs))


class TakesAnArray(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x: np.ndarray[Any, Any], scale: float = 1.0) -> Tensor:
        return self.linear(torch.from_numpy(x) * scale)


def test_arrays_and_further_keyword_arguments_go_to_forward() -> None:
    found = summary(TakesAnArray(), input_data=np.ones((2, 3), dtype=np.float32), scale=3.0, verbose=0)
    assert found.rows[1].output_shapes == ((2, 4),)
    with pytest.raises(TypeError, match="sizes"):
        summary(TakesAnArray(), input_data=np.ones((2, 3), dtype=np.float32), sizes=3.0, verbose=0)


def test_a_model_on_meta_needs_no_memory() -> None:
    with torch.device("meta"):
        model = Net()
    for found in (summary(model, (2, 3), verbose=0), summary(model, input_data=torch.zeros(2, 3, device="meta"), verbose=0)):
        assert found.rows[0].output_shapes == ((2, 2),)
        assert found.totals.memory == "meta"


def test_dtypes_are_one_for_each_input() -> None:
    found = summary(nn.Embedding(9, 4), (2, 5), dtypes=[torch.long], verbose=0)
    assert found.rows[0].output_shapes == ((2, 5, 4),)


def test_without_inputs_nothing_is_run() -> None:
    found = summary(Net(), verbose=0)
    assert found.columns == ("params", "params_total", "param_bytes")
    assert found.total_params == torchinfo.summary(Net(), verbose=0).total_params == 46


def test_ascii_only_draws_the_tree_in_ascii() -> None:
    found = summary(Net(), (2, 3), row_settings=[RowSettings.ASCII_ONLY, "var_names", "depth"], verbose=0)
    assert str(found).isascii()
    assert "\n+- body (Sequential)" in str(found)
    assert "\n|  +- 0 (Linear)" in str(found)


def test_modules_that_stand_elsewhere_can_be_left_out() -> None:
    paths = [row.path for row in summary(networks.SharedInTwoParents(), (2, 6), verbose=0).rows]
    fewer = summary(networks.SharedInTwoParents(), (2, 6), row_settings=["hide_recursive_layers"], verbose=0)
    assert paths == ["", "a", "a.0", "a.1", "b", "b.0", "b.1"]
    assert [row.path for row in fewer.rows] == paths[:-1]


def test_it_prints_once_and_verbose_lists_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    found = summary(Net(), (2, 3))
    assert capsys.readouterr().out == f"{found}\n"
    assert repr(found) == str(found)
    summary(Net(), (2, 3), verbose=2)
    assert ". weight [2, 4] float32" in capsys.readouterr().out
    summary(Net(), (2, 3), verbose=0)
    assert capsys.readouterr().out == ""


def test_in_an_interactive_session_the_value_shows_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert "(Linear)" in repr(summary(Net(), (2, 3)))
    assert capsys.readouterr().out == ""


def test_a_size_without_its_batch_is_named_with_the_call_that_works() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(ValueError, match="expected 4D input") as caught:
        summary(model, (3, 8, 8), verbose=0)
    assert caught.value.__notes__[-1].endswith("This works: summary(model, (2, 3, 8, 8))")
    assert summary(model, (2, 3, 8, 8), verbose=0).total_params == 120


def test_where_forward_raises_the_table_up_to_there_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(5, 2))
    with pytest.raises(RuntimeError):
        summary(model, (2, 3, 8, 8), col_names=["output_size"])
    printed = capsys.readouterr().out
    assert "0 (Conv2d)  [2, 4, 6, 6]" in printed
    assert "raised RuntimeError" in printed
    with pytest.raises(RuntimeError):
        summary(model, (2, 3, 8, 8), verbose=0)
    assert capsys.readouterr().out == ""


def test_what_torchinfo_has_and_this_has_not_is_named() -> None:
    found = summary(Net(), (2, 3), verbose=0)
    with pytest.raises(AttributeError, match="'ModelStatistics' object has no attribute 'summary_list': use rows"):
        found.summary_list  # noqa: B018
    assert not hasattr(found, "formatting")
    assert found.input_size == [(2, 3)]
    assert found.total_input == 24


def test_it_needs_no_torchinfo_and_warns_of_nothing() -> None:
    script = "import sys; sys.modules['torchinfo'] = None; from torchprof.torchinfo import summary"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stderr == ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary(Net(), (2, 3), verbose=0, scale=2)
