"""What an estimate cannot do, in words: bad input, memory that cannot be measured, and versions of PyTorch that lack a name."""

from __future__ import annotations

import dataclasses
import gc
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop

import torchprof
from torchprof import AllocatorSettings, ArgumentError, EstimateError, ModuleTypeError, TorchprofError
from torchprof.estimation.fake.surroundings import FAKE_TENSOR_LOGGER
from torchprof.estimation.rules import cpu_workspaces, real_runs
from torchprof.estimation.torch_private import FEATURES

NET = nn.Sequential(nn.Linear(4, 4))
ROOT = Path(__file__).parents[2]


class Applies(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.inner(x))


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"inputs": 3}, "inputs must be a tuple of ints"),
        ({"inputs": (1, 4.0)}, r"inputs=\(1, 4.0\) contains 4.0"),
        ({"inputs": {1: torch.ones(1, 4)}}, "inputs is a dict with the key 1"),
        ({"inputs": (4,), "batch_size": 0}, "batch_size must be"),
        ({"inputs": torch.ones(1, 4), "batch_size": 2}, "batch_size=2 has no meaning with inputs"),
        ({"optimizer": 3}, "optimizer must be a function"),
        ({"optimizer": torch.optim.SGD(NET.parameters())}, "optimizer must be a function.*not SGD"),
        ({"optimizer": lambda parameters: 3}, "optimizer must return an optimizer.*not int"),
        ({"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=-1)}, "Invalid learning rate"),
        ({"loss": 3}, "loss must be a function"),
        ({"loss": lambda returned: 1.0}, "loss must return one number to differentiate.*not float 1.0"),
        ({"loss": lambda returned: returned}, "loss must return one number"),
        ({"loss": lambda returned: returned.detach().sum()}, "loss must return one number"),
        ({"step": 3}, "step must be a function"),
        ({"device": torch.device("cuda")}, "device=device"),
        ({"allocator": None}, "allocator settings must be text"),
        ({"capacity": 1.5}, "capacity=1.5 must be a positive int"),
        ({"capacity": 10**40}, r"capacity=1000000.* must be a positive int of bytes, at most 1 PiB"),
        ({"capacity": 10**5000}, r"capacity=\(of type int\) must be a positive int"),
        ({"allow_real": ("::",)}, "'::', which is no op"),
        ({"model": nn.Linear}, "model is the class Linear"),
    ],
)
def test_bad_arguments_of_an_estimate_are_named(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises((ArgumentError, ModuleTypeError), match=says):
        torchprof.estimate(**{"model": NET, "inputs": (2, 4), **arguments})


# Made in the test: a tensor without storage that lives as long as this module would be met by tests that walk all tensors.
@pytest.mark.parametrize(("convert", "layout"), [(Tensor.to_sparse, "torch.sparse_coo"), (Tensor.to_mkldnn, "torch._mkldnn")])
def test_inputs_without_strides_are_named(convert: Callable[[Tensor], Tensor], layout: str) -> None:
    with pytest.raises(ArgumentError, match=f"layout {layout}: only tensors with strides"):
        torchprof.estimate(NET, convert(torch.eye(4)))


def found() -> torchprof.Estimate:
    return torchprof.estimate(NET, (2, 4), steps=1)


ENTRY = {"action": "alloc", "addr": 4096, "size": 1}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: torchprof.max_batch_size(NET, (2, 4), 2**30), "inputs must be a function"),  # type: ignore[arg-type]
        (lambda: torchprof.max_batch_size(NET, lambda n: (n, 4), 2**30, at_least=0), "at_least must be an int"),
        (lambda: torchprof.max_batch_size(NET, lambda n: (n, 4), 2**30, at_least=9, at_most=3), "at_most=3 is less"),
        (lambda: torchprof.max_batch_size(NET, lambda n: (n, 4), None), "capacity=None must be"),  # type: ignore[arg-type]
        (lambda: torchprof.compare([found()]), "variants must be a dict"),  # type: ignore[arg-type]
        (lambda: torchprof.compare({"a": 3}), r"variants\['a'\] must be what torchprof.estimate returned"),  # type: ignore[dict-item]
        (lambda: torchprof.replay(np.zeros(3)), "allocations must be rows of trace.allocations"),
        (lambda: torchprof.replay(found().trace.allocations, "a:1"), "settings must be AllocatorSettings"),  # type: ignore[arg-type]
        (lambda: torchprof.replay(found().trace.allocations, capacity=1.5), "capacity=1.5 must be"),  # type: ignore[arg-type]
        (lambda: torchprof.replay(found().trace.allocations, capacity=2**70), "capacity=1180591620717411303424"),
        (lambda: torchprof.replay_snapshot(None), "snapshot=None is none: give what torch.cuda.memory._snapshot"),  # type: ignore[arg-type]
        (lambda: torchprof.replay_snapshot({}), r"snapshot: it has no 'segments', and nothing else"),
        (lambda: snapshot({"addr": 1}), r"device_traces\[0\]\[0\] cannot be read: it has no 'action'"),
        (lambda: snapshot(3), r"device_traces\[0\]\[0\] cannot be read"),
        (lambda: snapshot({**ENTRY, "size": "x"}), "cannot be read: invalid literal"),
        (lambda: snapshot({**ENTRY, "size": 2**70}), "is no address and no number of bytes"),
        (lambda: snapshot({**ENTRY, "size": 2**62}), "these allocations cannot be replayed: event 0: cannot allocate"),
        (lambda: snapshot(ENTRY, segments=[{}]), "number 0 of the segments of device 0 cannot be read: it has no 'address'"),
        (lambda: snapshot(ENTRY, allocator_settings={"max_split_size": "x"}), r"'allocator_settings' cannot be read"),
        (lambda: torchprof.replay_snapshot({"segments": [], "device_traces": [[]]}, device=-1), "device=-1"),
        (lambda: AllocatorSettings.parse(b"a:1"), "allocator settings must be text"),  # type: ignore[arg-type]
        (lambda: AllocatorSettings.parse("max_split_size_mb:" + "9" * 5000), "is no number of MiB"),
        (lambda: AllocatorSettings.parse("roundup_power2_divisions:1" + "0" * 5000), "cannot be read"),
        (lambda: AllocatorSettings(max_split_size="5"), "max_split_size='5' cannot be: it must be a number of bytes"),  # type: ignore[arg-type]
        (lambda: AllocatorSettings(roundup_power2_divisions=5), "must be a tuple of 16 numbers"),  # type: ignore[arg-type]
    ],
)
def test_bad_arguments_of_what_goes_with_it_are_named(call: Callable[[], object], says: str) -> None:
    with pytest.raises(TorchprofError, match=says):
        call()


def snapshot(entry: object, **parts: Any) -> object:
    return torchprof.replay_snapshot({"segments": [], "device_traces": [[entry]], **parts})


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_sparse_tensors_that_a_model_makes_are_an_error_and_not_nothing(device: str) -> None:
    model = Applies(lambda y: y.to_sparse().to_dense())
    with pytest.raises(
        EstimateError, match=r"aten::_to_sparse in the root module \(Applies\).*allow_real=\('aten::_to_sparse',"
    ):
        torchprof.estimate(model, (4, 4), device=device)


class Loops(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = while_loop(lambda i, x: i < 5, lambda i, x: (i + 1, x * 2), (torch.zeros((), dtype=torch.long), x))[1]
        return result


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_operators_that_call_others_and_cannot_be_followed_are_named(device: Any) -> None:
    x = torch.empty(2, 4, 128, 64)
    with pytest.raises(EstimateError, match=r"does not know what torch.ops.higher_order.while_loop needs: .*custom_op"):
        torchprof.estimate(Loops(), [x], device=device, step=lambda model, _, x: model(x), steps=1)


def test_an_exception_on_the_way_leaves_the_collector_and_the_logger_as_they_were() -> None:
    logger = logging.getLogger(FAKE_TENSOR_LOGGER)
    before = gc.isenabled(), logger.level

    def build() -> nn.Module:
        assert not gc.isenabled()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        torchprof.estimate(build, (1, 4))
    assert (gc.isenabled(), logger.level) == before


# Memory that cannot be measured.


def test_a_kernel_that_refuses_stand_ins_is_an_error_and_not_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fake: Tensor, integers: int = 0) -> Tensor:
        raise ValueError("no such pivots")

    monkeypatch.setattr(real_runs, "stand_in", refuse)
    with pytest.raises(EstimateError, match=r"memory of aten::sort in the root module \(Applies\).*no such pivots.*step="):
        torchprof.estimate(Applies(lambda y: y.sort()[0]), (4, 4), device="cpu")


def test_pivots_count_from_one_and_are_measured_all_the_same() -> None:
    model = Applies(lambda y: torch.linalg.slogdet(y.view(-1, 2, 2))[1])
    assert torchprof.estimate(model, (4, 4), device="cpu").notes == ()


def test_kernels_too_large_to_be_run_are_named_with_what_they_may_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_workspaces, "LARGEST", 2**10)
    monkeypatch.setattr(cpu_workspaces, "SMALL", 2**10)
    model = Applies(lambda y: y.view(1, -1).sort()[0])  # a batch of one has no parts
    found = torchprof.estimate(model, (64, 4), device="cpu")
    assert "aten::sort (4.0 KiB)" in found.notes[0]
    assert "at most 4.0 KiB" in found.notes[0]
    assert found.unmeasured == 64 * 4 * (4 + 4 + 8)  # what is sorted, what is returned, indices


def test_what_cannot_be_measured_may_decide_whether_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_workspaces, "LARGEST", 2**10)
    monkeypatch.setattr(cpu_workspaces, "SMALL", 2**10)
    found = torchprof.estimate(Applies(lambda y: y.view(1, -1).sort()[0]), (64, 4), device="cpu")
    needed, missing = found.device_memory, found.unmeasured
    assert [found.fits(needed - 1), found.fits(needed), found.fits(needed + missing - 1)] == [False, None, None]
    assert found.fits(needed + missing) is True
    assert "up to 4.0 KiB more than " in str(dataclasses.replace(found, capacity=needed))


# Private names of PyTorch.


def test_every_private_name_is_there() -> None:
    for feature in FEATURES:
        feature.require()


def test_private_names_stand_in_one_file() -> None:
    private = re.compile(r"(?:import|from) torch\._|\btorch\.(?:\w+\.)*_(?!dynamo\b|subclasses\b|inductor\b)\w+\(")
    allowed = {"torch_private.py", "registry.py"}  # the latter names torch._ops in its docs
    files = [path for path in (ROOT / "torchprof" / "estimation").rglob("*.py") if path.name not in allowed]
    assert len(files) > 20
    assert [path.name for path in files if private.search(path.read_text())] == []


HIDES = """
import importlib
import torch

module, _, name = "{name}".rpartition(".")
delattr(importlib.import_module(module), name)

import torchprof
from torch import nn

net = nn.Sequential(nn.Linear(4, 4))
torchprof.summary(net, (1, 4), verbose=0)
with torchprof.profile(net) as prof:
    net(torch.ones(1, 4))
assert len(torchprof.by_module(prof.trace).rows) > 0

def tried(**options):
    model = options.pop("model", net)
    try:
        return torchprof.estimate(model, (4, 4), **options).max_allocated > 0
    except torchprof.EstimateError as error:
        return str(error)

class Experts(nn.Module):
    def forward(self, x):
        weights = torch.empty(1, 4, 4, requires_grad=True)
        return torch._grouped_mm(x, weights, offs=torch.full((1,), 4, dtype=torch.int32))
"""


@pytest.mark.parametrize(
    ("name", "checks"),
    [
        (
            "torch._subclasses.fake_tensor.in_kernel_invocation_manager",
            ["'in_kernel_invocation_manager, which PyTorch' in tried()", "'saved traces' in tried(device='cpu')"],
        ),
        (
            "torch._meta_registrations._create_grouped_mm_output_tensor",
            ["tried() is True", "'torch._grouped_mm needs' in tried(model=Experts())"],
        ),
        (
            "torch._C._ExcludeDispatchKeyGuard",
            [
                "tried() is True",
                "tried(device='cpu', amp=torch.bfloat16) is True",
                "'_ExcludeDispatchKeyGuard' in tried(amp=torch.bfloat16)",
            ],
        ),
        (
            "torch._inductor.compile_fx._recursive_record_original_output_strides",
            ["tried() is True", "'output_strides, which PyTorch' in tried(compile=True)"],
        ),
    ],
)
def test_a_name_that_is_missing_stops_one_feature_and_says_so(name: str, checks: list[str]) -> None:
    script = HIDES.format(name=name) + "\n".join(f"assert {check}, {check.partition(' in ')[2] or '0'}" for check in checks)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
