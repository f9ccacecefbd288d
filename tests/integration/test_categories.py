"""Inputs, parameters and the state of optimizers in live loops; and what tables say of parts that were not recorded."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torchprof import by_module, by_op, by_step, memory, profile, schedule
from torchprof.analysis.memory.account import MemoryAccount
from torchprof.analysis.memory.categories import CATEGORIES
from torchprof.trace.trace import Trace


def trained(model: torch.nn.Module, /, **options: Any) -> Trace:
    """Three steps of SGD, on batches of a loader: 4 rows of 8 numbers, 128 B, and of a target, 32 B."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = torch.utils.data.TensorDataset(torch.randn(12, 8), torch.randint(2, (12,)))
    with profile(**options) as prof:
        for x, target in torch.utils.data.DataLoader(batches, batch_size=4):
            torch.nn.functional.cross_entropy(model(x), target).backward()
            optimizer.step()
            optimizer.zero_grad()
            prof.step()
    return prof.trace


def bytes_by_category(account: MemoryAccount) -> dict[str, list[int]]:
    sizes: dict[str, list[int]] = {}
    for kind, size in zip(account.category.tolist(), account.allocations["bytes"].tolist(), strict=True):
        sizes.setdefault(CATEGORIES[kind], []).append(size)
    return {kind: sorted(found) for kind, found in sizes.items()}


@pytest.mark.parametrize("with_model", [True, False])
def test_batches_of_a_loader_are_inputs_and_what_sgd_updates_is_parameters(with_model: bool) -> None:
    model = torch.nn.Linear(8, 2)
    sizes = bytes_by_category(memory(trained(model, model=model) if with_model else trained(model)))
    assert sizes["parameters"] == [8, 64]
    assert "optimizer state" not in sizes
    assert [size for size in sizes["inputs"] if size > 4] == [32, 32, 32, 128, 128, 128]  # without the gradient of the loss


@pytest.mark.parametrize("how", [torch.optim.Adam, torch.optim.AdamW])
def test_without_a_model_the_state_of_an_optimizer_from_before_is_state(how: Any) -> None:
    layer = torch.nn.Linear(8, 2)
    optimizer = how(layer.parameters())
    x, y = torch.randn(4, 8), torch.randn(4, 2)

    def step() -> None:
        torch.nn.functional.mse_loss(layer(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with profile() as prof:
        step()
    sizes = bytes_by_category(memory(prof.trace))
    assert sizes["parameters"] == [8, 64]
    assert [size for size in sizes["optimizer state"] if size > 4] == [8, 8, 64, 64]  # and the numbers of steps
    assert [size for size in sizes["inputs"] if size > 4] == [32, 128]


def test_without_a_model_gradients_from_before_that_backward_adds_to_are_gradients() -> None:
    layer = torch.nn.Linear(8, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.randn(4, 8)).sum().backward()
    optimizer.step()
    with profile() as prof:
        layer(torch.randn(4, 8)).sum().backward()
        optimizer.step()
    sizes = bytes_by_category(memory(prof.trace))
    assert (sizes["parameters"], sizes["gradients"]) == ([8, 64], [8, 64])
    assert [size for size in sizes["optimizer state"] if size > 4] == [8, 8, 64, 64]


def test_a_target_that_only_the_loss_reads_is_an_input() -> None:
    layer = torch.nn.Linear(8, 2)
    with profile(layer) as prof:
        x, y = torch.randn(4, 8), torch.randn(4, 2)
        (layer(x) - y).square().mean().backward()
    assert [size for size in bytes_by_category(memory(prof.trace))["inputs"] if size > 4] == [32, 128]


def test_tables_say_what_was_not_recorded() -> None:
    model = torch.nn.Linear(8, 2)
    text = str(by_module(trained(model, model=model, modules=False)))
    assert "Modules were not recorded: what they cost is in the row outside modules" in text
    without_ops = trained(model, model=model, ops=False)
    for table, rest in ((by_module, "row other"), (by_step, "column Other")):
        said = f"Ops were not recorded: backward, optimizer and waiting for data are in the {rest}"
        assert said in str(table(without_ops))
        assert said not in str(table(trained(model, model=model)))


def test_a_recording_that_reached_warm_up_only_is_not_shown_as_a_whole() -> None:
    model = torch.nn.Linear(8, 2)
    warm = trained(model, model=model, schedule=schedule(warmup=9, active=1))
    for table in (by_module, by_op):
        assert "No step but warm-up, which is left out; host time" in str(table(warm))
        assert "The whole recording" not in str(table(warm))
