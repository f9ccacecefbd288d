"""What forward writes on a device is put back, and the account does not show how."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import torchprof


class Written(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(4.0))
        self.register_buffer("large", torch.ones(2**19))
        self.register_buffer("steps", torch.zeros(1))
        self.zeros, self.one = torch.zeros(2**19), torch.ones(1)
        self.writes = True

    def forward(self, x: Tensor) -> Tensor:
        if self.writes:
            with torch.no_grad():
                self.weight.copy_(x)
                self.large.copy_(self.zeros)
                self.steps.copy_(self.one)
        return x.view(2, 2)


def test_what_forward_writes_on_a_device_is_put_back(fake: Any) -> None:
    model, x = Written().to("fake"), torch.ones(4).to("fake")
    addresses = [tensor.data_ptr() for tensor in (model.weight, model.large, model.steps)]
    torchprof.summary(model, input_data=x, verbose=0)
    assert model.weight.cpu().tolist() == [0.0, 1.0, 2.0, 3.0]
    assert (model.large.cpu().min().item(), model.steps.cpu().item()) == (1.0, 0.0)
    assert [tensor._version for tensor in (model.weight, model.large, model.steps)] == [0, 0, 0]
    assert [tensor.data_ptr() for tensor in (model.weight, model.large, model.steps)] == addresses


def test_copies_on_a_device_are_not_in_the_account(fake: Any) -> None:
    model, x = Written().to("fake"), torch.ones(4).to("fake")
    writing = torchprof.summary(model, input_data=x, verbose=0).totals
    model.writes = False
    idle = torchprof.summary(model, input_data=x, verbose=0).totals
    assert (writing.allocated, writing.peak) == (idle.allocated, idle.peak)


def test_no_copy_stays_allocated_on_the_device(fake: Any) -> None:
    model, x = Written().to("fake"), torch.ones(4).to("fake")
    before = fake.allocated()
    torchprof.summary(model, input_data=x, verbose=0)
    assert fake.allocated() == before
