"""What is taken as a capacity, and as the dtype of autocast: the same in Python and in a shell, and the rest with a way out."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
import torch
from torch import nn

import torchprof
from torchprof.allocator.gpus import capacity_of
from torchprof.cli.values import gpu_or_bytes

MODEL = nn.Linear(8, 8)
SIZE = (4, 8)


@pytest.mark.parametrize(
    ("capacity", "count"),
    [
        ("40GiB", 40 * 2**30),
        (" 1.5 kB ", 1500),
        ("4096", 4096),
        (4096, 4096),
        ("t4", torchprof.GPUS["T4"]),
        ("rtx4090", torchprof.GPUS["RTX 4090"]),
        ("a100_80gb", torchprof.GPUS["A100-80GB"]),
    ],
)
def test_a_capacity_is_bytes_or_memory_or_a_gpu_in_python_and_in_a_shell(capacity: int | str, count: int) -> None:
    assert capacity_of(capacity) == count
    assert capacity_of(gpu_or_bytes(str(capacity))) == count


@pytest.mark.parametrize(
    ("capacity", "says"),
    [
        ("A100", "capacity='A100' is no known GPU and no size: did you mean 'A100-40GB' or 'A100-80GB'?"),
        ("NVIDIA H100 80GB HBM3", "did you mean 'H100-80GB'?"),
        ("A10G", "give bytes, memory such as '40GiB', or one of T4, "),
        ("5 PiB", "is no known GPU and no size"),
        ("0", "must be a positive int of bytes"),
        ("9" * 40, "at most 1 PiB"),
        ("9" * 400, "no size"),
        ("4\n0", r"capacity='4\n0' is no known GPU"),
    ],
)
def test_what_is_no_capacity_is_said_with_the_way_out_in_python_and_in_a_shell(capacity: str, says: str) -> None:
    with pytest.raises(torchprof.ArgumentError) as caught:
        capacity_of(capacity)
    assert says in str(caught.value)
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        gpu_or_bytes(capacity)
    assert says.removeprefix("capacity=") in str(refused.value)


def test_an_estimate_for_a_gpu_by_another_spelling_is_that_of_the_gpu() -> None:
    one, other = (torchprof.estimate(MODEL, SIZE, capacity=name) for name in ("T4", "t4"))
    assert (one.gpu, one.capacity, one.device_memory) == (other.gpu, other.capacity, other.device_memory)
    assert torchprof.estimate(MODEL, SIZE, capacity="40 GiB").gpu == "A100-80GB", "memory says nothing of which GPU it is"


@pytest.mark.parametrize(
    "asked",
    [
        lambda: torchprof.estimate(MODEL, SIZE, device="cpu", capacity="T4"),
        lambda: torchprof.estimate(MODEL, SIZE, device="cpu").fits("T4"),
        lambda: torchprof.max_batch_size(MODEL, lambda batch: (batch, 8), "T4", device="cpu"),
    ],
)
def test_a_gpu_says_nothing_of_an_estimate_for_the_cpu(asked: Any) -> None:
    with pytest.raises(torchprof.ArgumentError, match=r"capacity='T4' .* device='cpu': give bytes, or memory such as '64GiB'"):
        asked()


def test_memory_is_a_capacity_of_the_cpu() -> None:
    assert torchprof.estimate(MODEL, SIZE, device="cpu", capacity="64 GiB").fits() is True
    assert torchprof.estimate(MODEL, SIZE, device="cpu").fits("100B") is False
    with pytest.raises(torchprof.ArgumentError, match=r"capacity is needed, .*'40GiB'$"):
        torchprof.estimate(MODEL, SIZE, device="cpu").fits()


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float32, torch.float8_e4m3fn, torch.complex64, "bf16", 16])
def test_only_what_autocast_computes_in_is_taken_for_amp(device: str, dtype: Any) -> None:
    with pytest.raises(torchprof.ArgumentError) as caught:
        torchprof.estimate(MODEL, SIZE, device=device, amp=dtype)
    assert f"amp={dtype!r} " in str(caught.value)
    assert "use torch.bfloat16 or torch.float16, or None" in str(caught.value)


def test_what_is_taken_for_amp_is_what_autocast_does_not_switch_itself_off_for(recwarn: pytest.WarningsRecorder) -> None:
    """PyTorch itself is asked, in case it takes more one day."""
    for dtype in {getattr(torch, name) for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)}:
        recwarn.clear()
        with torch.autocast("cpu", dtype=dtype):
            is_on = torch.is_autocast_enabled("cpu")
        assert is_on == (dtype in (torch.bfloat16, torch.float16))


@pytest.mark.parametrize("budget", ["64 MiB", "67108864 B", 2**26])
def test_a_budget_may_have_a_unit_in_python_as_in_a_shell(budget: int | str) -> None:
    with torchprof.profile(budget=budget) as prof:
        torch.ones(1)
    assert prof.trace.facts["budget"] == 2**26


@pytest.mark.parametrize("budget", ["64", "1 kB", "much", 5, float("nan"), None])
def test_a_budget_that_is_none_is_said_with_the_way_out(budget: Any) -> None:
    for made in (torchprof.profile, torchprof.watch):
        with pytest.raises(torchprof.ArgumentError, match=r"budget must be .* such as '4 GiB', not "):
            made(budget=budget)
