"""``style="torchsummary"`` is the torchsummary package's table to the character: both run side by side."""

from __future__ import annotations

import networks
import pytest
import torch
import torchsummary

import torchprof


@pytest.mark.parametrize("batch_size", [-1, 4])
@pytest.mark.parametrize("name", networks.FOR_TORCHSUMMARY)
def test_the_table_is_that_of_torchsummary(name: str, batch_size: int, capsys: pytest.CaptureFixture[str]) -> None:
    make, size = networks.FOR_TORCHSUMMARY[name]
    model = make()
    torchsummary.summary(model, size, batch_size=batch_size, device="cpu")
    expected = capsys.readouterr().out
    torchprof.summary(model, size, batch_size=batch_size, style="torchsummary")
    assert capsys.readouterr().out == expected
    assert "Estimated Total Size (MB)" in expected


def test_a_reused_layer_has_a_row_per_call_and_the_root_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    torchprof.summary(networks.Convolutional(), (3, 112, 112), batch_size=4, style="torchsummary")
    lines = capsys.readouterr().out.splitlines()
    assert sum("ReLU-" in line for line in lines) == 4
    assert not any("Convolutional" in line for line in lines)
    assert lines[3] == "            Conv2d-1          [4, 32, 112, 112]             896"


def test_the_style_needs_no_batch_size() -> None:
    text = str(torchprof.summary(torch.nn.Sequential(torch.nn.Tanh()), (2, 3), style="torchsummary", verbose=0))
    assert "            Tanh-1                     [2, 3]               0" in text
