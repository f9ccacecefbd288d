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


@pytest.mark.parametrize(("kind", "numbers"), [(nn.LSTM, 5), (nn.GRU, 6), (nn.RNN, 0)])
def test_recurrent_layers_keep_a_reserve_for_backward(kind: Any, numbers: int) -> None:
    batch, steps, hidden, layers = 8, 40, 128, 2
    found = torchprof.estimate(kind(64, hidden, num_layers=layers, batch_first=True), (batch, steps, 64))
    assert "aten::_cudnn_rnn" in found.trace.strings
    units = batch * steps * hidden
    reserve = 4 * units * (numbers * layers + layers - 1) + 256
    initial = 4 * layers * batch * hidden * (2 if kind is nn.LSTM else 1)
    assert saved(found) == reserve + 4 * units + initial  # and the output, and the initial state
    assert any("only a GPU can tell" in note for note in found.notes)


def blocks(model: nn.Module, x: Tensor, **options: Any) -> list[int]:
    found = torchprof.estimate(model, x, steps=1, capacity="H200", loss=lambda made: made[0].float().sum(), **options)
    sizes: list[int] = found.memory.allocations["bytes"].tolist()
    return sizes


STEPS = torch.empty(16, 64, 256, device="meta")
"""Of a batch of 16."""


def test_the_reserve_is_what_an_h200_was_seen_to_keep() -> None:
    lstm, gru = nn.LSTM(256, 512, 2, batch_first=True, dropout=0.1), nn.GRU(256, 512, 2, batch_first=True)
    assert 23_134_464 in blocks(lstm, STEPS)
    assert 27_263_232 in blocks(gru, STEPS)
    assert 11_600_128 in blocks(lstm, STEPS, amp=torch.bfloat16)


def test_dropout_between_layers_has_a_state_for_every_thread_of_the_gpu_and_only_in_training() -> None:
    def state(gpu: str, dropout: float = 0.1, *, trains: bool = True) -> list[int]:
        model = nn.LSTM(8, 8, 2, dropout=dropout).train(trains)
        found = torchprof.estimate(model, (4, 2, 8), capacity=gpu, steps=1)
        return [overhead.bytes for overhead in found.overheads if overhead.name == "cuDNN dropout state"]

    assert state("H200") == [6_488_064]
    assert state("A100-80GB") == [24 * 108 * 2048]
    assert state("H200", dropout=0.0) == []
    assert state("H200", trains=False) == []


def test_what_has_the_batch_first_is_copied_and_comes_out_transposed() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.head = nn.GRU(256, 512, batch_first=True), nn.Linear(512, 8)

        def forward(self, x: Tensor) -> Tensor:
            out = self.layers(x)[0]
            assert out.stride() == (512, 16 * 512, 1)
            return self.head(out)

    found = torchprof.estimate(Head(), STEPS, steps=1, capacity="H200")
    assert "aten::addmm" not in found.trace.strings  # for which the head would have to be given rows in order


def test_under_autocast_recurrent_layers_compute_in_16_bits() -> None:
    lstm = nn.LSTM(256, 512, 2, batch_first=True)
    made = torchprof.estimate(lstm, STEPS, steps=1, amp=torch.bfloat16, step=None, loss=lambda out: out[0].float().sum())
    in_half = sum(parameter.numel() for parameter in lstm.parameters()) * 2
    assert in_half in made.memory.allocations["bytes"]  # gradients, before they are cast


IMAGES = 16
FLOAT, HALF = torch.float32, torch.bfloat16


def workspaces(
    inputs: int, outputs: int, size: int, kernel: int, dtype: torch.dtype, stride: int = 1, *, last: bool = False
) -> tuple[int, int]:
    """What a convolution of 16 images takes on an H200, in forward and in backward, as the rule has it."""
    form = torch.channels_last if last else torch.contiguous_format
    options: dict[str, Any] = {"padding": kernel // 2, "stride": stride, "bias": False}
    model = nn.Conv2d(inputs, outputs, kernel, **options).to(dtype=dtype, memory_format=form)
    x = torch.empty(IMAGES, inputs, size, size, dtype=dtype, device="meta", requires_grad=True).to(memory_format=form)
    found = torchprof.estimate(model, x, steps=1, capacity="H200")
    names = [found.trace.strings[row] for row in found.trace.op_names]
    rows = found.memory.allocations
    taken = {"aten::convolution": 0, "aten::convolution_backward": 0}
    tensors = {tensor.numel() * dtype.itemsize for tensor in (x, model.weight, model.to("meta")(x))}
    for size_of, op in zip(rows["bytes"].tolist(), rows["op"].tolist(), strict=True):
        if op >= 0 and names[op] in taken and size_of not in tensors:
            taken[names[op]] += size_of
    return taken["aten::convolution"], taken["aten::convolution_backward"]


@pytest.mark.parametrize(
    ("layer", "dtype", "stride", "seen"),
    [  # of a ResNet-50: forward, and the larger of the gradients' in backward, where cuDNN did not split them
        ((128, 128, 28, 3), HALF, 1, (6_717_456, 6_717_456)),
        ((128, 128, 56, 3), HALF, 2, (16_351_248, 16_351_248)),
        ((512, 1024, 28, 1), HALF, 2, (19_267_600, 19_267_600)),
        ((512, 2048, 7, 1), HALF, 1, (4_014_096, 4_014_096)),
        ((512, 2048, 7, 1), FLOAT, 1, (8_028_176, 8_028_176)),
        ((1024, 2048, 14, 1), FLOAT, 2, (19_267_600, 19_267_600)),
        ((128, 512, 28, 1), HALF, 1, (0, 4_194_304)),
        ((64, 256, 56, 1), FLOAT, 1, (0, 1_048_576)),
        ((1024, 512, 14, 1), FLOAT, 1, (0, 33_554_432)),
        ((3, 64, 224, 7), HALF, 2, (38_585_360, None)),
        ((3, 64, 224, 7), FLOAT, 2, (61_051_664, None)),
    ],
)
def test_workspaces_of_convolutions_are_those_of_an_h200_but_for_some_bytes(
    layer: tuple[int, int, int, int], dtype: torch.dtype, stride: int, seen: tuple[int, int | None]
) -> None:
    for found, expected in zip(workspaces(*layer, dtype, stride), seen, strict=True):
        assert expected is None or 0 <= expected - found <= 512


def test_channels_last_convolutions_convert_only_pixels_of_no_multiple_of_16_bytes() -> None:
    assert 0 <= 12_895_248 - workspaces(3, 64, 224, 7, HALF, 2, last=True)[0] <= 512
    assert 0 <= 9_671_440 - workspaces(3, 64, 224, 7, FLOAT, 2, last=True)[0] <= 512
    assert workspaces(128, 128, 28, 3, HALF, last=True) == (0, 0)
    assert 0 <= 16_777_472 - workspaces(1024, 512, 14, 1, FLOAT, last=True)[1] <= 512


def test_gradients_of_recurrent_layers_are_one_tensor() -> None:
    model = nn.LSTM(64, 128, bidirectional=True, proj_size=32)
    found = torchprof.estimate(model, (40, 8, 64), optimizer=torch.optim.SGD)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert 4 * count in found.memory.allocations["bytes"]
    assert found.by_category["gradients"] == 4 * count
