"""`bias_before_norm`: a bias that the normalization after it takes away again."""

from __future__ import annotations

from typing import Any

import pytest
from handwritten import FORWARD, US, module, parameter, trace

import torchprof
from torchprof.advice.registry import NotTold
from torchprof.advice.rules.bias_before_norm import bias_before_norm
from torchprof.trace.model import Model
from torchprof.trace.schema import Phase

ADD, SUM = "aten::add_", "aten::sum"


def convolution(
    norm: str = "BatchNorm2d", *, bias: bool = True, given: int = 7, training: bool = True, kernels: int = 0, **facts: Any
) -> torchprof.Trace:
    """``Net(conv, norm)``: conv returns storage 7, and norm is given this one. Kernels of its bias take so many us."""
    parameters = (parameter("weight", 4, 3, 3, 3), *([parameter("bias", 4)] if bias else []))
    model = Model(
        (
            module("", "Net", -1, 100),
            module("conv", "Conv2d", 0, 101, parameters=parameters),
            module("norm", norm, 0, 102, training=training),
        )
    )
    one = {"n_inputs": 1, "n_outputs": 1}
    owner = {"module_call": 1, "runtime_call": -1}
    of_bias = [
        {"name": 2, "start": start * US, "end": (start + kernels) * US, "op": op, "phase": int(phase), **owner}
        for start, op, phase in ((0, 0, Phase.FORWARD), (500, 1, Phase.BACKWARD))
    ]
    return trace(
        model=model,
        strings=[ADD, SUM, "kernel", "Module"],
        shapes=[(2, 4, 8, 8)],
        tensors=[{"storage": 5}, {"storage": 7}, {"storage": given}, {"storage": 9}],
        operands=[0, 1, 2, 3],
        modules=[{"address": 100 + row} for row in range(3)],
        module_calls=[
            {"start": 0, "end": 100, **one, "inputs": 0, "outputs": 3},
            {"start": 5, "end": 50, "parent": 0, "module": 1, **one, "inputs": 0, "outputs": 1},
            {"start": 60, "end": 90, "parent": 0, "module": 2, **one, "inputs": 2, "outputs": 3},
        ],
        ops=[
            {"name": 0, "start": 10, "end": 20, "module_call": 1, "flags": FORWARD},
            {"name": 1, "start": 200, "end": 220, "module_call": 1, "flags": int(Phase.BACKWARD) << 4},
        ],
        kernels=of_bias if kernels else [],
        steps=[{"start": 0, "end": 1000 * US, "busy": 900 * US, "forward": 1}],
        facts={"gpu": "cupti", **facts} if kernels else facts,
    )


def test_a_convolution_before_a_batch_norm() -> None:
    (found,) = bias_before_norm(convolution())
    assert found.module == "conv"
    assert found.details == ("conv (Conv2d) before norm (BatchNorm2d)",)
    assert found.worth is None


def test_on_a_device_its_kernels_are_what_it_is_worth() -> None:
    (found,) = bias_before_norm(convolution(kernels=30))
    assert found.worth is not None
    assert (found.worth.low, found.worth.high, found.worth.whole) == (0, 60 * US, 1000 * US)
    assert found.worth.measured
    assert list(bias_before_norm(convolution(kernels=1))) == []


@pytest.mark.parametrize(
    "trace",
    [
        convolution(bias=False),
        convolution(given=8),
        convolution("GroupNorm"),
        convolution("LayerNorm"),
        convolution(training=False),
    ],
    ids=["no bias", "another input", "GroupNorm", "LayerNorm", "evaluation"],
)
def test_where_it_is_needed(trace: torchprof.Trace) -> None:
    assert list(bias_before_norm(trace)) == []


@pytest.mark.parametrize(
    ("facts", "why"),
    [({"outputs": False}, "outputs"), ({"addresses": False}, "addresses"), ({"aggregate": True}, "aggregated")],
)
def test_where_it_cannot_be_told(facts: dict[str, Any], why: str) -> None:
    with pytest.raises(NotTold, match=why):
        list(bias_before_norm(convolution(**facts)))
    with pytest.raises(NotTold, match="no model"):
        list(bias_before_norm(trace()))
