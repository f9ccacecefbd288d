"""The CUDA context: what it is taken to be on each GPU, and what is said where another size would decide."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchprof
from torchprof import GPUS, Estimate
from torchprof.allocator.gpus import COMPUTE_CAPABILITY, MULTIPROCESSORS
from torchprof.estimation.overheads import Overhead

GIB, MIB = 2**30, 2**20


def of(capacity: int | str | None) -> Estimate:
    return torchprof.estimate(nn.Linear(64, 64), (4, 64), capacity=capacity)


def context(found: Estimate) -> Overhead:
    (only,) = (overhead for overhead in found.overheads if overhead.name == "CUDA context")
    return only


@pytest.mark.parametrize(
    ("gpu", "least", "taken", "most"),
    [
        ("T4", 0.11, 0.16, 0.16),
        ("A10", 0.21, 0.49, 0.49),
        ("A100-80GB", 0.48, 0.53, 0.53),
        ("B200", 0.24, 0.5, 0.84),
        (None, 0.24, 0.5, 0.84),
    ],
)
def test_the_context_is_the_largest_that_was_seen_on_the_gpu(gpu: str | None, least: float, taken: float, most: float) -> None:
    found = context(of(gpu))
    assert (found.at_least, found.bytes, found.at_most) == (int(least * GIB), int(taken * GIB), int(most * GIB))
    assert f"{least} to {most} GiB" in found.source


def test_every_gpu_has_a_range_that_holds_what_is_taken() -> None:
    for gpu in GPUS:
        found = context(of(gpu))
        assert found.at_least is not None
        assert found.at_most is not None
        assert found.at_least <= found.bytes <= found.at_most < GPUS[gpu] / 10


def test_the_text_says_where_another_size_would_decide() -> None:
    needed = of(None).max_reserved
    assert ", unless the CUDA context takes more: 860.2 MiB were seen" in str(of(needed + 600 * MIB))
    assert ", unless the CUDA context takes less: 245.8 MiB were seen; " in str(of(needed + 400 * MIB))
    assert "unless" not in str(of(needed + 900 * MIB))
    assert "unless" not in str(of(needed + 100 * MIB))


def test_gpus_report_less_than_their_names_say() -> None:
    assert GPUS["A10"] == int(21.99 * GIB)
    assert GPUS.keys() == COMPUTE_CAPABILITY.keys() == MULTIPROCESSORS.keys()


def test_on_the_cpu_nothing_is_said() -> None:
    found = torchprof.estimate(nn.Linear(64, 64), torch.empty(4, 64), device="cpu", capacity=2**30)
    assert found.overheads == ()
    assert "unless" not in str(found)
