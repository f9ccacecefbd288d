"""Where inputs have another dtype or device than the model needs, the note names the argument that fits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchprof
from torchprof.record.inputs import Inputs
from torchprof.record.mismatch import mismatch_note
from torchprof.trace.model import Model, ModuleInfo, TensorInfo
from torchprof.trace.trace import Trace


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def note(model: nn.Module, *arguments: Any, **options: Any) -> str:
    """What is added to the exception that the model raises."""
    with pytest.raises((RuntimeError, ValueError, IndexError)) as caught:
        torchprof.summary(model, *arguments, verbose=0, **options)
    return "\n".join(getattr(caught.value, "__notes__", ()))


class TokensAndFeatures(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4, dtype=dtype)
        self.project = nn.Linear(3, 4, dtype=dtype)

    def forward(self, tokens: Tensor, features: Tensor) -> Tensor:
        return self.project(features) + self.embed(tokens).mean(1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("layer", [lambda: nn.Linear(3, 4), lambda: nn.Linear(3, 4, bias=False)])
def test_the_dtype_of_the_parameters_is_named(layer: Any, dtype: torch.dtype) -> None:
    made = note(nn.Sequential(layer().to(dtype)), (2, 3))
    assert f"parameters of '0' are {str(dtype)[6:]}, and the inputs are float32: dtypes={dtype} makes inputs that fit" in made


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Conv2d(3, 4, 3), (2, 3, 8, 8)),
        (nn.ConvTranspose2d(3, 4, 3), (2, 3, 8, 8)),
        (nn.BatchNorm2d(3), (2, 3, 8, 8)),
        (nn.LayerNorm(3), (2, 3)),
        (nn.GroupNorm(1, 3), (2, 3, 4)),
        (nn.LSTM(3, 4), (2, 5, 3)),
        (nn.GRU(3, 4), (2, 5, 3)),
        (nn.PReLU(), (2, 3)),
        (nn.TransformerEncoderLayer(4, 2, 8), (2, 5, 4)),
        (nn.TransformerEncoderLayer(4, 2, 8).eval(), (2, 5, 4)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_layer_that_refuses_a_dtype_is_understood(layer: nn.Module, size: tuple[int, ...]) -> None:
    model = nn.Sequential(layer).double()
    assert "dtypes=torch.float64 makes inputs that fit" in note(model, size)
    torchprof.summary(model, size, dtypes=torch.float64, verbose=0)


@pytest.mark.parametrize("layer", [nn.Embedding(5, 3), nn.EmbeddingBag(5, 3)])
def test_indices_are_integers(layer: nn.Module) -> None:
    assert "indices must be integers, and the inputs are float32: dtypes=torch.long makes" in note(nn.Sequential(layer), (2, 4))
    torchprof.summary(nn.Sequential(layer), (2, 4), dtypes=torch.long, verbose=0)


def test_a_parameter_that_is_indexed_needs_integers_too() -> None:
    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.ones(5, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.table[x]

    assert "dtypes=torch.long" in note(Lookup(), (2,))


def test_of_several_inputs_only_those_that_are_wrong_change() -> None:
    sizes = [(2, 7), (2, 3)]
    assert "dtypes=[torch.long, torch.float32] makes" in note(TokensAndFeatures(), sizes)
    double = TokensAndFeatures(torch.float64)
    assert "dtypes=[torch.long, torch.float64] makes" in note(double, sizes, dtypes=[torch.long, torch.float32])
    torchprof.summary(double, sizes, dtypes=[torch.long, torch.float64], verbose=0)


def test_integers_where_floats_are_needed() -> None:
    assert "dtypes=torch.float32 makes" in note(nn.Sequential(nn.Linear(3, 4)), (2, 3), dtypes=torch.long)


def test_data_of_ones_own_is_converted() -> None:
    model = nn.Sequential(nn.Linear(3, 4)).double()
    assert "input_data has float32: convert it, as by x.to(torch.float64)" in note(model, input_data=torch.ones(2, 3))
    assert "dtypes=" not in note(model, input_data=torch.ones(2, 3))
    tokens = nn.Sequential(nn.Embedding(5, 3))
    assert "as by x.to(torch.long)" in note(tokens, input_data=torch.ones(2, 3))


def test_the_default_dtype_is_that_of_torch(float64_by_default: None) -> None:
    found = torchprof.summary(nn.Sequential(nn.Linear(3, 4)), (2, 3), verbose=0)
    assert found.rows[0].output_dtypes == ("float64",)


def test_where_the_default_dtype_is_to_blame_it_is_named(float64_by_default: None) -> None:
    model = nn.Sequential(nn.Linear(3, 4, dtype=torch.float32))
    assert "the inputs are float64 (torch's default dtype is float64): dtypes=torch.float32 makes" in note(model, (2, 3))


@pytest.mark.parametrize(
    "message",
    [
        "Expected all tensors to be on the same device, but got mat1 is on cpu, different from other tensors on cuda:0",
        "Input type (torch.FloatTensor) and weight type (torch.cuda.FloatTensor) should be the same",
        "Input and parameter tensors are not at the same device, found input tensor at cpu and parameter tensor at cuda:0",
        "Tensor on device cpu is not on the expected device cuda:0!",
    ],
)
def test_another_device_is_named(message: str) -> None:
    weight = TensorInfo("weight", (4, 3), "float32", "cuda:0", 12, 48, trainable=True)
    model = Model((ModuleInfo("", "Linear", "Linear", -1, 0, 1, parameters=(weight,)),))
    given, inputs = ("float32[2, 3]",), Inputs((torch.ones(2, 3),))
    expected = 'the inputs are on cpu, and the model is on cuda:0: device="cuda:0" puts them there'
    assert mismatch_note(RuntimeError(message), Trace.empty(model), "", given, inputs, made=True) == expected
    assert mismatch_note(RuntimeError(message), Trace.empty(model), "", given, inputs, made=False) == expected
    assert mismatch_note(RuntimeError("no"), Trace.empty(model), "", given, inputs, made=True) == ""


def test_a_model_on_several_devices_has_its_inputs_where_it_begins() -> None:
    weights = [TensorInfo("weight", (3, 3), "float32", device, 9, 36, trainable=True) for device in ("cpu", "cuda:0")]
    model = Model(tuple(ModuleInfo(str(at), str(at), "Linear", -1, 0, at, parameters=(w,)) for at, w in enumerate(weights)))
    error = RuntimeError("Expected all tensors to be on the same device")
    assert mismatch_note(error, Trace.empty(model), "1", ("float32[2, 3]",), Inputs((torch.ones(2, 3),)), made=True) == ""


def test_where_the_model_mixes_dtypes_the_inputs_are_not_to_blame() -> None:
    mixed = note(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4, dtype=torch.float64)), (2, 3))
    assert "parameters of '1' are float64, and it was called with float32[2, 4]: parameters of the model have several" in mixed
    assert "dtypes=" not in mixed
    same_size = note(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3, dtype=torch.float64)), (2, 3))
    assert "dtypes=" not in same_size


def test_tokens_stay_integers_where_a_later_layer_refuses_a_dtype() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 4, dtype=torch.float64))
    assert "dtypes=" not in note(model, (2, 7), dtypes=torch.long)


def test_indices_that_the_model_made_are_not_the_inputs() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score, self.embed = nn.Linear(3, 5), nn.Embedding(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.embed(self.score(x))

    assert "dtypes=" not in note(Looks(), (2, 3))


def test_other_errors_get_no_such_note() -> None:
    wrong_size = note(nn.Sequential(nn.Linear(3, 4)), (2, 5))
    assert "makes inputs that fit" not in wrong_size
    assert "input_size=(2, 5): check these and dtypes" in wrong_size

    class Raises(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("an index of my own")

    assert "indices" not in note(Raises(), (2,), dtypes=torch.long)
