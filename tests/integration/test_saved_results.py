"""Ops that a dispatch mode has the results of, as selective checkpointing does: they are called, not run, and count nothing."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers import LlamaConfig

import torchprof
from torchprof import Trace
from torchprof.analysis.model.flops import PassFlops, pass_flops
from torchprof.estimation.planner.choice import Choice
from torchprof.estimation.planner.transformers_models import ShardedTransformer

aten = torch.ops.aten
BATCH, WIDTH = 32, 64
PRODUCT = 2 * BATCH * WIDTH * WIDTH
"""FLOPs of one layer's product."""


def saves(*ops: Any) -> Any:
    """The contexts of checkpointing that saves the results of these."""

    def policy(context: Any, op: Any, *args: Any, **options: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if op in ops else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)  # type: ignore[no-untyped-call]


class Checkpointed(nn.Module):
    def __init__(self, *saved: Any) -> None:
        super().__init__()
        self.saved = saved
        self.layers = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())

    def forward(self, x: torch.Tensor) -> Any:
        return checkpoint(self.layers, x, use_reentrant=False, context_fn=partial(saves, *self.saved))


def of_step(model: nn.Module, **options: Any) -> Trace:
    data = torch.randn(BATCH, WIDTH)
    with torchprof.profile(**options) as recording:
        model(data).sum().backward()
        recording.step()
    return recording.trace


def test_products_that_checkpointing_saved_are_not_counted_again() -> None:
    saved, recomputed = (pass_flops(of_step(Checkpointed(*ops))) for ops in ((aten.addmm.default,), ()))
    assert recomputed == PassFlops(2 * PRODUCT, 2 * PRODUCT, 3 * PRODUCT, {}, {})
    assert saved == PassFlops(2 * PRODUCT, 0, 3 * PRODUCT, {}, {})


def test_nor_are_they_in_tables_of_aggregated_recordings() -> None:
    def flops(*saved: Any) -> int:
        (row,) = (
            row for row in torchprof.by_op(of_step(Checkpointed(*saved), aggregate=True)).rows if row["name"] == "aten::addmm"
        )
        return int(row["flops"])

    assert flops() == 4 * PRODUCT
    assert flops(aten.addmm.default) == 2 * PRODUCT


def test_products_inside_other_ops_are_not_counted_either() -> None:
    class Attends(Checkpointed):
        def __init__(self, *saved: Any) -> None:
            super().__init__(*saved)
            self.layers = nn.Sequential(nn.TransformerEncoderLayer(WIDTH, 4, dropout=0.0, batch_first=True))

    def recomputed(*saved: Any) -> int:
        data = torch.randn(2, BATCH, WIDTH)
        with torchprof.profile() as recording:
            Attends(*saved)(data).sum().backward()
        return pass_flops(recording.trace).recomputed

    attention = aten._scaled_dot_product_flash_attention_for_cpu.default
    assert recomputed() - recomputed(attention) == 2 * 2 * (2 * BATCH * BATCH * WIDTH)  # of two samples: scores, and their sum
    assert recomputed(attention, aten.addmm.default, aten.mm.default) == 0


class Has(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Gives this for every product of matrices; all else it runs."""

    def __init__(self, result: torch.Tensor | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.result = result

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.result if self.result is not None and func is aten.mm.default else func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("result", "times"), [(None, 1), (torch.zeros(WIDTH, WIDTH), 0)], ids=["runs", "has"])
def test_what_a_mode_runs_is_counted_once_and_what_it_has_is_not(result: torch.Tensor | None, times: int) -> None:
    data = torch.randn(WIDTH, WIDTH)
    with torchprof.profile() as recording, Has(result):
        data @ data
    assert pass_flops(recording.trace).forward == times * 2 * WIDTH**3


def test_what_would_be_run_on_fake_tensors_is_counted() -> None:
    with FakeTensorMode() as mode:
        data = mode.from_tensor(torch.randn(WIDTH, WIDTH))
        with torchprof.profile() as recording:
            for _ in range(2):  # the second time, the result is known to be like the first one
                data @ data
    assert pass_flops(recording.trace).forward == 2 * 2 * WIDTH**3


def test_an_estimate_counts_what_is_recomputed_and_not_what_was_saved() -> None:
    def flops(*saved: Any) -> int | None:
        return torchprof.estimate(Checkpointed(*saved), (BATCH, WIDTH)).flops

    none, saved = flops(), flops(aten.addmm.default)
    assert none is not None
    assert saved == none - 2 * PRODUCT == 5 * PRODUCT


@pytest.mark.parametrize("tp", [1, 2])
def test_ranks_that_save_products_compute_the_others_again(tp: int) -> None:
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=256
    )
    sharded = ShardedTransformer(config)

    def of(how: str) -> torchprof.Estimate:
        choice = Choice(2, 1, 64, 1, {"fsdp": 2 // tp, "tp": tp, "checkpointing": how, "precision": "bf16"})
        return torchprof.estimate(partial(sharded, choice), sharded.inputs(choice), world_size=2)

    none, selective, full = map(of, ("none", "selective", "full"))
    assert not (*none.flops_unknown, *selective.flops_unknown, *full.flops_unknown)
    assert none.flops is not None
    assert selective.flops is not None
    sizes = {"k": 64 * 32, "o": 64 * 64, "up": 64 * 128}  # every second one of q, k, v, o, gate, up and down
    assert selective.flops - none.flops == 2 * 2 * 64 * sum(sizes.values()) // tp
