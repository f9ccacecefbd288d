"""The rules for cuDNN, on networks small enough to count by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_estimate import saved
from torch import Tensor, nn

import torchprof

INPUT, OUTPUT, WEIGHT = 8 * 32 * 64 * 64, 8 * 64 * 62 * 62, 64 * 32 * 9


def taken(dtype: torch.dtype, last: bool = False, groups: int = 1, **options: Any) -> int:
    """Bytes that the peak of a forward pass is above its tensors."""
    form = torch.channels_last if last else torch.contiguous_format
    model = nn.Conv2d(32, 64, 3, bias=False, groups=groups).to(dtype=dtype, memory_format=form)
    x = torch.empty(8, 32, 64, 64, dtype=dtype, device="meta").to(memory_format=form)

    def forward(model: nn.Module, optimizer: object, x: Tensor) -> None:
        with torch.no_grad():
            model(x)

    found = torchprof.estimate(model, x, step=forward, **options)
    return found.memory.peak.bytes - (INPUT + OUTPUT + WEIGHT // groups) * dtype.itemsize


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_comes_channels_first_is_converted_for_tensor_cores(dtype: torch.dtype) -> None:
    assert taken(dtype) == (INPUT + OUTPUT + WEIGHT) * dtype.itemsize
    assert taken(dtype, last=True) == 0
    assert taken(dtype, groups=32) == 0


def test_float32_is_converted_only_where_there_is_tf32() -> None:
    assert taken(torch.float64) == 0
    assert taken(torch.float32, capacity="T4") == 0
    assert taken(torch.float16, capacity="T4") > 0
    assert taken(torch.float32, capacity="H200") > 0
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        assert taken(torch.float32) == 0
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


@pytest.mark.parametrize(
    ("channels", "size", "workspace"), [(256, 14, 47_185_920), (512, 7, 56_623_104), (128, 28, 60_162_048)]
)
def test_on_a_v100_filters_of_3_x_3_take_what_a_real_resnet_took(channels: int, size: int, workspace: int) -> None:
    """The last was seen to take a block of 60,817,408 bytes: less than 1 MiB is not split off."""
    model = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    x = torch.empty(32, channels, size, size, device="meta")
    found = torchprof.estimate(model, x, loss=torch.sum, steps=1, capacity="V100-32GB")
    assert found.memory.allocations["bytes"].tolist().count(workspace) == 2


def test_on_a_v100_other_filters_take_nothing_but_gradients_of_64_channels() -> None:
    def workspaces(*shape: int, **options: Any) -> list[int]:
        inputs, outputs = shape
        x = torch.empty(32, inputs, 56, 56, device="meta")
        model = nn.Conv2d(inputs, outputs, bias=False, device="meta", **options)
        found = torchprof.estimate(model, x, loss=torch.sum, steps=1, capacity="V100-32GB")
        tensors = (model.weight.nbytes, x.nbytes, model(x).nbytes)
        return [size for size in found.memory.allocations["bytes"].tolist() if size > 2**16 and size not in tensors]

    assert workspaces(64, 64, kernel_size=3, padding=1) == [116_195_328]
    assert workspaces(64, 64, kernel_size=1) == []
    assert workspaces(128, 128, kernel_size=3, stride=2) == []
    assert workspaces(128, 128, kernel_size=3, dilation=2) == []
    assert workspaces(128, 128, kernel_size=3, groups=2) == []


@pytest.mark.parametrize(("kind", "numbers"), [(nn.LSTM, 5), (nn.GRU, 4), (nn.RNN, 0)])
def test_recurrent_layers_keep_a_reserve_for_backward(kind: Any, numbers: int) -> None:
    batch, steps, hidden, layers = 8, 40, 128, 2
    found = torchprof.estimate(kind(64, hidden, num_layers=layers, batch_first=True), (batch, steps, 64))
    assert "aten::_cudnn_rnn" in found.trace.strings
    units = batch * steps * hidden
    reserve = 4 * units * (numbers * layers + layers - 1)
    initial = 4 * layers * batch * hidden * (2 if kind is nn.LSTM else 1)
    assert saved(found) == reserve + 4 * units + initial  # and the output, and the initial state
    assert any("only a GPU can tell" in note for note in found.notes)


def test_gradients_of_recurrent_layers_are_one_tensor() -> None:
    model = nn.LSTM(64, 128, bidirectional=True, proj_size=32)
    found = torchprof.estimate(model, (40, 8, 64), optimizer=torch.optim.SGD)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert 4 * count in found.memory.allocations["bytes"]
    assert found.by_category["gradients"] == 4 * count
