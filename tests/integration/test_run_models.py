"""Which models a program has, found by `torchprof run`: the outermost modules that are called."""

from __future__ import annotations

import gc
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from run_programs import record
from torch import nn

import torchprof
from torchprof.analysis.model.module_tree import module_labels


def paths(folder: Path, program: Callable[[], object]) -> list[str]:
    """The paths of all modules of the models that were found, the type for a root without one."""
    trace, _ = record(folder, program)
    assert trace is not None
    assert trace.model is not None
    return [info.path or info.type for info in trace.model.modules]


def trained(model: nn.Module, call: Callable[[torch.Tensor], torch.Tensor] | None = None) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        (call or model)(torch.ones(2, 4)).sum().backward()
        optimizer.step()


def test_a_model_that_a_function_built_is_known_though_it_is_gone(tmp_path: Path) -> None:
    gone: list[weakref.ref[nn.Module]] = []

    def program() -> None:
        model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))
        trained(model)
        gone.append(weakref.ref(model))
        del model
        gc.collect()
        assert gone[0]() is None  # the recording keeps nothing alive

    trace, _ = record(tmp_path, program)
    assert trace is not None
    assert trace.model is not None
    assert [info.path for info in trace.model.modules] == ["", "0", "1"]
    rows = {row["path"]: row for row in torchprof.by_module(trace).rows if "path" in row}
    assert (rows["0"]["calls"], rows["0"]["params"]) == (1, 40)
    assert torchprof.memory(trace).by_category["parameters"] == 4 * (40 + 36)


def test_a_loss_and_transforms_are_no_models(tmp_path: Path) -> None:
    transform, loss = nn.Sequential(nn.ReLU(), nn.Dropout(0.0)), nn.MSELoss()
    model = nn.Linear(4, 4)
    found = paths(tmp_path, lambda: trained(model, lambda x: loss(model(transform(x)), x)))
    assert found == ["Linear"]


def test_several_models_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    makes, first, second = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4))
    monkeypatch.setattr(sys.modules["__main__"], "generator", makes, raising=False)
    models = nn.ModuleList([makes, first, second])
    parameters = models.parameters()
    del models

    def program() -> None:
        optimizer = torch.optim.SGD(parameters, 0.1)
        second(first(makes(torch.ones(2, 4)))).sum().backward()
        optimizer.step()

    assert paths(tmp_path, program) == ["generator", "Sequential", "Sequential.0", "Sequential_2", "Sequential_2.0"]


def test_of_several_some_may_be_gone(tmp_path: Path) -> None:
    stays = nn.Sequential(nn.Linear(4, 4))

    def program() -> None:
        trained(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
        trained(stays)

    trace, _ = record(tmp_path, program)
    assert trace is not None
    assert trace.model is not None
    modules = trace.model.modules
    assert [info.path for info in modules] == ["Sequential_2", "Sequential_2.0", "Sequential", "Sequential.0", "Sequential.1"]
    assert [info.parent for info in modules] == [-1, 0, -1, 2, 2]


def test_a_model_whose_modules_lie_where_those_of_one_that_is_gone_were_is_told_from_it(tmp_path: Path) -> None:
    met: list[int] = []

    def program() -> None:
        for _ in range(64):  # until one takes the place of one before it, which is the rule
            model = nn.Sequential(nn.Linear(4, 4))
            is_again = id(model[0]) in met or id(model) in met
            met.extend((id(model), id(model[0])))
            trained(model)
            del model
            if is_again:
                break

    for aggregate in (False, True):
        met.clear()
        trace, _ = record(tmp_path, program, aggregate=aggregate)
        assert trace is not None
        assert len(set(met)) < len(met)
        calls: Counter[str] = Counter()
        labels = module_labels(trace)
        for total in trace.call_totals if aggregate else trace.module_calls:
            calls[labels[total["module"]]] += int(total["count"]) if aggregate else 1
        names = ["Sequential", *(f"Sequential_{number}" for number in range(2, len(met) // 2 + 1))]
        expected = {path: 2 for name in names for path in (name, f"{name}.0")}
        if aggregate:  # the first step is a warm-up, and in no sum
            expected |= {"Sequential": 1, "Sequential.0": 1}
        assert calls == expected


class Whole(nn.Module):
    """Calls its parts, and is never called itself, as a ``LightningModule``."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(4, 4)
        self.unused = nn.Linear(2, 2)

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.decoder(self.encoder(batch))
        return found


def test_parts_of_a_module_that_is_not_called_have_its_paths(tmp_path: Path) -> None:
    whole = Whole()
    assert paths(tmp_path, lambda: trained(whole, whole.training_step)) == ["Whole", "encoder", "decoder", "unused"]


def test_a_model_beside_what_was_compiled_of_it_has_its_own_paths(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    compiled = torch.compile(model, backend="eager")
    assert paths(tmp_path, lambda: trained(model)) == ["Sequential", "0"]
    assert paths(tmp_path, lambda: trained(model, compiled)) == ["OptimizedModule", "_orig_mod", "_orig_mod.0"]


def test_lazy_modules_have_their_parameters(tmp_path: Path) -> None:
    def program() -> None:
        model = nn.Sequential(nn.LazyLinear(3))
        with torch.no_grad():
            model(torch.ones(2, 4))

    trace, _ = record(tmp_path, program)
    assert trace is not None
    assert trace.model is not None
    assert [tensor.shape for tensor in trace.model.modules[1].parameters] == [(3, 4), (3,)]


def test_modules_that_are_made_in_every_step_do_not_slow_it_down(tmp_path: Path) -> None:
    def program() -> None:
        kept = []
        for _ in range(80):
            kept.append(nn.Linear(4, 4))
            kept[-1](torch.ones(2, 4))

    trace, outcome = record(tmp_path, program)
    assert trace is not None
    assert outcome.models == 64


def test_what_goes_wrong_inside_does_not_reach_the_program(tmp_path: Path) -> None:
    class Strange(nn.Linear):
        def parameters(self, recurse: bool = True):  # type: ignore[no-untyped-def]
            raise LookupError("no parameters today")

    def program() -> None:
        Strange(4, 4)(torch.ones(2, 4))

    trace, outcome = record(tmp_path, program)
    assert trace is None
    assert outcome.why == "LookupError: no parameters today"
