"""What a network may take, as tests: ``pytest examples/limits_in_tests.py --torchprof``. One of them fails, and says why."""

from __future__ import annotations

import find_the_leak
import pytest
import torch
from torch import nn


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return find_the_leak.network()


@pytest.mark.limit(params="500 k", flops="100 M", peak="4 MiB")
def test_inference(model: nn.Sequential) -> None:
    with torch.inference_mode():
        model(torch.ones(128, 256))


@pytest.mark.limit(peak="2 MiB", saved="4 MiB")
@pytest.mark.limit(module="3", ops=100)
def test_a_training_step(model: nn.Sequential) -> None:
    output = model(torch.ones(128, 256))
    nn.functional.cross_entropy(output, torch.zeros(128, dtype=torch.long)).backward()
