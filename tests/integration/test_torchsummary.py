"""The torchsummary package's table to the character, in its style and by its own function: both packages run side by side."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import networks
import pytest
import reparametrized
import torch
import torchsummary
from torch import nn

import torchprof
from torchprof.torchsummary import summary, summary_string

DEPRECATED = pytest.mark.filterwarnings("ignore:.*deprecated")


def printed(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        function(*args, **kwargs)
    return output.getvalue()


def of_the_package(model: nn.Module, size: Any, **kwargs: Any) -> str:
    text = printed(torchsummary.summary, model, size, device="cpu", **kwargs)
    assert "Estimated Total Size (MB)" in text
    return text


def in_the_style(model: nn.Module, size: Any, **kwargs: Any) -> str:
    return printed(torchprof.summary, model, size, style="torchsummary", **kwargs)


@pytest.mark.parametrize("batch_size", [-1, 4])
@pytest.mark.parametrize("name", networks.FOR_TORCHSUMMARY)
def test_the_table_is_that_of_torchsummary(name: str, batch_size: int) -> None:
    make, size = networks.FOR_TORCHSUMMARY[name]
    model = make()
    expected = of_the_package(model, size, batch_size=batch_size)
    assert in_the_style(model, size, batch_size=batch_size) == expected
    assert printed(summary, model, size, batch_size=batch_size) == expected
    assert printed(summary, model, size, batch_size, "cpu") == expected
    assert summary_string(model, size, batch_size)[0] == expected.removesuffix("\n")


@DEPRECATED
@pytest.mark.parametrize("grad", [True, False], ids=["", "no_grad"])
@pytest.mark.parametrize("kind", reparametrized.KINDS)
def test_what_counts_is_what_torchsummary_reads(kind: str, grad: bool) -> None:
    make = reparametrized.KINDS[kind]
    with torch.set_grad_enabled(grad):
        expected = of_the_package(nn.Sequential(make(), nn.Linear(4 if kind != "MultiheadAttention" else 2, 3)), (4,))
        model = nn.Sequential(make(), nn.Linear(4 if kind != "MultiheadAttention" else 2, 3))
        assert in_the_style(model, (4,), batch_size=-1) == expected
        assert printed(summary, model, (4,)) == expected


@DEPRECATED
def test_a_weight_that_is_normed_counts_as_often_as_it_is_read() -> None:
    lines = in_the_style(nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 4))), (3,), batch_size=-1).splitlines()
    assert lines[3] == "            Linear-1                    [-1, 4]              16"
    assert lines[5:8] == ["Total params: 16", "Trainable params: 16", "Non-trainable params: 0"]


@DEPRECATED
@pytest.mark.parametrize("kind", reparametrized.KINDS)
def test_reading_a_weight_changes_nothing(kind: str) -> None:
    model = nn.Sequential(reparametrized.KINDS[kind]()).train()
    state = {name: str(value) for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    names = [(name, sorted(vars(module))) for name, module in model.named_modules()]
    summary_string(model, (4,))
    assert {name: str(value) for name, value in model.state_dict().items()} == state
    assert torch.equal(torch.get_rng_state(), random)
    assert [(name, sorted(vars(module))) for name, module in model.named_modules()] == names
    assert not torch.nn.modules.module._global_forward_hooks


def test_a_reused_layer_has_a_row_per_call_and_the_root_has_none() -> None:
    lines = in_the_style(networks.Convolutional(), (3, 112, 112), batch_size=4).splitlines()
    assert sum("ReLU-" in line for line in lines) == 4
    assert not any("Convolutional" in line for line in lines)
    assert lines[3] == "            Conv2d-1          [4, 32, 112, 112]             896"


def test_the_style_needs_no_batch_size() -> None:
    text = str(torchprof.summary(torch.nn.Sequential(torch.nn.Tanh()), (2, 3), style="torchsummary", verbose=0))
    assert "            Tanh-1                     [2, 3]               0" in text


class SequenceFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.transpose(0, 1))


@pytest.mark.parametrize("batch_size", [-1, 1, 7])
def test_the_function_runs_with_two_whatever_the_batch_size_shown(batch_size: int) -> None:
    expected = of_the_package(SequenceFirst(), (5, 3), batch_size=batch_size)
    assert f"[{batch_size}, 2, 4]" in expected
    assert printed(summary, SequenceFirst(), (5, 3), batch_size) == expected


def test_the_function_returns_what_it_printed() -> None:
    model = networks.Frozen()
    text, counts = summary_string(model, (20,))
    assert counts == (30 * 20 + 30 + 4 * 30, 4 * 30)
    assert "Total params: 750\nTrainable params: 120\n" in text
    with contextlib.redirect_stdout(io.StringIO()):
        total, trainable = summary(model, (20,))
    assert (total, trainable) == counts
    assert type(total) is int


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": self.head(self.lstm(x)[0])}


class InADict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent = Recurrent()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.recurrent(x=x)["out"]


class TwoLengths(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vector, self.sequence = nn.Linear(4, 2), nn.Linear(3, 2)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.vector(a)[:, None] + self.sequence(b)


@pytest.mark.parametrize(
    ("make", "size", "row"),
    [
        (Recurrent, (5, 3), ["LSTM-1", "[[-1, 5, 4], [-1, 2, 4], [-1, 2, 4]]", "0"]),
        (InADict, (5, 3), ["Recurrent-3", "[-1, 5, 2]", "0"]),
        (lambda: nn.Linear(3, 4), (3,), ["Linear-1", "[-1, 4]", "16"]),
        (lambda: nn.Sequential(nn.ReLU()), (3,), ["ReLU-1", "[-1, 3]", "0"]),
        (TwoLengths, [(4,), (6, 3)], ["Linear-2", "[-1, 6, 2]", "8"]),
    ],
    ids=["LSTM", "keyword and dict", "one layer", "no parameters", "sizes of other lengths"],
)
def test_models_that_the_package_has_no_table_for_have_one(make: Callable[[], nn.Module], size: Any, row: list[str]) -> None:
    with pytest.raises((AttributeError, ValueError)), contextlib.redirect_stdout(io.StringIO()):
        torchsummary.summary(make(), size, device="cpu")
    assert row in [re.split(r"\s{2,}", line.strip()) for line in printed(summary, make(), size).splitlines()]


@pytest.mark.parametrize("device", [None, "cpu", "CPU", "cuda", torch.device("cuda:0"), torch.device("cpu")])
def test_the_default_device_of_either_version_is_where_the_model_is(device: Any) -> None:
    if torch.cuda.is_available() and "cuda" in str(device):
        pytest.skip("there is CUDA")
    assert "[-1, 2]" in printed(summary, nn.Sequential(nn.Linear(3, 2)), (3,), device=device)


@pytest.mark.parametrize("dtypes", [[torch.long], [torch.LongTensor], torch.long], ids=str)
def test_dtypes_are_those_of_torch_or_types_of_tensors(dtypes: Any) -> None:
    model = nn.Sequential(nn.Embedding(9, 3), nn.Linear(3, 2))
    text = printed(summary, model, (5,), dtypes=dtypes)
    assert "Embedding-1                 [-1, 5, 3]              27" in text


def test_a_model_on_meta_has_the_same_table() -> None:
    with torch.device("meta"):
        model = networks.Convolutional()
    assert printed(summary, model, (3, 112, 112)) == of_the_package(networks.Convolutional(), (3, 112, 112))


def test_neither_function_needs_the_package_it_stands_for() -> None:
    script = "import sys; sys.modules['torchsummary'] = None; from torchprof.torchsummary import summary"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stderr == ""
