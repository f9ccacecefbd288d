"""The state of an optimizer and the ops on it belong to the module of the parameter, as the optimizer's own ``state`` says."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchprof
from torchprof.trace.schema import Phase, phases
from torchprof.trace.trace import Trace

OPTIM = torch.optim
SINGLE_OR_LISTS: list[tuple[Any, dict[str, Any]]] = [
    (OPTIM.SGD, {"momentum": 0.9}),
    (OPTIM.SGD, {"momentum": 0.9, "nesterov": True, "maximize": True}),
    (OPTIM.RMSprop, {}),
    (OPTIM.RMSprop, {"momentum": 0.9, "centered": True}),
    (OPTIM.Adadelta, {}),
    (OPTIM.Adagrad, {}),
    (OPTIM.Adam, {"amsgrad": True}),
    (OPTIM.AdamW, {}),
    (OPTIM.Adamax, {}),
    (OPTIM.NAdam, {}),
    (OPTIM.RAdam, {}),
    (OPTIM.ASGD, {}),
    (OPTIM.Rprop, {}),
    (OPTIM.Adafactor, {}),
]
FUSED: list[tuple[Any, dict[str, Any]]] = [
    (OPTIM.SGD, {"momentum": 0.9}),
    (OPTIM.Adam, {"amsgrad": True}),
    (OPTIM.AdamW, {}),
    (OPTIM.Adagrad, {}),
]


def cases() -> list[Any]:
    found = [(kind, {**options, "foreach": foreach}) for kind, options in SINGLE_OR_LISTS for foreach in (False, True)]
    found += [(kind, {**options, "fused": True}) for kind, options in FUSED]
    decays: list[dict[str, Any]] = [{}, {"weight_decay": 0.1}]
    found = [(kind, {**options, **decay}) for kind, options in found for decay in decays if not (kind is OPTIM.Rprop and decay)]
    return [pytest.param(kind, options, id=f"{kind.__name__}-{options}") for kind, options in found]


class Net(nn.Module):
    """Layers of the same and of other sizes, one with a single output."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(24, 24), nn.Linear(24, 24), nn.Linear(24, 24), nn.LayerNorm(24), nn.Linear(24, 40)
        )
        self.head = nn.Linear(40, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.layers(x))
        return found


def record(model: nn.Module, update: torch.optim.Optimizer, wait: int) -> Trace:
    with torchprof.profile(model, schedule=torchprof.schedule(wait=wait, active=3)) as prof:
        for _ in range(wait + 3):
            model(torch.randn(8, 24)).sum().backward()
            update.step()
            update.zero_grad()
            prof.step()
    return prof.trace


def state_in(trace: Trace) -> Counter[str]:
    """Bytes by module as the account has them, without numbers: parameters may share a learning rate, or a count of steps."""
    account = torchprof.memory(trace)
    sums: Counter[str] = Counter()
    for row in np.flatnonzero(account.category == torchprof.CATEGORIES.index("optimizer state")).tolist():
        if account.allocations["end"][row] < 0 and account.allocations["bytes"][row] > 8:
            sums[account.module_path(row)] += int(account.allocations["bytes"][row])
    return sums


def state_of(model: nn.Module, update: torch.optim.Optimizer) -> Counter[str]:
    sums: Counter[str] = Counter()
    for path, parameter in model.named_parameters():
        for value in update.state[parameter].values():
            if isinstance(value, Tensor) and value.nbytes > 8:
                sums[path.rpartition(".")[0]] += value.nbytes
    return sums


@pytest.mark.parametrize("wait", [0, 1])
@pytest.mark.parametrize(("kind", "options"), cases())
def test_state_belongs_to_the_module_of_its_parameter(kind: Any, options: dict[str, Any], wait: int) -> None:
    model = Net()
    update = kind(model.parameters(), **options)
    assert state_in(record(model, update, wait)) == state_of(model, update)


@pytest.mark.parametrize("wait", [0, 1])
def test_the_state_of_muon_belongs_to_the_module_of_its_parameter(wait: int) -> None:
    model = nn.Sequential(*[nn.Linear(24, 24, bias=False) for _ in range(3)])
    update = torch.optim.Muon(model.parameters())
    assert state_in(record(model, update, wait)) == state_of(model, update)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(OPTIM.SGD, {"momentum": 0.9}), (OPTIM.RMSprop, {}), (OPTIM.Adadelta, {}), (OPTIM.Adam, {})],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("wait", [0, 1])
def test_every_module_has_the_ops_of_its_own_update(kind: Any, options: dict[str, Any], wait: int) -> None:
    model = nn.Sequential(*[nn.Linear(24, 24, bias=False) for _ in range(3)])
    trace = record(model, kind(model.parameters(), foreach=False, **options), wait)
    of_module: dict[int, Counter[str]] = {}
    for row in np.flatnonzero(phases(trace.ops) == Phase.OPTIMIZER).tolist():
        name, call = trace.strings[trace.op_names[row]], int(trace.ops["module_call"][row])
        if name.startswith("aten::"):
            of_module.setdefault(int(trace.module_calls["module"][call]) if call >= 0 else -1, Counter())[name] += 1
    updates = [of_module[module] for module in sorted(of_module) if module >= 0]
    assert len(updates) == 3
    assert updates[0] == updates[1] == updates[2]
    assert not any("mul" in name or "add" in name for name in of_module.get(-1, Counter()))


@pytest.mark.parametrize("options", [{}, {"line_search_fn": "strong_wolfe"}], ids=str)
@pytest.mark.parametrize("before", [False, True])
def test_a_flat_vector_of_all_parameters_belongs_to_no_module(before: bool, options: dict[str, Any]) -> None:
    model = nn.Sequential(*[nn.Linear(24, 24, bias=False) for _ in range(3)])
    update = torch.optim.LBFGS(model.parameters(), lr=0.01, max_iter=3, **options)
    x = torch.randn(8, 24)

    def closure() -> Tensor:
        update.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    if before:
        update.step(closure)
    with torchprof.profile(model) as prof:
        update.step(closure)
    flat = 3 * 24 * 24 * 4
    account = torchprof.memory(prof.trace)
    rows = np.flatnonzero(account.allocations["bytes"] == flat).tolist()
    assert rows
    assert {account.module_path(row) for row in rows} == {"(no module)"}
