"""The tutorial's network, which the demo, the README and the documentation show: what is printed of it."""

from __future__ import annotations

import pytest
import torch
import torchsummary
from goldens import Golden
from masking import masked
from my_network import MyNetwork

import torchprof


def test_its_table_in_the_style_of_torchsummary_is_that_packages_own(
    capsys: pytest.CaptureFixture[str], golden: Golden
) -> None:
    torchprof.summary(MyNetwork(num_class=2), input_size=(3, 112, 112), batch_size=4, style="torchsummary")
    printed = capsys.readouterr().out
    golden(printed.removesuffix("\n"), "my_network_torchsummary.txt")
    torchsummary.summary(MyNetwork(num_class=2), input_size=(3, 112, 112), batch_size=4, device="cpu")
    assert capsys.readouterr().out == printed


def test_its_tree(capsys: pytest.CaptureFixture[str], golden: Golden) -> None:
    torchprof.summary(MyNetwork(num_class=2), input_size=(3, 112, 112), batch_size=4)
    golden(masked(capsys.readouterr().out), "my_network_tree.txt")


def test_it_gives_a_score_for_each_class() -> None:
    assert MyNetwork(num_class=2)(torch.zeros(4, 3, 112, 112)).shape == (4, 2)
