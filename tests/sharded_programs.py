"""Training that is spread over ranks, as users write it, and what it really takes: peaks of gloo processes on the CPU.

A program is an architecture and a way to wrap it. `measured` runs programs in real processes, and its figures are the truth for
``estimate(build, inputs, world_size=..., rank=...)`` of the same ``build``.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import transformers as hf
from architectures import loss_of
from routed_experts import RoutedExperts, SpreadExperts
from sharded_attention import HAS_RING, LENGTH, RingEncoder
from sharded_blocks import Block
from sharded_hooks import HOOKED, STEPS_OF_HOOKS, events_on_cpu
from sharded_pipelines import HAS_PIPELINES, PIPELINES, Pipelined
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_to_all_single_autograd, wait_tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import torchprof

__all__ = [
    "ACCUMULATING",
    "ARCHITECTURES",
    "IN_TESTS",
    "PROGRAMS",
    "STEPS",
    "Architecture",
    "Program",
    "measured",
    "peaks_of_steps",
    "step_peaks",
]

STEPS: Final = 3
MEASURED_STEPS: Final = 8
"""More than are estimated: threads of gloo let go of what they have sent a little late, now and then. The lowest peak is that
without it."""

Plan = dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """A model, what it is called with, and how it may be split.

    Attributes:
        make: makes the model.
        inputs: makes what a rank gives it in one step, by position or by keyword.
        blocks: the modules whose parameters are gathered together, in the order of forward.
        plan: how its layers are split between two ranks.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...] | dict[str, Tensor]]
    blocks: Callable[[Any], Iterable[nn.Module]]
    plan: Callable[[], Plan]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 256))


def mlp_plan() -> Plan:
    return {"0": ColwiseParallel(), "2": RowwiseParallel()}


def llama() -> nn.Module:
    config = hf.LlamaConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
        use_cache=False,
    )
    return hf.LlamaForCausalLM(config)


def llama_plan() -> Plan:
    columns, rows = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("self_attn.o_proj", "mlp.down_proj")
    layers = "model.layers.*."
    return {
        **{layers + name: ColwiseParallel() for name in (*columns, "mlp.gate_proj", "mlp.up_proj")},
        **{layers + name: RowwiseParallel() for name in rows},
        "lm_head": ColwiseParallel(output_layouts=Replicate()),
    }


class ConvNet(nn.Module):
    """Convolutions with batch norms, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        channels = (3, 32, 64, 128)
        self.stages = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in pairwise(channels))
        )
        self.fc1, self.fc2 = nn.Linear(128 * 4 * 4, 256), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = self.fc2(self.fc1(self.stages(x).flatten(1)).relu())
        return rows


def conv_plan() -> Plan:
    return {"fc1": ColwiseParallel(), "fc2": RowwiseParallel()}


def vit() -> nn.Module:
    config = hf.ViTConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=8
    )
    return hf.ViTForImageClassification(config)


class Encoder(nn.Module):
    """Post-norm blocks of attention and two linear layers over an embedding, as BERT has them."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(1000, 128)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(128, 1000)

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words)
        for block in self.blocks:
            x = block(x)
        scores: Tensor = self.head(x)
        return scores


def encoder_plan() -> Plan:
    columns = {f"blocks.*.{name}": ColwiseParallel() for name in ("query", "key", "value", "up")}
    return {**columns, **{f"blocks.*.{name}": RowwiseParallel() for name in ("out", "down")}}


def sequence_plan() -> Plan:
    """Norms work on a part of the sequence each."""
    split = {"output_layouts": Shard(1)}
    return {
        "words": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1), use_local_output=False),
        **{f"blocks.*.{name}": ColwiseParallel(input_layouts=Shard(1)) for name in ("query", "key", "value", "up")},
        **{f"blocks.*.{name}": RowwiseParallel(**split, use_local_output=False) for name in ("out", "down")},
        **{f"blocks.*.{name}": SequenceParallel() for name in ("norm1", "norm2")},
        "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
    }


class Experts(SpreadExperts):
    """Experts of which each token goes to one, as many to each; between ranks, where they are spread over a mesh."""

    def __init__(self, count: int = 4) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.ones(count, 128, 256)), nn.Parameter(torch.ones(count, 256, 128))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.view(-1, 128)
        experts = self._exchanged(rows).view(len(self.up), -1, 128)
        done = torch.bmm(torch.bmm(experts, self.up).relu(), self.down)
        return x + self._exchanged(done.view(-1, 128)).view_as(x)

    def _exchanged(self, rows: Tensor) -> Tensor:
        return rows if self.mesh is None else wait_tensor(all_to_all_single_autograd(rows, None, None, self.mesh))


class MixtureOfExperts(nn.Module):
    """Blocks of a layer and experts."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(128, 128), nn.LayerNorm(128), Experts()) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def routed(gathered: bool) -> nn.Module:
    """512 tokens, of which each goes to 3 of 8 experts: 192 to each."""
    blocks = (nn.Sequential(nn.Linear(128, 128), RoutedExperts(128, 8, 3, 512, gathered=gathered)) for _ in range(2))
    return nn.Sequential(*blocks)


def tokens(vocabulary: int, rows: int, length: int) -> Tensor:
    return torch.arange(rows * length).remainder(vocabulary).view(rows, length)


ARCHITECTURES: Final = {
    "mlp": Architecture(mlp, lambda: (torch.ones(64, 256),), lambda model: model[::2], mlp_plan),
    "llama": Architecture(llama, lambda: {"input_ids": tokens(512, 4, 64)}, lambda model: model.model.layers, llama_plan),
    "conv": Architecture(ConvNet, lambda: (torch.ones(8, 3, 32, 32),), lambda model: [*model.stages, model.fc1], conv_plan),
    "encoder": Architecture(Encoder, lambda: (tokens(1000, 4, 64),), lambda model: model.blocks, encoder_plan),
    "moe": Architecture(MixtureOfExperts, lambda: (torch.ones(8, 64, 128),), lambda model: model.blocks, lambda: {}),
    "routed": Architecture(partial(routed, False), lambda: (torch.ones(8, 64, 128),), lambda model: model, lambda: {}),
    "gathered": Architecture(partial(routed, True), lambda: (torch.ones(8, 64, 128),), lambda model: model, lambda: {}),
    "ring": Architecture(RingEncoder, lambda: (tokens(1000, 2, LENGTH),), lambda model: model.blocks, encoder_plan),
    "vit": Architecture(vit, lambda: {"pixel_values": torch.ones(4, 3, 32, 32)}, lambda model: model.vit.layers, lambda: {}),
}
"""By name."""


def ddp(model: nn.Module, of: Architecture, **more: Any) -> nn.Module:
    return DistributedDataParallel(model, **more)


def ddp_with_unused(model: nn.Module, of: Architecture, **more: Any) -> nn.Module:
    """Some parameters no forward uses, enough for a bucket."""
    for name in ("first", "second"):
        model.register_parameter(name, nn.Parameter(torch.ones(700, 700)))
    return DistributedDataParallel(model, find_unused_parameters=True, **more)


def sharded(model: nn.Module, of: Architecture, mesh: DeviceMesh | None = None, **more: Any) -> nn.Module:
    mesh = mesh or init_device_mesh("cpu", (dist.get_world_size(),))
    for block in of.blocks(model):
        fully_shard(block, mesh=mesh, **more)
    return fully_shard(model, mesh=mesh, **more)


def compiled(model: nn.Module, of: Architecture) -> nn.Module:
    for block in of.blocks(model):
        block.compile()
    return sharded(model, of)


class Adapted(nn.Module):
    """A linear layer that is not trained, and a product of two thin ones that is: LoRA."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down, self.up = nn.Linear(layer.in_features, 8, bias=False), nn.Linear(8, layer.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x) + self.up(self.down(x))
        return y


def adapted(model: nn.Module, of: Architecture) -> nn.Module:
    for module in [*model.modules()]:
        for name, layer in [*module.named_children()]:
            if isinstance(layer, nn.Linear):
                setattr(module, name, Adapted(layer))
    return sharded(model, of)


def products_saved() -> Any:
    """The contexts of selective checkpointing."""

    def policy(context: Any, op: Any, *args: Any, **options: Any) -> CheckpointPolicy:
        product = op in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return CheckpointPolicy.MUST_SAVE if product else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)  # type: ignore[no-untyped-call]


def checkpointed(model: nn.Module, of: Architecture) -> nn.Module:
    for block in of.blocks(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=products_saved)
    return sharded(model, of)


def prefetching(model: nn.Module, of: Architecture) -> nn.Module:
    made = sharded(model, of)
    for block, *following in zip(*(list(of.blocks(model))[first:] for first in range(3)), strict=False):
        block.set_modules_to_forward_prefetch(following)
    return made


def in_backward(parameters: Iterable[nn.Parameter]) -> Any:
    """An optimizer for each parameter, which steps and lets go of the gradient as soon as there is one."""
    for parameter in parameters:
        optimizer = torch.optim.AdamW([parameter])

        def step(parameter: Tensor, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.step()
            optimizer.zero_grad()

        parameter.register_post_accumulate_grad_hook(step)
    return SimpleNamespace(step=lambda: None, zero_grad=lambda: None)


def zero(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return ZeroRedundancyOptimizer(list(parameters), torch.optim.AdamW)


def sharded_as_a_whole(model: nn.Module, of: Architecture) -> nn.Module:
    return fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))


def mixed(model: nn.Module, of: Architecture) -> nn.Module:
    return sharded(model, of, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32))


def hybrid(model: nn.Module, of: Architecture) -> nn.Module:
    return sharded(model, of, init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard")))


def split(model: nn.Module, of: Architecture) -> nn.Module:
    return parallelize_module(model, init_device_mesh("cpu", (dist.get_world_size(),)), of.plan())


def split_by_sequence(model: nn.Module, of: Architecture) -> nn.Module:
    return parallelize_module(model, init_device_mesh("cpu", (dist.get_world_size(),)), sequence_plan())


def split_and_sharded(model: nn.Module, of: Architecture) -> nn.Module:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    return sharded(parallelize_module(model, mesh["tp"], of.plan()), of, mesh["dp"])


def spread(model: nn.Module, of: Architecture) -> nn.Module:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("ep",))
    for module in model.modules():
        if isinstance(module, Experts | RoutedExperts):
            module.spread(mesh)
    return model


def ring(model: Any, of: Architecture, **more: Any) -> nn.Module:
    model.split(init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("cp",)), **more)
    return sharded(model, of, model.mesh)


def ring_and_split(model: Any, of: Architecture) -> nn.Module:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("cp", "tp"))
    model.split(mesh["cp"])
    return parallelize_module(model, mesh["tp"], of.plan())


def ring_and_sharded(model: Any, of: Architecture) -> nn.Module:
    """Parameters are sharded between all ranks, and the sequence between two."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "cp"))
    model.split(mesh["cp"])
    return sharded(model, of, mesh["dp", "cp"]._flatten("dp_cp"))


WRAPPINGS: Final[dict[str, tuple[int, Callable[[Any, Architecture], nn.Module]]]] = {
    "ddp": (2, ddp),
    "ddp-views": (2, partial(ddp, gradient_as_bucket_view=True)),
    "ddp-small-views": (2, partial(ddp, gradient_as_bucket_view=True, bucket_cap_mb=0.25)),
    "ddp-unused": (2, ddp_with_unused),
    "ddp-unused-views": (2, partial(ddp_with_unused, gradient_as_bucket_view=True)),
    "fsdp": (2, sharded),
    "fsdp-kept": (2, partial(sharded, reshard_after_forward=False)),
    "fsdp-to-2": (4, partial(sharded, reshard_after_forward=2)),
    "fsdp-bf16": (2, mixed),
    "fsdp-whole": (2, sharded_as_a_whole),
    "fsdp-compiled": (2, compiled),
    "hsdp": (4, hybrid),
    "tp": (2, split),
    "sequence": (2, split_by_sequence),
    "fsdp-tp": (4, split_and_sharded),
    "ep": (2, spread),
    "cp": (2, ring),
    "cp-alltoall": (4, partial(ring, rotate="alltoall")),
    "cp-in-order": (4, partial(ring, balanced=False)),
    "cp-tp": (4, ring_and_split),
    "cp-fsdp": (4, ring_and_sharded),
    "ddp-static": (2, partial(ddp, static_graph=True)),
    "ddp-zero": (2, ddp),
    "fsdp-lora": (2, adapted),
    "fsdp-selective": (2, checkpointed),
    "fsdp-prefetch": (2, prefetching),
    "fsdp-in-backward": (2, sharded),
    **{name: (2, wrapped) for name, wrapped in HOOKED.items()},
}
"""Ranks and function, by name."""

OPTIMIZERS: Final[dict[str, Callable[..., Any]]] = {"ddp-zero": zero, "fsdp-in-backward": in_backward}
"""Where it is not AdamW, by wrapping."""


@dataclass(frozen=True)
class Program:
    """Training of an architecture on some ranks, with AdamW in one way or another.

    Attributes:
        architecture, wrapping: their names.
        microbatches: backward passes in a step, in each of which gradients are reduced. Of several, SGD takes the step, which
            needs no memory: the peak is in backward.
    """

    architecture: str
    wrapping: str
    microbatches: int = 1

    @property
    def name(self) -> str:
        name = f"{self.architecture}-{self.wrapping}"
        return name if self.microbatches == 1 else f"{name}-x{self.microbatches}"

    @property
    def world_size(self) -> int:
        return WRAPPINGS[self.wrapping][0]

    @property
    def optimizer(self) -> Callable[..., Any]:
        if self.microbatches > 1:
            return partial(torch.optim.SGD, lr=0.1)
        return OPTIMIZERS.get(self.wrapping, torch.optim.AdamW)

    @property
    def steps(self) -> int:
        """How many are estimated; from the last of them on, all are alike."""
        return STEPS_OF_HOOKS if self.wrapping in HOOKED else STEPS

    def build(self) -> nn.Module:
        """The model as the calling rank of the running process group has it."""
        torch.manual_seed(0)
        of = ARCHITECTURES[self.architecture]
        return WRAPPINGS[self.wrapping][1](of.make(), of)

    def inputs(self) -> tuple[Tensor, ...] | dict[str, Tensor]:
        return ARCHITECTURES[self.architecture].inputs()

    def trained(self) -> Iterable[Any]:
        """Train for a step each time that the next one is asked for. The first time, what is trained is there."""
        model, given = self.build(), self.inputs()
        optimizer = self.optimizer(model.parameters())
        yield model
        while True:
            if isinstance(given, dict):
                self.step(model, optimizer, **given)
            else:
                self.step(model, optimizer, *given)
            yield None

    def step(self, model: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        for _ in range(self.microbatches):
            out = model(*args, **kwargs)
            loss = loss_of(out)
            loss.backward()
        optimizer.step()
        del out, loss
        optimizer.zero_grad()

    def estimated(self, rank: int) -> torchprof.Estimate:
        """What is predicted for a rank."""
        with events_on_cpu() if "mixed" in self.wrapping else nullcontext():
            return torchprof.estimate(
                self.build,
                self.inputs(),
                optimizer=self.optimizer,
                loss=loss_of,
                step=self.step if self.microbatches > 1 else None,
                steps=self.steps,
                device="cpu",
                world_size=self.world_size,
                rank=rank,
                routing="balanced" if self.architecture in ("routed", "gathered") else None,
            )


def _programs() -> Iterable[Program]:
    for architecture in ARCHITECTURES:
        for wrapping in WRAPPINGS:
            has_plan = bool(ARCHITECTURES[architecture].plan())
            kind = wrapping.split("-")[0]
            only_for = {"sequence": ("encoder",), "ep": ("moe", "routed", "gathered"), "cp": ("ring",)}.get(
                kind, (architecture,)
            )
            if architecture in only_for and (architecture == "ring") == (kind == "cp") and ("tp" not in wrapping or has_plan):
                yield Program(architecture, wrapping)


ACCUMULATING: Final = {
    program.name: program
    for architecture in ("mlp", "llama")
    for wrapping in ("ddp", "ddp-small-views", "fsdp", "fsdp-kept", "hsdp")
    for program in (Program(architecture, wrapping, 2), Program(architecture, wrapping, 4))
}
"""Those that reduce gradients several times in a step."""

PROGRAMS: Final[dict[str, Program | Pipelined]] = {
    **{program.name: program for program in _programs()},
    **ACCUMULATING,
    **PIPELINES,
}
"""All, by name."""

IN_TESTS: Final = (
    *("mlp-ddp", "mlp-fsdp", "mlp-fsdp-kept", "mlp-tp", "llama-fsdp-bf16", "llama-fsdp-tp"),
    *("conv-ddp-views", "conv-hsdp", "encoder-fsdp-to-2", "encoder-sequence", "vit-fsdp-whole", "moe-ep", "routed-ep"),
    *("gathered-ep", "encoder-ddp-unused", "mlp-ddp-unused-views"),
    *("encoder-ddp-static", "mlp-ddp-zero", "encoder-fsdp-lora", "encoder-fsdp-selective", "encoder-fsdp-prefetch"),
    "encoder-fsdp-in-backward",
    *(("ring-cp", "ring-cp-alltoall", "ring-cp-tp", "ring-cp-fsdp") if HAS_RING else ()),
    *(("mlp-gpipe", "encoder-1f1b", "llama-interleaved", "encoder-1f1b-fsdp") if HAS_PIPELINES else ()),
)
"""Those that the tests run: each architecture, each wrapping, and pipelines. Not ``cp-in-order``, whose ranks wait for
each other: what those that are ahead keep until gloo has sent it is now more, now less."""


def step_peaks(account: torchprof.Memory) -> list[int]:
    """The most bytes that were allocated at once in each step of a recording."""
    rows, steps = account.allocations, account.trace.steps
    never = np.iinfo(np.int64).max
    ends = np.where(rows["end"] < 0, never, rows["end"])
    times = np.concatenate([rows["start"], ends])
    # What is freed at a moment is freed before what is allocated then.
    order = np.lexsort((np.repeat([1, 0], len(rows)), times))
    held = np.cumsum(np.concatenate([rows["bytes"], -rows["bytes"].astype(np.int64)])[order])
    times = times[order]
    found = []
    for step in steps:
        first, last = np.searchsorted(times, [step["start"], step["end"]], "right")
        found.append(int(held[max(0, first - 1) : last].max()))
    return found


def measured(names: Sequence[str], path: Path) -> dict[str, list[tuple[int, int]]]:
    """The peaks of real processes, by program and rank: that of the first step, and the lowest one of those that are like the
    last one that is estimated.

    Args:
        names, path: as for `peaks_of_steps`.
    """
    found = peaks_of_steps(names, path)
    return {name: [(peaks[0], min(peaks[PROGRAMS[name].steps - 1 :])) for peaks in ranks] for name, ranks in found.items()}


def peaks_of_steps(names: Sequence[str], path: Path, *, late: bool = False) -> dict[str, list[list[int]]]:
    """The peaks of real processes, by program, rank and step.

    Each process runs the programs one after the other, each in a process group of its own.

    Args:
        names: of `PROGRAMS`.
        path: a folder for what the processes tell each other.
        late: have the threads of gloo run only where nothing else does, on one processor for all ranks.
    """
    world = max(PROGRAMS[name].world_size for name in names)
    mp.spawn(_rank, (tuple(names), str(path), late), nprocs=world)  # type: ignore[no-untyped-call]
    told = [torch.load(path / f"peaks-{rank}") for rank in range(world)]
    return {name: [told[rank][name] for rank in range(PROGRAMS[name].world_size)] for name in names}


def _rank(rank: int, names: Sequence[str], path: str, late: bool) -> None:
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error"}
    torch.set_num_threads(1)
    if late:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found = {}
    for name in names:
        program = PROGRAMS[name]
        if rank < program.world_size:
            store = dist.FileStore(f"{path}/{name}", program.world_size)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=program.world_size)
            with events_on_cpu():
                found[name] = _trained(program, late)
            dist.barrier()
            dist.destroy_process_group()
            _clear_sharding_prop_cache()
    torch.save(found, f"{path}/peaks-{rank}")


def _run_last() -> None:
    """Give threads of gloo the processor only where nobody else wants it."""
    for thread in Path("/proc/self/task").iterdir():
        if "gloo" in (thread / "comm").read_text():
            os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))


def _trained(program: Program | Pipelined, late: bool) -> list[int]:
    """The peak of this rank in each step."""
    steps = iter(program.trained())
    model = next(steps)
    if late:
        _run_last()
    gc.collect()
    gc.disable()  # what is in a reference cycle would go at any time
    with torchprof.profile(model, memory=True, stacks=False) as prof:
        for _ in range(MEASURED_STEPS):
            next(steps)
            dist.barrier()
            prof.step()
    gc.enable()
    return step_peaks(torchprof.memory(prof.trace, "cpu"))
