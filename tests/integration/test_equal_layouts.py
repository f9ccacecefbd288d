"""Lists of sharded tensors: what DTensor finds of equal elements once is what it finds of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from sharded_blocks import LAYERS, sharded_blocks
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

import torchprof
from torchprof import Estimate
from torchprof.estimation.sharding import world
from torchprof.estimation.sharding.world import fake_world
from torchprof.estimation.torch_private import SHARDING

MIXED: tuple[Placement, ...] = (Shard(0), Replicate(), Shard(0), Shard(1), Replicate(), Shard(0))


@pytest.fixture(params=["once", "of each"])
def looked_at(request: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many elements DTensor looked at, op by op; of equal ones once, or of each."""
    found: list[int] = []
    propagator = SHARDING.ShardingPropagator
    propagate = propagator._propagate_tensor_meta_non_cached

    def counted(self: Any, schema: Any) -> Any:
        if schema.op.name().startswith("aten::_foreach_"):
            found.append(len(schema.args_schema[0]))
        return propagate(self, schema)

    monkeypatch.setattr(propagator, "_propagate_tensor_meta_non_cached", counted)
    if request.param == "of each":
        monkeypatch.setattr(world, "equal_layouts_found_once", nullcontext)
    return found


def tensors(placements: Sequence[Placement]) -> list[Tensor]:
    """Each of 4 by 4 in all."""
    mesh = init_device_mesh("cpu", (4,))
    sizes = {Shard(0): (1, 4), Shard(1): (4, 1)}
    return [
        DTensor.from_local(torch.ones(sizes.get(placement, (4, 4))), mesh, [placement], run_check=False)  # type: ignore[call-overload]
        for placement in placements
    ]


def layouts(values: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [(value.placements, tuple(value.shape), tuple(value._local_tensor.shape), value.dtype) for value in values]


IN_TENSORS: list[tuple[str, Callable[[], Sequence[Tensor]]]] = [
    ("one list", lambda: torch._foreach_sqrt(tensors(MIXED))),
    ("two lists", lambda: torch._foreach_add(tensors(MIXED), tensors(MIXED))),
    ("two lists, of which one must be as the other", lambda: torch._foreach_mul(tensors(MIXED), tensors(MIXED[::-1]))),
    ("partial sums, which are to be reduced", lambda: torch._foreach_exp(tensors([Partial(), Shard(0), Partial()]))),
    ("numbers of each", lambda: torch._foreach_pow(tensors(MIXED), [2.0, 2.0, 3.0, 2.0, 2.0, 2.0])),
    ("one number", lambda: torch._foreach_mul(tensors(MIXED), 2.0)),
    ("norms", lambda: torch._foreach_norm(tensors(MIXED))),
]
FOUND: dict[str, list[Any]] = {}
"""By case, what was found first; of the parameter of the fixture that runs first."""


@pytest.mark.parametrize(("case", "run"), IN_TENSORS, ids=[case for case, _ in IN_TENSORS])
def test_results_of_lists_have_the_layouts_that_each_has_alone(
    case: str, run: Callable[[], Sequence[Tensor]], looked_at: list[int]
) -> None:
    with fake_world(4, 1):
        made = layouts(run())
    assert len(made) in (3, 6)
    assert FOUND.setdefault(case, made) == made


def test_elements_that_are_written_in_place_keep_their_layouts(looked_at: list[int]) -> None:
    with fake_world(4, 1):
        given = tensors(MIXED)
        torch._foreach_add_(given, tensors(MIXED[::-1]))
        assert [value.placements for value in given] == [(placement,) for placement in MIXED]  # type: ignore[attr-defined]


def test_what_an_op_refuses_it_refuses_all_the_same(looked_at: list[int]) -> None:
    with fake_world(4, 1), pytest.raises(RuntimeError):
        torch._foreach_add(tensors(MIXED), tensors(MIXED[:2]))


OF_BLOCKS: dict[bool, list[Any]] = {}


@pytest.mark.parametrize("uneven", [False, True])
def test_an_optimizer_has_the_estimate_that_it_has_with_each_looked_at(uneven: bool, looked_at: list[int]) -> None:
    width = 33 if uneven else 64

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
        model(x).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    found: Estimate = torchprof.estimate(
        lambda: sharded_blocks(width, (2,), "cpu"),
        torch.empty(8, width, device="meta"),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, foreach=True),
        step=step,
        device="cpu",
        world_size=2,
        rank=1,
    )
    rows = found.memory.allocations
    seen = [rows["bytes"].tolist(), [found.trace.strings[name] for name in found.trace.op_names], found.by_category]
    assert OF_BLOCKS.setdefault(uneven, seen) == seen
    assert set(looked_at) in ({2}, {2 * LAYERS})
