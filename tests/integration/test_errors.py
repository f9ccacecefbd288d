"""Bad input gets an error that names the argument, the value and the way out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchprof

NET = nn.Sequential(nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("model", "arguments", "names"),
    [
        (nn.Linear, {"input_size": (1, 4)}, ["model", "type", "instance"]),
        ("net", {}, ["model", "str", "torch.nn.Module"]),
        (NET, {"input_size": (1, 4.0)}, ["input_size", "4.0", "int"]),
        (NET, {"input_size": (1, "4")}, ["input_size", "'4'", "int"]),
        (NET, {"input_size": (1, -4)}, ["input_size", "-4", "non-negative"]),
        (NET, {"input_size": (1, True)}, ["input_size", "True", "int"]),
        (NET, {"input_size": "big"}, ["input_size", "'big'", "(3, 224, 224)"]),
        (NET, {"input_size": [(1, 4), 4]}, ["input_size", "mixes", "one tuple"]),
        (NET, {"input_size": (1, 4), "input_data": torch.ones(1, 4)}, ["input_size", "input_data", "or"]),
        (NET, {"input_data": 3}, ["input_data", "int", "tensor"]),
        (NET, {"input_data": {1: torch.ones(1)}}, ["input_data", "1", "keyword"]),
        (NET, {"input_data": torch.ones(1, 4), "batch_size": 2}, ["batch_size=2", "input_data"]),
        (NET, {"batch_size": 2}, ["batch_size=2", "input_size"]),
        (NET, {"input_size": (4,), "batch_size": 0}, ["batch_size", "0", "positive"]),
        (NET, {"input_size": (4,), "batch_size": 1.5}, ["batch_size", "1.5", "int"]),
        (NET, {"input_size": (1, 4), "dtypes": "float"}, ["dtypes", "'float'", "torch.long"]),
        (NET, {"input_size": (1, 4), "dtypes": [torch.long] * 2}, ["dtypes", "2", "1 inputs"]),
        (NET, {"input_size": (1, 4), "device": "gpu"}, ["device", "'gpu'"]),
        (NET, {"input_size": (1, 4), "style": "keras"}, ["style", "'keras'", "'tree'"]),
        (NET, {"input_size": (1, 4), "columns": ["params", "flop"]}, ["columns", "'flop'", "output"]),
        (NET, {"input_size": (1, 4), "columns": "params"}, ["columns", "list", "output"]),
        (NET, {"input_size": (1, 4), "columns": 5}, ["columns=5", "int", "list", "output"]),
        (NET, {"input_size": (1, 4), "columns": [["params"]]}, ["columns", "['params']", "output"]),
        (NET, {"input_size": (1, 4), "columns": ["kernels"]}, ["columns", "'kernels'", "output"]),
        (NET, {"input_size": (1, 4), "depth": -1}, ["depth", "-1", "int"]),
        (NET, {"input_size": (1, 4), "depth": True}, ["depth", "True", "int"]),
        (NET, {"input_size": (1, 4), "warmup": 1.5}, ["warmup", "1.5", "int"]),
        (NET, {"input_size": (1, 4), "warmup": -1}, ["warmup", "-1", "int"]),
        (NET, {"input_size": (1, 4), "verbose": 7}, ["verbose", "7", "0, 1 or 2"]),
    ],
)
def test_a_bad_argument_is_named_with_its_value_and_the_way_out(model: Any, arguments: Any, names: list[str]) -> None:
    with pytest.raises(torchprof.TorchprofError) as caught:
        torchprof.summary(model, **arguments)
    assert all(name in str(caught.value) for name in names), str(caught.value)


def test_arguments_errors_are_value_errors_and_type_errors_too() -> None:
    with pytest.raises(ValueError, match="style"):
        torchprof.summary(NET, style="keras")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="model"):
        torchprof.summary(3)  # type: ignore[arg-type]


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", []))


def test_a_wrong_shape_names_the_layer_and_where_the_inputs_came_from() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        torchprof.summary(NET, input_size=(5,), batch_size=3)
    assert "module '0' (Linear), called with float32[3, 5]" in notes(caught.value)
    assert "input_size=(5,), batch_size=3" in notes(caught.value)


def test_a_wrong_dtype_names_the_layer_and_points_to_dtypes() -> None:
    with pytest.raises(RuntimeError) as caught:
        torchprof.summary(nn.Sequential(nn.Embedding(5, 3)), input_size=(2, 4))
    assert "module '0' (Embedding), called with float32[2, 4]" in notes(caught.value)
    assert "dtypes" in notes(caught.value)


def test_a_missing_argument_of_forward_points_to_input_data() -> None:
    class Needs(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return x * mask

    with pytest.raises(TypeError, match="mask") as caught:
        torchprof.summary(Needs(), input_size=(2, 4))
    assert "input_data={'name': tensor" in notes(caught.value)


def test_backward_without_anything_to_differentiate_is_refused() -> None:
    with torch.no_grad(), pytest.raises(torchprof.ArgumentError, match=r"backward=True.*no_grad"):
        torchprof.summary(NET, input_size=(1, 4), backward=True)


@pytest.mark.parametrize(
    "arguments",
    [
        {"budget": 5},
        {"budget": "1 block"},
        {"budget": 2**80},
        {"model": 5},
        {"model": []},
        {"model": [NET, 5]},
        {"schedule": 3},
        {"gpu": "nvml"},
        {"on_trace_ready": "print"},
    ],
)
def test_profile_names_its_bad_arguments_too(arguments: Any) -> None:
    with pytest.raises(torchprof.TorchprofError, match=next(iter(arguments))):
        torchprof.profile(**arguments)


def test_a_recording_names_what_it_cannot_do() -> None:
    prof = torchprof.profile()
    with pytest.raises(torchprof.ArgumentError, match=r"mark\(name\) takes a str, not 5"):
        prof.mark(5)  # type: ignore[arg-type]
    with pytest.raises(torchprof.ModuleTypeError, match="decorates functions, not int"):
        prof(5)
    with pytest.raises(torchprof.ModuleTypeError, match="model must be"):
        prof.watch("net")  # type: ignore[arg-type]


def test_to_pandas_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        torchprof.summary(NET, verbose=0).to_pandas()


def test_an_extension_built_for_another_torch_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchprof import _built_for, _native

    _native.require_extension.cache_clear()
    monkeypatch.setattr(_built_for, "TORCH_VERSION", "2.5.0")
    with pytest.raises(torchprof.ExtensionError, match=r"built for torch 2\.5\.0.*pip install"):
        torchprof.summary(NET, input_size=(1, 4))
    _native.require_extension.cache_clear()
