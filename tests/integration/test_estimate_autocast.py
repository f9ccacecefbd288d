"""Autocast on CUDA: what it casts, as the header that PyTorch installs lists it, and what that takes."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchprof
from torchprof import ArgumentError, Estimate
from torchprof.estimation.rules.autocast_policies import Policy, treatments

HALF, OTHER_HALF, FLOAT = torch.float16, torch.bfloat16, torch.float32
HEADER = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
LISTS = {
    Policy.LOWER: "AT_FORALL_LOWER_PRECISION_FP",
    Policy.FLOAT32: "AT_FORALL_FP32",
    Policy.FLOAT32_RESULT: "AT_FORALL_FP32_SET_OPT_DTYPE",
    Policy.WIDEST: "AT_FORALL_PROMOTE",
}
IN_NO_LIST = {"cudnn_convolution.default", "cudnn_convolution_transpose.default", "norm.Scalar", "norm.ScalarOpt_dim"}

Function = Callable[[Tensor, Tensor], Any]


def listed(name: str) -> set[str]:
    """The ops of a list of the header."""
    text = HEADER.read_text()
    body = text.partition(f"define {name}(_)")[2].partition("\n\n")[0]
    return {f"{op}.{overload or 'default'}" for op, overload in re.findall(r"_\((\w+)(?:, (\w+))?\)", body)}


@pytest.mark.parametrize("policy", LISTS)
def test_what_autocast_does_to_an_op_is_what_the_header_says(policy: Policy) -> None:
    of_policy = [op for op, treatment in treatments("cuda").items() if treatment.policy is policy and op.namespace == "aten"]
    found = {str(op).removeprefix("aten.") for op in of_policy}
    assert found - IN_NO_LIST == listed(LISTS[policy])
    assert len(found) > 10


def test_asking_leaves_autocast_as_it_was() -> None:
    before = [(torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in ("cpu", "cuda")]
    treatments.cache_clear()
    assert treatments("cpu") != treatments("cuda")
    assert [(torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in ("cpu", "cuda")] == before


class Casts(nn.Module):
    """A function of an input and a weight."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 8))
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x, self.weight)


def of(function: Function, dtype: torch.dtype = OTHER_HALF, shape: tuple[int, ...] = (8, 8)) -> tuple[torch.dtype, Estimate]:
    """The dtype that a function returns under autocast, and the estimate."""
    returned: list[torch.dtype] = []

    def step(model: nn.Module, optimizer: object, x: Tensor) -> None:
        with torch.autocast("cuda", dtype=OTHER_HALF):
            returned.append(model(x).dtype)

    found = torchprof.estimate(Casts(function), torch.empty(shape, dtype=dtype, device="meta"), step=step, steps=1)
    return returned[0], found


CASES: dict[str, tuple[Function, torch.dtype, torch.dtype]] = {
    "einsum": (lambda x, w: torch.einsum("ij,jk->ik", x, w), FLOAT, OTHER_HALF),
    "mv": (lambda x, w: x.mv(w[0]), FLOAT, OTHER_HALF),
    "rms_norm": (lambda x, w: F.rms_norm(x, (8,)), OTHER_HALF, FLOAT),
    "upsample_nearest2d": (lambda x, w: F.interpolate(x[None, None], scale_factor=2), OTHER_HALF, FLOAT),
    "softplus": (lambda x, w: F.softplus(x), OTHER_HALF, FLOAT),
    "reciprocal": (lambda x, w: x.reciprocal(), OTHER_HALF, FLOAT),
    "logsumexp": (lambda x, w: x.logsumexp(-1), OTHER_HALF, FLOAT),
    "cumprod": (lambda x, w: x.cumprod(-1), OTHER_HALF, FLOAT),
    "linalg_vector_norm": (lambda x, w: torch.linalg.vector_norm(x), OTHER_HALF, FLOAT),
    "norm": (lambda x, w: torch.ops.aten.norm.Scalar(x), OTHER_HALF, FLOAT),
    "sum.dim_IntList": (lambda x, w: x.sum(-1), OTHER_HALF, FLOAT),
    "sum of a dtype": (lambda x, w: x.sum(-1, dtype=OTHER_HALF), OTHER_HALF, OTHER_HALF),
    "sum of float64": (lambda x, w: x.double().sum(-1), OTHER_HALF, torch.float64),
    "addcmul": (lambda x, w: torch.addcmul(x, x, w), OTHER_HALF, FLOAT),
    "reflection_pad2d": (lambda x, w: F.pad(x[None], (1, 1, 1, 1), mode="reflect"), OTHER_HALF, OTHER_HALF),
    "avg_pool3d": (lambda x, w: F.avg_pool3d(x[None, None, None], (1, 2, 2)), OTHER_HALF, OTHER_HALF),
    "grid_sampler_2d": (
        lambda x, w: F.grid_sample(x[None, None], x.new_zeros(1, 4, 4, 2), align_corners=False),
        OTHER_HALF,
        OTHER_HALF,
    ),
    "cat": (lambda x, w: torch.cat([x, x]), OTHER_HALF, OTHER_HALF),
    "linear": (lambda x, w: F.linear(x, w), FLOAT, OTHER_HALF),
    "layer_norm": (lambda x, w: F.layer_norm(x, (8,)), OTHER_HALF, FLOAT),
    "gelu": (lambda x, w: F.gelu(x), OTHER_HALF, OTHER_HALF),
}


@pytest.mark.parametrize("name", CASES)
def test_the_dtype_of_a_result_is_that_on_cuda(name: str) -> None:
    if name == "rms_norm" and "rms_norm.default" not in listed(LISTS[Policy.FLOAT32]):
        pytest.skip("this version of PyTorch does not cast it")
    function, given, expected = CASES[name]
    returned, _ = of(function, given)
    assert returned is expected


def test_binary_cross_entropy_raises_as_on_cuda() -> None:
    with pytest.raises(RuntimeError, match="unsafe to autocast"):
        of(lambda x, w: F.binary_cross_entropy(x.sigmoid(), x))


def test_softmax_converts_bfloat16_first_and_reads_float16_as_it_is() -> None:
    def largest(dtype: torch.dtype) -> list[int]:
        _, found = of(lambda x, w: x.softmax(-1), dtype, (64, 64))
        sizes: list[int] = found.memory.allocations["bytes"].tolist()
        return [size for size in sizes if size >= 64 * 64 * 2]

    given, in_float32 = 64 * 64 * 2, 64 * 64 * 4
    assert largest(OTHER_HALF) == [given, in_float32, in_float32]
    assert largest(HALF) == [given, in_float32]


def test_a_sum_reads_half_precision_as_it_is() -> None:
    _, found = of(lambda x, w: x.sum(-1), OTHER_HALF, (64, 64))
    assert sorted(found.memory.allocations["bytes"].tolist()) == [64 * 4, 8 * 8 * 4, 64 * 64 * 2]


def own(model: nn.Module, optimizer: object, x: Tensor) -> None:
    with torch.autocast("cuda", dtype=OTHER_HALF):
        loss = model(x).float().sum()
    loss.backward()
    model.zero_grad()


def test_a_step_of_ones_own_is_cast_as_with_amp() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Softmax(-1), nn.Linear(64, 64))
    by_step = torchprof.estimate(model, (32, 64), step=own)
    by_amp = torchprof.estimate(model, (32, 64), amp=OTHER_HALF)
    in_float32 = torchprof.estimate(model, (32, 64))
    assert sum(by_step.memory.saved_by_module.values()) == sum(by_amp.memory.saved_by_module.values())
    assert sum(by_step.memory.saved_by_module.values()) != sum(in_float32.memory.saved_by_module.values())


def test_a_program_sees_that_autocast_is_on() -> None:
    seen: list[Any] = []

    def step(model: nn.Module, optimizer: object, x: Tensor) -> None:
        seen.append(torch.is_autocast_enabled("cuda"))
        with torch.autocast("cuda"):
            seen.extend((torch.is_autocast_enabled("cuda"), torch.is_autocast_enabled(), torch.get_autocast_dtype("cuda")))
            with torch.autocast("cuda", enabled=False):
                seen.append(torch.is_autocast_enabled("cuda"))
        with torch.amp.autocast("cuda", dtype=OTHER_HALF):
            seen.append(torch.get_autocast_dtype("cuda"))

    torchprof.estimate(nn.Linear(8, 8), (4, 8), step=step, steps=1)
    assert seen == [False, True, True, HALF, False, OTHER_HALF]


def test_amp_beside_a_step_of_ones_own_is_refused_with_the_way_out() -> None:
    with pytest.raises(
        ArgumentError, match=r"say there what runs under autocast, with torch\.autocast\('cuda', dtype=torch\.bfloat16\)"
    ):
        torchprof.estimate(nn.Linear(8, 8), (4, 8), step=own, amp=OTHER_HALF)


def test_autocast_of_other_threads_and_afterwards_is_that_of_the_cpu() -> None:
    x = torch.ones(1, 1, 4, 4, 4, dtype=OTHER_HALF)
    dtypes: list[torch.dtype] = []

    def on_the_cpu() -> None:
        with torch.autocast("cpu", dtype=OTHER_HALF):
            dtypes.extend((F.avg_pool3d(x, 2).dtype, F.softplus(x).dtype, torch.is_autocast_enabled("cuda")))

    def step(model: nn.Module, optimizer: object, x: Tensor) -> None:
        with torch.autocast("cuda"):
            other = threading.Thread(target=on_the_cpu)
            other.start()
            other.join()

    torchprof.estimate(nn.Linear(8, 8), (4, 8), step=step, steps=1)
    on_the_cpu()
    assert dtypes == [FLOAT, OTHER_HALF, False] * 2
    assert not torch.is_autocast_enabled("cpu")


@torch.library.custom_op("torchprof_autocast::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return 2 * x


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


twice.register_autocast("cuda", FLOAT)


def test_ops_of_other_libraries_are_cast_as_they_registered_it() -> None:
    returned, found = of(lambda x, weight: twice(x) * weight.sum().detach())
    assert returned is FLOAT
    assert found.max_allocated > 0
    assert twice(torch.ones(2, dtype=OTHER_HALF)).dtype is OTHER_HALF, "outside of the estimate nothing is cast"
