"""What every test may rely on: it starts clean, and it leaves nothing behind."""

from __future__ import annotations

import gc
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from compiled import shared_library
from fake_gpu import FakeGpu
from goldens import Golden
from needs_cuda import pytest_runtest_setup
from torch import nn

__all__ = ["pytest_runtest_setup"]

if importlib.util.find_spec("hypothesis"):
    from hypothesis import HealthCheck, settings

    # No test is timed, nor what draws its examples. In CI these are the same every time: what a change broke is told from what
    # was found by luck. Elsewhere, luck is welcome.
    settings.register_profile(
        "torchprof", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
    )
    settings.load_profile("torchprof")

os.environ.pop("PYTEST_XDIST_WORKER", None)
"""Tests may run side by side. What a test starts is no part of that: pytest-benchmark, for one, would measure nothing there."""

REPLACED = ("dropout", "scaled_dot_product_attention")
"""Ops that an estimate for CUDA gives kernels of its own while it runs."""


DEVICE = Path(__file__).parent / "device"

LONGEST = """
    collator races collated_stacks interrupts sharded_truth devices damaged_files out_of_memory without_torch run_programs
    interrupted_endings plan python_frames function_hook stragglers_of_ranks run_trainers estimate_compiled ahead_of_time
""".split()
"""Integration tests that take more than half a minute, or compile for as long. They begin first: where files run side by side,
the last one would otherwise run alone."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-goldens", action="store_true", help="write golden files anew; then look at what git diff says")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compares a text with a golden file; see tests/goldens.py."""
    return Golden(request.config.getoption("--update-goldens"), request.path.parent / "golden")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The tests on a fake device have a process of their own, unless they are asked for by name: see test_devices.py."""
    named = any(Path(argument.partition("::")[0]).resolve().is_relative_to(DEVICE) for argument in config.args)
    return True if collection_path == DEVICE and not named else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))  # all others stay in order


def _left_behind() -> dict[str, object]:
    """What a recording installs, and the state that observing must not change."""
    from torchprof import _C

    hooks = torch.nn.modules.module
    return {
        **_C.installed(nn.Module),
        "global_hooks": (len(hooks._global_forward_hooks), len(hooks._global_forward_pre_hooks)),
        "module_call": nn.Module.__call__,
        "grad_mode": torch.is_grad_enabled(),
        "default_dtype": torch.get_default_dtype(),
        "default_device": torch.get_default_device(),
        "garbage_collector": gc.isenabled(),
        "dispatch_modes": torch._C._len_torch_dispatch_stack(),
        "kernels": [torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{op}", "AutogradCPU") for op in REPLACED],
    }


@pytest.fixture(autouse=True)
def leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves a callback, a swapped class slot, a profiler slot, an allocator or a hook behind."""
    if "unit" in request.path.parts:  # these run without the extension
        yield
        return
    torch.manual_seed(0)
    before = _left_behind()
    yield
    assert _left_behind() == before


@pytest.fixture(scope="module", autouse=True)
def what_is_there_is_no_garbage() -> None:
    """The collector leaves the modules of all tests alone: to look through them again and again takes minutes."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """A driver that is not there; see tests/fake_gpu.py."""
    monkeypatch.setenv("TORCHPROF_CUPTI", str(shared_library("fake_cupti.cpp")))
    fake = FakeGpu()
    fake.reset()
    yield fake
    assert fake.enabled() == 0, "something is still recorded"
    fake.reset()
