"""Pipelines on two ranks, alone and with what shards or repeats a stage: programs for `sharded_programs`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
import torch.distributed as dist
from sharded_blocks import Block
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleLoopedBFS,
    ScheduleZBVZeroBubble,
    _utils,
)
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding

import torchprof

__all__ = ["HAS_PIPELINES", "PIPELINES", "Pipelined"]

HAS_PIPELINES: Final = hasattr(_utils, "InferenceMode")
"""Whether estimates know the pipelines of this PyTorch: those of 2.13."""

LAYERS: Final = 4
MICROBATCHES: Final = 4
WIDTH: Final = 128
VOCABULARY: Final = 512


class Part(nn.Module):
    """A stage: some layers, with the embedding before the first ones and the head behind the last ones."""

    def __init__(self, layers: Iterable[nn.Module], begin: nn.Module | None, end: nn.Module | None) -> None:
        super().__init__()
        self.begin, self.layers, self.end = begin or nn.Identity(), nn.ModuleList(layers), end or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.begin(x)
        for layer in self.layers:
            x = layer(x)
        done: Tensor = self.end(x)
        return done


class Decoder(nn.Module):
    """A layer of a Llama."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.layer, self.rotary = LlamaDecoderLayer(config, 0), LlamaRotaryEmbedding(config)

    def forward(self, x: Tensor) -> Tensor:
        places = self.rotary(x, torch.arange(x.shape[1]).unsqueeze(0))
        done: Tensor = self.layer(x, position_embeddings=places)
        return done


def mlp() -> tuple[nn.Module | None, Callable[[], nn.Module], nn.Module | None]:
    return None, lambda: nn.Sequential(nn.Linear(WIDTH, 1024), nn.ReLU(), nn.Linear(1024, WIDTH)), nn.Linear(WIDTH, VOCABULARY)


def encoder() -> tuple[nn.Module | None, Callable[[], nn.Module], nn.Module | None]:
    return nn.Embedding(VOCABULARY, WIDTH), Block, nn.Linear(WIDTH, VOCABULARY)


def llama() -> tuple[nn.Module | None, Callable[[], nn.Module], nn.Module | None]:
    config = LlamaConfig(hidden_size=WIDTH, intermediate_size=384, num_attention_heads=4, num_key_value_heads=2)
    head = nn.Sequential(LlamaRMSNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False))
    return nn.Embedding(VOCABULARY, WIDTH), partial(Decoder, config), head


def rows() -> tuple[Tensor, Tensor]:
    return torch.ones(64, WIDTH), torch.zeros(64, dtype=torch.long)


def words() -> tuple[Tensor, Tensor]:
    tokens = torch.arange(8 * 64).remainder(VOCABULARY).view(8, 64)
    return tokens, tokens


MODELS: Final = {"mlp": (mlp, rows), "encoder": (encoder, words), "llama": (llama, words)}
"""By name: what stands before the layers, a layer, and what stands behind them; and a batch with its targets."""


def loss_of(scores: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(scores.flatten(0, -2).float(), target.flatten())


def alone(stage: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return stage


def sharded(stage: Any, mesh: DeviceMesh) -> Any:
    for layer in stage.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=False)
    return fully_shard(stage, mesh=mesh, reshard_after_forward=False)


def replicated(stage: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return DistributedDataParallel(stage, process_group=mesh.get_group())


def split(stage: nn.Module, mesh: DeviceMesh) -> nn.Module:
    columns = {f"layers.*.{name}": ColwiseParallel() for name in ("query", "key", "value", "up")}
    rows = {f"layers.*.{name}": RowwiseParallel() for name in ("out", "down")}
    return parallelize_module(stage, mesh, {**columns, **rows})


@dataclass(frozen=True)
class Pipelined:
    """Training of a pipeline, with AdamW.

    Attributes:
        name: of the program.
        model: of `MODELS`.
        schedule: its class.
        places: the numbers of the stages that each rank of the pipeline has.
        wrapping, others: what is done with a stage, on how many ranks.
    """

    name: str
    model: str
    schedule: Any
    places: tuple[tuple[int, ...], ...]
    wrapping: Callable[[Any, DeviceMesh], nn.Module] = alone
    others: int = 1

    @property
    def world_size(self) -> int:
        return len(self.places) * self.others

    def build(self) -> Any:
        """The schedule, as the calling rank of the running process group has it."""
        torch.manual_seed(0)
        mesh = init_device_mesh("cpu", (len(self.places), self.others), mesh_dim_names=("pp", "other"))
        count = sum(map(len, self.places))
        group = mesh.get_group("pp")
        begin, layer, end = MODELS[self.model][0]()
        stages = []
        for number in self.places[dist.get_rank(group)]:
            layers = [layer() for _ in range(LAYERS // count)]
            part = Part(layers, begin if number == 0 else None, end if number == count - 1 else None)
            wrapped = self.wrapping(part, mesh["other"])
            stages.append(PipelineStage(wrapped, number, count, torch.device("cpu"), group=group))
        return self.schedule(stages if len(self.places[0]) > 1 else stages[0], MICROBATCHES, loss_of)

    def inputs(self) -> tuple[Tensor, Tensor]:
        return MODELS[self.model][1]()

    @property
    def steps(self) -> int:
        """How many are estimated; from the last of them on, all are alike."""
        return 3

    def trained(self) -> Iterable[Any]:
        """Train for a step each time that the next one is asked for. The first time, what is trained is there."""
        schedule = self.build()
        stages = schedule._stages if len(self.places[0]) > 1 else [schedule._stage]
        optimizer = torch.optim.AdamW([parameter for stage in stages for parameter in stage.submod.parameters()])
        batch, target = self.inputs()
        yield nn.ModuleList(stage.submod for stage in stages)
        while True:
            losses: list[Tensor] = []
            last = {"target": target, "losses": losses} if any(stage.is_last for stage in stages) else {}
            returned = schedule.step(*([batch] if any(stage.is_first for stage in stages) else []), **last)
            optimizer.step()
            del returned, losses, last
            optimizer.zero_grad()
            yield None

    def estimated(self, rank: int) -> torchprof.Estimate:
        """What is predicted for a rank."""
        return torchprof.estimate(
            self.build,
            self.inputs(),
            optimizer=torch.optim.AdamW,
            steps=self.steps,
            device="cpu",
            world_size=self.world_size,
            rank=rank,
        )


ONE: Final = ((0,), (1,))
LOOPED: Final = ((0, 2), (1, 3))
FOLDED: Final = ((0, 3), (1, 2))

PIPELINES: Final = {
    program.name: program
    for program in (
        Pipelined("mlp-gpipe", "mlp", ScheduleGPipe, ONE),
        Pipelined("mlp-1f1b", "mlp", Schedule1F1B, ONE),
        Pipelined("mlp-interleaved", "mlp", ScheduleInterleaved1F1B, LOOPED),
        Pipelined("mlp-1f1b-fsdp", "mlp", Schedule1F1B, ONE, sharded, 2),
        Pipelined("encoder-gpipe", "encoder", ScheduleGPipe, ONE),
        Pipelined("encoder-1f1b", "encoder", Schedule1F1B, ONE),
        Pipelined("encoder-interleaved", "encoder", ScheduleInterleaved1F1B, LOOPED),
        Pipelined("encoder-looped-bfs", "encoder", ScheduleLoopedBFS, LOOPED),
        Pipelined("encoder-zero-bubble", "encoder", ScheduleInterleavedZeroBubble, LOOPED),
        Pipelined("encoder-zbv", "encoder", ScheduleZBVZeroBubble, FOLDED),
        Pipelined("encoder-gpipe-fsdp", "encoder", ScheduleGPipe, ONE, sharded, 2),
        Pipelined("encoder-1f1b-fsdp", "encoder", Schedule1F1B, ONE, sharded, 2),
        Pipelined("encoder-interleaved-fsdp", "encoder", ScheduleInterleaved1F1B, LOOPED, sharded, 2),
        Pipelined("encoder-1f1b-ddp", "encoder", Schedule1F1B, ONE, replicated, 2),
        Pipelined("encoder-1f1b-tp", "encoder", Schedule1F1B, ONE, split, 2),
        Pipelined("llama-gpipe", "llama", ScheduleGPipe, ONE),
        Pipelined("llama-1f1b", "llama", Schedule1F1B, ONE),
        Pipelined("llama-interleaved", "llama", ScheduleInterleaved1F1B, LOOPED),
        Pipelined("llama-1f1b-fsdp", "llama", Schedule1F1B, ONE, sharded, 2),
    )
}
"""By name."""
