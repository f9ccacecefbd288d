"""Optimizers in every loop: sums of steps are those of the whole trace, and no module has state that is not its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from sums import rows_of_modules, sums_of_ops
from test_optimizer_state import FUSED, SINGLE_OR_LISTS, Net, state_in
from torch import Tensor, nn

import torchprof
from torchprof.trace.trace import Trace

Kind = Callable[..., torch.optim.Optimizer]
Options = dict[str, Any]
OPTIM = torch.optim


class Embedded(nn.Module):
    """Two embeddings; with `tied`, the second one's weight is that of the first."""

    def __init__(self, *, sparse: bool = False, tied: bool = False) -> None:
        super().__init__()
        self.first = nn.Embedding(50, 24, sparse=sparse)
        self.second = nn.Embedding(50, 24, sparse=sparse)
        self.layer = nn.Linear(24, 24) if not sparse else nn.Identity()
        if tied:
            self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(self.first(x) + self.second(x))
        return found


class Shared(nn.Module):
    """A layer that is used twice, one that is never used, and weights of the root's own, one of them a single number."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(24, 24)
        self.other = nn.Linear(24, 24, bias=False)
        self.never = nn.Linear(24, 24)
        self.weight = nn.Parameter(torch.randn(24, 24))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.other(self.twice(self.twice(x))) @ self.weight * self.scale
        return found


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(24, 24, dtype=torch.complex64), nn.Linear(24, 24, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.view_as_real(self.layers(x.to(torch.complex64)))


def numbers() -> Tensor:
    return torch.randn(8, 24)


def tokens() -> Tensor:
    return torch.randint(0, 50, (8,))


@dataclass
class Loop:
    """How a loop calls what every loop calls."""

    zeroes_first: bool = False
    keeps_gradients: bool = False
    clips: bool = False
    steps_before_update: bool = False
    updates_every: int = 1

    def run(self, model: nn.Module, data: Callable[[], Tensor], update: torch.optim.Optimizer, prof: Any, steps: int) -> None:
        for step in range(steps):
            if self.zeroes_first:
                update.zero_grad(set_to_none=not self.keeps_gradients)
            model(data()).square().mean().backward()
            if prof is not None and self.steps_before_update:
                prof.step()
            if self.clips:
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            if (step + 1) % self.updates_every == 0:
                update.step()
                if not self.zeroes_first:
                    update.zero_grad(set_to_none=not self.keeps_gradients)
            if prof is not None and not self.steps_before_update:
                prof.step()


LOOPS = [
    Loop(),
    Loop(zeroes_first=True),
    Loop(zeroes_first=True, keeps_gradients=True),
    Loop(keeps_gradients=True, clips=True),
    Loop(steps_before_update=True),
    Loop(updates_every=2),
    Loop(updates_every=2, steps_before_update=True, keeps_gradients=True),
]
MODELS: list[tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = [
    (Net, numbers),
    (Shared, numbers),
    (Embedded, tokens),
    (lambda: Embedded(tied=True), tokens),
    (Complex, numbers),
]


def every_parameter(model: nn.Module) -> Iterable[Any]:
    return model.parameters()


def two_groups(model: nn.Module) -> Iterable[Any]:
    parameters = list(model.parameters())
    return [{"params": parameters[::2]}, {"params": parameters[1::2], "lr": 0.001}]


def cases() -> list[Any]:
    """Each optimizer in one loop of one model, in turn, so that every pair of these occurs."""
    more: list[tuple[Kind, Options]] = [
        (OPTIM.SGD, {}),
        (OPTIM.Adam, {"amsgrad": True, "maximize": True, "weight_decay": 0.1}),
        (OPTIM.NAdam, {"decoupled_weight_decay": True, "weight_decay": 0.1}),
        (OPTIM.Adadelta, {"maximize": True, "weight_decay": 0.1}),
        (OPTIM.ASGD, {"t0": 1, "weight_decay": 0.1}),
    ]
    kinds = [
        (kind, {**options, "foreach": foreach}) for kind, options in [*SINGLE_OR_LISTS, *more] for foreach in (False, True)
    ]
    kinds += [(kind, {**options, "fused": True}) for kind, options in FUSED]
    kinds += [(OPTIM.Adam, {"lr": torch.tensor(0.01), "fused": True})]
    found = []
    for at, (kind, options) in enumerate(kinds * 2):
        loop = LOOPS[at % len(LOOPS)]
        make, data = MODELS[(at + at // len(kinds)) % len(MODELS)]
        if make is Complex and ("fused" in options or kind is OPTIM.Adafactor):
            make, data = Net, numbers
        groups = two_groups if at % 3 == 0 else every_parameter
        found.append(pytest.param(make, data, kind, options, groups, loop, 2 * (at // len(kinds)), id=f"{at}-{kind.__name__}"))
    return found


def record(
    make: Callable[[], nn.Module],
    data: Callable[[], Tensor],
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    loop: Loop,
    before: int,
    **options: Any,
) -> tuple[Trace, Counter[str]]:
    """The trace, and the bytes of state by module."""
    torch.manual_seed(0)
    model = make()
    update = optimizer(model)
    loop.run(model, data, update, None, before)
    with torchprof.profile(model, **options) as prof:
        loop.run(model, data, update, prof, 4)
    return prof.trace, state_bytes(model, [update])


def state_bytes(model: nn.Module, updates: Iterable[torch.optim.Optimizer]) -> Counter[str]:
    """By the first module that has the parameter; without numbers, which parameters may share."""
    owners: dict[Tensor, str] = {parameter: path.rpartition(".")[0] for path, parameter in model.named_parameters()}
    sums: Counter[str] = Counter()
    for parameter, state in [pair for update in updates for pair in update.state.items()]:
        for value in state.values():
            if isinstance(value, Tensor):
                parts = [value._indices(), value._values()] if value.is_sparse else [value]
                sums[owners[parameter]] += sum(part.untyped_storage().nbytes() for part in parts if part.nbytes > 8)
    return +sums


def check(
    make: Callable[[], nn.Module],
    data: Callable[[], Tensor],
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    loop: Loop,
    before: int,
) -> None:
    whole, expected = record(make, data, optimizer, loop, before)
    folded, _ = record(make, data, optimizer, loop, before, aggregate=True)
    assert sums_of_ops(folded) == sums_of_ops(whole)
    assert rows_of_modules(folded) == rows_of_modules(whole)
    expected.pop("never", None)  # nothing read it
    assert state_in(whole) == expected


@pytest.mark.parametrize(("make", "data", "kind", "options", "groups", "loop", "before"), cases())
def test_steps_add_up_and_state_belongs_to_its_module(
    make: Callable[[], nn.Module],
    data: Callable[[], Tensor],
    kind: Kind,
    options: Options,
    groups: Callable[[nn.Module], Iterable[Any]],
    loop: Loop,
    before: int,
) -> None:
    check(make, data, lambda model: kind(groups(model), **options), loop, before)


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("loop", LOOPS[:2], ids=["zeroes last", "zeroes first"])
@pytest.mark.parametrize(
    ("kind", "options"), [(OPTIM.SparseAdam, {}), (OPTIM.SGD, {}), (OPTIM.SGD, {"momentum": 0.9}), (OPTIM.Adagrad, {})]
)
def test_sparse_gradients(kind: Kind, options: Options, loop: Loop, before: int) -> None:
    check(lambda: Embedded(sparse=True), tokens, lambda model: kind(model.parameters(), **options), loop, before)


@pytest.mark.parametrize("before", [0, 2])
def test_muon(before: int) -> None:
    def make() -> nn.Module:
        return nn.Sequential(*[nn.Linear(24, 24, bias=False) for _ in range(3)])

    check(make, numbers, lambda model: OPTIM.Muon(model.parameters()), Loop(), before)


class Frozen(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layers[1].requires_grad_(requires_grad=False)


@pytest.mark.parametrize("options", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize("before", [0, 2])
def test_frozen_parameters(options: Options, before: int) -> None:
    check(Frozen, numbers, lambda model: OPTIM.AdamW(model.parameters(), **options), Loop(), before)


class Lazy(nn.Module):
    """It has no parameters when the recording begins."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LazyLinear(24), nn.LazyLinear(24)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.second(self.first(x))
        return found


@pytest.mark.parametrize("options", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)
def test_parameters_that_are_made_meanwhile(options: Options) -> None:
    def record(**how: Any) -> tuple[Trace, Counter[str]]:
        torch.manual_seed(0)
        model = Lazy()
        update: torch.optim.Optimizer | None = None
        with torchprof.profile(model, **how) as prof:
            for _ in range(3):
                model(numbers()).mean().backward()
                update = update or OPTIM.Adam(model.parameters(), **options)
                update.step()
                update.zero_grad()
                prof.step()
        assert update is not None
        return prof.trace, state_bytes(model, [update])

    (whole, expected), (folded, _) = record(), record(aggregate=True)
    assert sums_of_ops(folded) == sums_of_ops(whole)
    assert rows_of_modules(folded) == rows_of_modules(whole)
    assert state_in(whole) == expected


@pytest.mark.parametrize(
    ("kind", "options"),
    [(OPTIM.Adam, {}), (OPTIM.SGD, {"momentum": 0.9}), (OPTIM.Adadelta, {}), (OPTIM.AdamW, {"fused": True})],
)
@pytest.mark.parametrize("before", [0, 2])
def test_optimizers_inside_backward(kind: Kind, options: Options, before: int) -> None:
    def record(**how: Any) -> tuple[Trace, Counter[str]]:
        torch.manual_seed(0)
        model = Net()
        updates: dict[Tensor, torch.optim.Optimizer] = {each: kind([each], **options) for each in model.parameters()}

        def update(parameter: Tensor) -> None:
            updates[parameter].step()
            updates[parameter].zero_grad()

        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(update)
        for _ in range(before):
            model(numbers()).mean().backward()
        with torchprof.profile(model, **how) as prof:
            for _ in range(3):
                model(numbers()).mean().backward()
                prof.step()
        return prof.trace, state_bytes(model, updates.values())

    (whole, expected), (folded, _) = record(), record(aggregate=True)
    assert sums_of_ops(folded) == sums_of_ops(whole)
    assert state_in(whole) == expected


def test_without_memory_events_steps_add_up_too() -> None:
    def recorded(aggregate: bool) -> Trace:
        return record(Net, numbers, lambda model: OPTIM.Adam(model.parameters()), Loop(), 0, memory=False, aggregate=aggregate)[
            0
        ]

    assert sums_of_ops(recorded(True)) == sums_of_ops(recorded(False))


def test_sums_of_closures() -> None:
    def recorded(aggregate: bool) -> Trace:
        torch.manual_seed(0)
        model = nn.Sequential(*[nn.Linear(24, 24, bias=False) for _ in range(3)])
        update = OPTIM.LBFGS(model.parameters(), lr=0.01, max_iter=3, line_search_fn="strong_wolfe")
        x = numbers()

        def closure() -> Tensor:
            update.zero_grad()
            loss: Tensor = model(x).square().mean()
            loss.backward()
            return loss

        with torchprof.profile(model, aggregate=aggregate) as prof:
            for _ in range(3):
                update.step(closure)
                prof.step()
        return prof.trace

    assert sums_of_ops(recorded(True)) == sums_of_ops(recorded(False))
