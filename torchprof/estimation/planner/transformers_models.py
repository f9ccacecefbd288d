"""The ready-made sharding of a model of transformers: FSDP2, tensor parallel, checkpoints, precision."""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from torchprof.errors import ArgumentError
from torchprof.estimation.planner.choice import Choice
from torchprof.wording import nearest, shortened, shown

__all__ = ["ShardedTransformer"]

aten = torch.ops.aten

RETURNS_VIEW: Final = r"FSDP2-wrapped module \(.*\) returned a view tensor"
"""A warning of PyTorch, which is for those who write to what a layer returns: models of transformers do not."""

ALONE: Final[Mapping[str, Any]] = {"fsdp": ..., "tp": 1, "checkpointing": "none", "precision": "bf16"}
"""What is taken of what ``over`` does not name."""
TRIED: Final[Mapping[str, Any]] = {**ALONE, "tp": (1, 2, 4, 8), "checkpointing": ("none", "selective", "full")}
"""What is tried where nothing is said."""
VALUES: Final = {"checkpointing": ("none", "selective", "full"), "precision": ("bf16", "bf16-true", "fp32")}
SAID: Final = 200
"""Characters of what transformers says that are quoted: it names classes in full."""
SIZES: Final = ("replicate", "fsdp", "tp")
SPLIT: Final[Mapping[str, Callable[[], ParallelStyle] | None]] = {
    "colwise": ColwiseParallel,
    "rowwise": RowwiseParallel,
    "colwise_rep": lambda: ColwiseParallel(output_layouts=Replicate()),
    "colwise_gather_output": lambda: ColwiseParallel(output_layouts=Replicate()),
    "embedding_rowwise": lambda: RowwiseParallel(input_layouts=Replicate()),
    "replicated_with_grad_allreduce": None,  # whole on every rank, as what is not named
}
"""What transformers calls ways to split a module between ranks, and PyTorch's of the same; None: it is not split."""
SAVED: Final = frozenset(
    {
        aten.mm.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
        torch.ops._c10d_functional.reduce_scatter_tensor.default,
    }
)
"""Ops whose results selective checkpointing keeps, of ``mm`` every second one, as torchtitan does."""


class ShardedTransformer:
    """Builds a model of transformers as a rank has it, for a choice of ``fsdp``, ``replicate``, ``tp``, ``checkpointing`` and
    ``precision``; and the inputs of that rank.

    Args:
        config: of a model that predicts tokens, such as ``transformers.LlamaConfig``.
    """

    def __init__(self, config: Any) -> None:
        self.config = copy.deepcopy(config)
        self.config.use_cache = False

    def over(self, given: Mapping[str, Any] | None) -> dict[str, Any]:
        """What is to be tried, with what was not named.

        Raises:
            ArgumentError: something is none of what is known here.
        """
        if given is None:
            return dict(TRIED)
        for name, values in given.items():
            if name not in (*SIZES, *VALUES):
                near = nearest(str(name), (*SIZES, *VALUES))
                others = f": did you mean {near!r}?" if near else f": use {', '.join(map(repr, (*SIZES, *VALUES)))}."
                raise ArgumentError(
                    f"over={shown(given)} names {name!r}, which the sharding of a transformers configuration does not "
                    f"have{others} For other choices, write build_with yourself"
                )
            known = VALUES.get(name)
            for value in (values,) if isinstance(values, str) or not isinstance(values, list | tuple) else values:
                if known is not None and value not in known:
                    raise ArgumentError(
                        f"over={shown(given)} has {shown(value)} for {name!r}: use one of {', '.join(map(repr, known))}"
                    )
                if known is None and value is not ... and (not isinstance(value, int) or isinstance(value, bool)):
                    raise ArgumentError(
                        f"over={shown(given)} has {shown(value)} for {name!r}: it is how many ranks there are along it, such "
                        "as 8, or ... for those that the others leave"
                    )
        rest = any(
            value is ... for values in given.values() for value in (values if isinstance(values, list | tuple) else (values,))
        )
        alone = {name: value for name, value in ALONE.items() if not (value is ... and rest)}
        chosen = {**alone, **given}
        return {name: chosen[name] for name in (*SIZES, *VALUES) if name in chosen}

    def problem(self, choice: Choice) -> str:
        """Why the model cannot be split so; empty where it can."""
        tp = choice.get("tp", 1)
        if tp == 1:
            return ""
        plan = self._tp_plan()
        if not plan:
            return f"{type(self.config).__name__} does not say how to split it between tp {tp}: it has no base_model_tp_plan"
        if unknown := sorted({how for how in plan.values() if how not in SPLIT}):
            return (
                f"{type(self.config).__name__} splits by {', '.join(map(repr, unknown))}, which is not known here, between tp: "
                "try tp 1, or write build_with yourself"
            )
        for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
            count = getattr(self.config, name, None)
            if isinstance(count, int) and count % tp:
                return f"tp {tp} does not divide {name} {count}"
        return ""

    def check_sequence(self, sequence: Any) -> None:
        """Raise ArgumentError where samples are longer than the model has positions for."""
        longest = getattr(self.config, "max_position_embeddings", None)
        for tokens in sequence if isinstance(sequence, list | tuple) else (sequence,):
            if isinstance(tokens, int) and isinstance(longest, int) and tokens > longest:
                raise ArgumentError(f"sequence={tokens} is more than max_position_embeddings={longest} of the configuration")

    def inputs(self, choice: Choice) -> dict[str, torch.Tensor]:
        """Tokens and labels, of shape ``[batch, sequence]``."""
        tokens = torch.empty(choice.batch, choice.sequence or 1, dtype=torch.long, device="meta")
        return {"input_ids": tokens, "labels": torch.empty_like(tokens)}

    def __call__(self, choice: Choice) -> nn.Module:
        model = self._made()
        if choice.precision == "bf16-true":
            model = model.to(torch.bfloat16)
        sizes = {name: choice.get(name, 1) for name in SIZES}
        sizes["replicate"] = choice.gpus // (sizes["fsdp"] * sizes["tp"])
        mesh = init_device_mesh("cuda", tuple(sizes.values()), mesh_dim_names=tuple(sizes))
        if sizes["tp"] > 1:
            self._split(model, mesh["tp"])
        layers = list(_layers(model))
        if choice.checkpointing != "none":
            layers = [(owner, name, _checkpointed(layer, choice.checkpointing)) for owner, name, layer in layers]
            for owner, name, layer in layers:
                setattr(owner, name, layer)
        half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        policy = half if choice.precision == "bf16" else MixedPrecisionPolicy()
        shards = mesh["replicate", "fsdp"] if sizes["replicate"] > 1 else mesh["fsdp"]
        for _, _, layer in layers:
            fully_shard(layer, mesh=shards, mp_policy=policy)
        fully_shard(model, mesh=shards, mp_policy=policy)
        return model

    @contextmanager
    def unwarned(self) -> Iterator[None]:
        """What PyTorch warns of as layers return views, as they do with tensor parallel, is not shown until the block ends."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", RETURNS_VIEW, UserWarning)
            yield

    def _made(self) -> nn.Module:
        from transformers import AutoModelForCausalLM

        known: Any = AutoModelForCausalLM
        try:
            made: nn.Module = known.from_config(self.config)
        except ValueError as error:
            why = shortened(str(error).partition("\n")[0], SAID).rstrip(".")
            raise ArgumentError(
                f"build_with={type(self.config).__name__} is of no model that predicts tokens ({why}): write build_with as "
                "a function"
            ) from None
        return made

    def _tp_plan(self) -> dict[str, str]:
        return dict(getattr(self.config, "base_model_tp_plan", None) or {})

    def _split(self, model: nn.Module, mesh: Any) -> None:
        prefix = getattr(model, "base_model_prefix", "")
        plan = {f"{prefix}.{name}" if prefix else name: how for name, how in self._tp_plan().items()}
        if not getattr(self.config, "tie_word_embeddings", False):  # of which the embedding has the other one whole
            plan |= {name: how for name, how in (getattr(type(model), "_tp_plan", None) or {}).items() if how in SPLIT}
        ways = {name: SPLIT[how] for name, how in plan.items()}
        parallelize_module(model, mesh, {name: make() for name, make in ways.items() if make is not None})


def _layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """The layers of the model that are sharded, and checkpointed, one by one: where each stands, and it."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    for owner in list(model.modules()):
        if isinstance(owner, nn.ModuleList) and len(owner) and {type(each).__name__ for each in owner} <= names:
            for name, layer in owner.named_children():
                yield owner, name, layer


def _checkpointed(layer: nn.Module, how: str) -> nn.Module:
    wrap: Any = checkpoint_wrapper
    wrapped: nn.Module = wrap(layer, context_fn=_every_second_product) if how == "selective" else wrap(layer)
    return wrapped


def _every_second_product() -> Any:
    """The contexts of selective checkpointing."""
    products: dict[bool, int] = defaultdict(int)

    def policy(context: Any, op: Any, *args: Any, **options: Any) -> CheckpointPolicy:
        if op is aten.mm.default:
            products[context.is_recompute] += 1
            if products[context.is_recompute] % 2 == 0:
                return CheckpointPolicy.PREFER_RECOMPUTE
        return CheckpointPolicy.MUST_SAVE if op in SAVED else CheckpointPolicy.PREFER_RECOMPUTE

    contexts: Any = create_selective_checkpoint_contexts
    return contexts(policy)
