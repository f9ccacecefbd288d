"""``torch.compile`` of parts of a model in ``estimate(build, inputs, world_size=...)``: they need what they need compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.parallel import DistributedDataParallel

import torchprof
from torchprof import Estimate, EstimateError
from torchprof.estimation.fake import compiled

WIDTH, ROWS, BLOCKS = 64, 512, 4
SAVED = ROWS * 4 * WIDTH * 4
"""Bytes of what is between the layers of a block."""

Compile = Callable[[nn.Module], nn.Module]


class Block(nn.Module):
    """Keeps four tensors between its layers for backward as it is written, compiled the one that all are made of again, and
    the one that the second layer is given."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Any:
        return self.down(self.up(x).sin().cos().sin())


def in_place(block: nn.Module) -> nn.Module:
    block.compile(fullgraph=True)
    return block


def wrapped(block: nn.Module) -> nn.Module:
    made: nn.Module = torch.compile(block, fullgraph=True)  # type: ignore[assignment]
    return made


def as_written(block: nn.Module) -> nn.Module:
    return block


def sharded(compile: Compile, blocks: int = BLOCKS, device: str = "cpu") -> nn.Module:
    mesh = init_device_mesh(device, (2,))
    model = nn.Sequential(*(compile(Block()) for _ in range(blocks)))
    for block in model:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def of(build: Callable[[], nn.Module], device: str = "cpu", world_size: int = 2, **options: Any) -> Estimate:
    return torchprof.estimate(
        build,
        torch.empty(ROWS, WIDTH, device="meta"),
        device=device,
        optimizer=torch.optim.SGD,
        world_size=world_size,
        **options,
    )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_compiled_blocks_keep_less_and_are_gathered_as_ever(device: str) -> None:
    written, compiled_ = (of(partial(sharded, how, device=device), device) for how in (as_written, in_place))
    less = written.by_category["activations"] - compiled_.by_category["activations"]
    assert (BLOCKS - 1) * 2 * SAVED <= less <= BLOCKS * 3 * SAVED
    assert compiled_.communication == written.communication
    assert compiled_.by_category["sharded parameters"] == written.by_category["sharded parameters"]
    assert compiled_.notes == written.notes, "nothing is left out"


def test_a_block_that_is_wrapped_needs_what_it_needs_compiled_in_place() -> None:
    found = [of(partial(sharded, how)) for how in (in_place, wrapped)]
    assert found[0].max_allocated == found[1].max_allocated


def test_equal_blocks_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []
    written = compiled._written
    monkeypatch.setattr(compiled, "_written", lambda *args, **options: (graphs.append(1), written(*args, **options))[1])
    counts = []
    for blocks in (2, 6):
        graphs.clear()
        of(partial(sharded, in_place, blocks))
        counts.append(len(graphs))
    assert counts[0] == counts[1] > 0


def test_blocks_that_are_split_between_ranks_and_sharded_can_be_compiled() -> None:
    def build(compile: Compile) -> nn.Module:
        mesh = init_device_mesh("cuda", (2, 2), mesh_dim_names=("dp", "tp"))
        model = nn.Sequential(Block(), Block())
        for block in model:
            parallelize_module(block, mesh["tp"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
            fully_shard(compile(block), mesh=mesh["dp"])
        return model

    written, compiled_ = (of(partial(build, how), "cuda", 4) for how in (as_written, in_place))
    less = written.by_category["activations"] - compiled_.by_category["activations"]
    assert SAVED <= less <= 3 * SAVED  # two blocks, of which this rank has half of what is inside
    assert {(each.collective, each.dimension, each.bytes) for each in compiled_.communication} == {
        (each.collective, each.dimension, each.bytes) for each in written.communication
    }


@pytest.mark.parametrize(
    "build",
    [lambda model: DistributedDataParallel(torch.compile(model)), lambda model: torch.compile(DistributedDataParallel(model))],
    ids=["compiled inside", "compiled around"],
)
def test_replicas_can_be_compiled(build: Callable[[nn.Module], nn.Module]) -> None:
    written = of(lambda: DistributedDataParallel(nn.Sequential(Block(), Block())))
    found = of(lambda: build(nn.Sequential(Block(), Block())))
    assert written.by_category["activations"] - found.by_category["activations"] >= 2 * SAVED
    assert found.communication == written.communication


class Attends(nn.Module):
    def __init__(self, attention: Callable[..., Any]) -> None:
        super().__init__()
        self.layer, self.attention = nn.Linear(WIDTH, WIDTH), attention

    def forward(self, x: Tensor) -> Any:
        heads = self.layer(x).view(1, 4, -1, WIDTH)
        return self.attention(heads, heads, heads)


def test_compiled_flex_attention_makes_no_scores() -> None:
    written = of(lambda: DistributedDataParallel(Attends(flex_attention)), "cuda")
    found = of(lambda: DistributedDataParallel(Attends(torch.compile(flex_attention))), "cuda")
    scores = 4 * (ROWS // 4) ** 2 * 4
    assert written.max_allocated - found.max_allocated >= scores
    assert not [note for note in found.notes if "flex_attention" in note]
    assert [note for note in written.notes if "flex_attention" in note]


def test_values_that_a_compiled_block_reads_are_named() -> None:
    class Reads(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return y + 1 if y.sum() > 0 else y

    with pytest.raises(EstimateError, match=r"reads the values of a tensor.*leave it out with a step="):
        of(lambda: in_place(Reads(WIDTH, WIDTH)))


def test_compile_of_the_user_is_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH))
    ours: Any = torch.compile(model, backend="eager")
    before = ours(torch.ones(2, WIDTH))
    of(partial(sharded, in_place))
    assert torch.equal(ours(torch.ones(2, WIDTH)), before)
