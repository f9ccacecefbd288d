"""Experts on other ranks in ``estimate(build, inputs, world_size=...)``: what is sent to them is as much as the splits say.

Truth of balanced ones is in ``test_sharded_truth.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_to_all_single_autograd, wait_tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

import torchprof
from torchprof import Estimate, EstimateError

WIDTH, ROWS = 64, 512

Splits = Callable[[Tensor, DeviceMesh], tuple[list[int] | None, list[int] | None]]


class Expert(nn.Module):
    """The expert of this rank, which the rows of other ranks are sent to and back from."""

    def __init__(self, mesh: DeviceMesh, splits: Splits) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, 2, bias=False)
        self.layer = nn.Linear(WIDTH, WIDTH, bias=False)
        self.mesh, self.splits = mesh, splits

    def forward(self, x: Tensor) -> Any:
        sent, received = self.splits(self.router(x), self.mesh)
        rows = wait_tensor(all_to_all_single_autograd(x, received, sent, self.mesh))
        return wait_tensor(all_to_all_single_autograd(self.layer(rows), sent, received, self.mesh))


def balanced(scores: Tensor, mesh: DeviceMesh) -> tuple[None, None]:
    return None, None


def given(scores: Tensor, mesh: DeviceMesh) -> tuple[list[int], list[int]]:
    """Three of four rows go to the second rank."""
    quarter = len(scores) // 4
    return [quarter, 3 * quarter], [(quarter, 3 * quarter)[mesh.get_local_rank()]] * 2


def by_value(scores: Tensor, mesh: DeviceMesh) -> tuple[list[int], list[int]]:
    """As most routers do: each row goes where its score is highest, and ranks tell each other how many these are."""
    counts = scores.argmax(-1).float().histc(2, 0, 1).long()
    others = torch.empty_like(counts)
    dist.all_to_all_single(others, counts, group=mesh.get_group())
    return counts.tolist(), others.tolist()


def of(splits: Splits, rank: int = 0, device: str = "cpu", **options: Any) -> Estimate:
    def build() -> nn.Module:
        return Expert(init_device_mesh(device, (2, 2), mesh_dim_names=("dp", "ep"))["ep"], splits)

    rows = torch.empty(ROWS, WIDTH, device="meta")
    return torchprof.estimate(
        build, rows, device=device, optimizer=torch.optim.AdamW, world_size=4, rank=rank, steps=2, **options
    )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_as_many_rows_come_as_go_where_routing_is_balanced(device: str) -> None:
    found = of(balanced, device=device)
    (sent,) = found.communication
    assert (sent.collective, sent.dimension, sent.ranks) == ("all-to-all", "ep", 2)
    assert sent.calls == 3  # there and back, and back in backward: no gradient of the rows themselves is wanted
    assert sent.bytes == 3 * ROWS * WIDTH * 4


def test_a_rank_that_more_rows_come_to_needs_as_much_more() -> None:
    """In backward a rank has what came, for the weight, and the gradient of what it made of it."""
    few, many = (of(given, rank) for rank in (0, 1))
    more = (3 * ROWS // 2 - ROWS // 2) * WIDTH * 4
    assert many.by_category["activations"] - few.by_category["activations"] == more
    assert many.max_allocated - few.max_allocated >= 2 * more
    assert few.by_category["parameters"] == many.by_category["parameters"] == (2 + WIDTH) * WIDTH * 4


def test_experts_can_be_sharded_by_another_dimension() -> None:
    def build() -> nn.Module:
        mesh = init_device_mesh("cuda", (2, 2), mesh_dim_names=("dp", "ep"))
        return fully_shard(Expert(mesh["ep"], balanced), mesh=mesh["dp"])

    found = torchprof.estimate(build, torch.empty(ROWS, WIDTH, device="meta"), world_size=4)
    assert found.by_category["sharded parameters"] == (2 + WIDTH) * WIDTH * 4 // 2
    assert {(sent.collective, sent.dimension) for sent in found.communication} == {
        ("all-to-all", "ep"),
        ("all-gather", "dp"),
        ("reduce-scatter", "dp"),
    }


def test_routing_by_value_is_named_and_so_is_the_way_out() -> None:
    with pytest.raises(EstimateError, match=r"in by_value.*reads the values.*send as many to all.*the splits of all_to_all"):
        of(by_value)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_router_that_is_read_may_be_taken_to_be_balanced(device: str) -> None:
    found, known = of(by_value, device=device, routing="balanced"), of(balanced, device=device)
    rows, counts = (2 * 8, 1), (3 * ROWS * WIDTH * 4, 3)
    assert sum(sent.bytes for sent in found.communication) == (rows[0] + counts[0])
    assert sum(sent.calls for sent in found.communication) == (rows[1] + counts[1])
    assert found.by_category["activations"] == known.by_category["activations"]
    (said,) = found.assumed
    assert said.startswith("routing is balanced: what aten::argmax chooses among")
    assert f"Assumed: {said}" in str(found)
    assert found.to_dict()["assumed"] == [said]
    assert known.assumed == ()


def test_a_rank_may_be_taken_to_be_sent_more_than_its_share() -> None:
    share, more = of(by_value, routing="balanced"), of(by_value, routing=1.5)
    assert more.by_category["activations"] - share.by_category["activations"] == ROWS // 2 * WIDTH * 4
    assert more.assumed[1] == "the experts of this rank are sent 1.5 times their share"
    unheard = of(balanced, routing=1.5)
    assert unheard.assumed == ()


def test_a_model_alone_is_told_nothing_of_other_ranks() -> None:
    class Reads(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * x.sum().item()

    with pytest.raises(EstimateError, match="reads the values") as raised:
        torchprof.estimate(Reads(8, 8), (4, 8), device="cpu")
    assert "all_to_all" not in str(raised.value)
