"""The packed parameters of quantized modules count like others: elements, dtypes and bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.ao.nn import quantized
from torch.ao.nn.intrinsic import quantized as fused
from torch.ao.quantization import quantize_dynamic

import torchprof
from torchprof.analysis.model.totals import Totals
from torchprof.record.held_by_model import held_by
from torchprof.record.modules import walk
from torchprof.trace.schema import Use

pytestmark = pytest.mark.filterwarnings("ignore")  # the names of this package are deprecated


def dynamic(module: nn.Module, dtype: torch.dtype = torch.qint8) -> nn.Module:
    return quantize_dynamic(nn.Sequential(module), {type(module)}, dtype=dtype)


def totals(model: nn.Module) -> Totals:
    return torchprof.summary(model, verbose=0).totals


RECURRENT: dict[str, Callable[[], nn.Module]] = {
    "LSTM": lambda: nn.LSTM(8, 16),
    "a deep LSTM": lambda: nn.LSTM(8, 16, 3, bidirectional=True),
    "GRU": lambda: nn.GRU(8, 16, 2),
    "LSTMCell": lambda: nn.LSTMCell(8, 16),
    "GRUCell": lambda: nn.GRUCell(8, 16),
    "RNNCell": lambda: nn.RNNCell(8, 16),
    "Linear": lambda: nn.Linear(8, 16),
    "Linear without bias": lambda: nn.Linear(8, 16, bias=False),
}


@pytest.mark.parametrize(("dtype", "size"), [(torch.qint8, 1), (torch.float16, 2)])
@pytest.mark.parametrize("name", RECURRENT)
def test_dynamic_modules_have_the_elements_of_the_module_they_were_made_of(name: str, dtype: torch.dtype, size: int) -> None:
    module = RECURRENT[name]()
    weights = sum(p.numel() for n, p in module.named_parameters() if "weight" in n)
    biases = sum(p.numel() for n, p in module.named_parameters() if "bias" in n)
    found = totals(dynamic(module, dtype))
    assert found.params == weights + biases
    assert found.trainable == 0
    kind = str(dtype).removeprefix("torch.")
    assert found.param_bytes_by_dtype == {kind: size * weights} | ({"float32": 4 * biases} if biases else {})


@pytest.mark.parametrize("name", ["LSTM", "a deep LSTM", "GRU"])
def test_a_quantized_rnn_is_summarized_and_recorded(name: str) -> None:
    model, x = dynamic(RECURRENT[name]()), torch.rand(5, 2, 8)
    summary = torchprof.summary(model, input_data=x, verbose=0)
    assert [(row.path, row.params > 0) for row in summary.rows][:2] == [("", False), ("0", True)]
    assert all(row.params == 0 for row in summary.rows[2:]), "what is in it is counted once"
    with torchprof.profile(model) as prof:
        model(x)
    assert [row for row in torchprof.by_op(prof.trace).rows if "unpack" in row["name"]] == []


STATIC: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    # elements of the weight and of the bias, by hand
    "Linear": (lambda: quantized.Linear(4, 5), 20, 5),
    "Conv1d": (lambda: quantized.Conv1d(3, 4, 3), 36, 4),
    "Conv2d": (lambda: quantized.Conv2d(3, 4, 3), 108, 4),
    "Conv3d": (lambda: quantized.Conv3d(3, 4, 3), 324, 4),
    "ConvTranspose1d": (lambda: quantized.ConvTranspose1d(3, 4, 3), 36, 4),
    "ConvTranspose2d": (lambda: quantized.ConvTranspose2d(3, 4, 3), 108, 4),
    "ConvTranspose3d": (lambda: quantized.ConvTranspose3d(3, 4, 3), 324, 4),
    "LinearReLU": (lambda: fused.LinearReLU(4, 5), 20, 5),
    "ConvReLU1d": (lambda: fused.ConvReLU1d(3, 4, 3), 36, 4),
    "ConvReLU2d": (lambda: fused.ConvReLU2d(3, 4, 3), 108, 4),
    "ConvReLU3d": (lambda: fused.ConvReLU3d(3, 4, 3), 324, 4),
}


@pytest.mark.parametrize("name", STATIC)
def test_static_modules_count_their_weight_and_bias(name: str) -> None:
    make, weight, bias = STATIC[name]
    found = totals(nn.Sequential(make()))
    assert (found.params, found.param_bytes_by_dtype) == (weight + bias, {"qint8": weight, "float32": 4 * bias})


def test_scales_and_zero_points_of_channels_are_bytes_and_no_parameters() -> None:
    layer = quantized.Linear(8, 16, bias_=False)
    weight = torch.quantize_per_channel(torch.ones(16, 8), torch.full((16,), 0.1), torch.zeros(16).long(), 0, torch.qint8)
    layer.set_weight_bias(weight, None)
    found = totals(layer)
    assert (found.params, found.param_bytes_by_dtype) == (128, {"qint8": 128 + 16 * 8 + 16 * 8})  # float64 and int64


@pytest.mark.parametrize("make", [quantized.Embedding, quantized.EmbeddingBag])
def test_an_embedding_has_a_scale_and_a_zero_point_for_each_row(make: Callable[..., nn.Module]) -> None:
    found = totals(make(10, 12))
    assert (found.params, found.param_bytes_by_dtype) == (120, {"quint8": 120 + 10 * 4 + 10 * 4})  # float32 both


def test_elements_of_four_bits_share_bytes() -> None:
    layer = quantized.EmbeddingBag(10, 12, dtype=torch.quint4x2)
    scales, zeros = torch.full((10,), 0.1), torch.zeros(10)
    weight = torch.quantize_per_channel(torch.ones(10, 12), scales, zeros, 0, torch.quint4x2)
    layer.set_weight(weight)
    found = totals(layer)
    assert (found.params, found.param_bytes_by_dtype) == (120, {"quint4x2": 60 + 10 * 4 + 10 * 4})


def test_a_quantized_attribute_is_a_parameter() -> None:
    prelu = quantized.PReLU(1.0, 0, num_parameters=3)
    assert totals(prelu).params == prelu.weight.numel()


class Packed(nn.Module):
    """A module of the program's own, which packs something."""

    def __init__(self, packed: object) -> None:
        super().__init__()
        self._packed_params = packed

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_packed_parameters_of_a_class_of_the_programs_are_counted() -> None:
    packed = torch.ops.quantized.linear_prepack(torch.quantize_per_tensor(torch.ones(5, 4), 0.1, 0, torch.qint8), None)
    assert totals(Packed(packed)).param_bytes_by_dtype == {"qint8": 20}


def test_a_packed_object_that_cannot_be_read_is_unknown() -> None:
    cells = dynamic(nn.LSTM(8, 16))[0]._all_weight_values[0].param  # type: ignore[index,union-attr]
    summary = torchprof.summary(Packed(cells), (2, 3), verbose=0)
    assert summary.rows[0].note == "params unknown: packed in an object that cannot be read"
    assert [tensor.dtype for tensor in summary.rows[0].tensors] == ["unknown"]
    assert summary.totals.params_unknown == 1
    assert "Params: at least 0 (0 trainable, 0 frozen)\nSize of params: at least 0 B;" in str(summary)


def test_biases_of_a_quantized_module_are_memory_of_the_model() -> None:
    model = dynamic(nn.Linear(64, 32))
    bias = model[0]._weight_bias()[1]  # type: ignore[index,operator]
    held = held_by(walk(model), at_end=False)
    assert [(each.address, each.bytes, each.uses) for each in held.rows] == [(bias.data_ptr(), 4 * 32, Use.PARAMETER)]
