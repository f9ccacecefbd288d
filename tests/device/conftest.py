"""The fake device: compiled once, loaded before anything else, and as new for every test."""

from __future__ import annotations

import gc
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from compiled import python_module
from needs_events import pytest_runtest_call

__all__ = ["pytest_runtest_call"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Other tests would see a device that is not there elsewhere."""
    if not all(item.path.is_relative_to(Path(__file__).parent) for item in items):
        raise pytest.UsageError("tests/device needs a process of its own: run it alone, or as a part of the whole")


@pytest.fixture(scope="session")
def loaded() -> Any:
    """The device, of which PyTorch starts a backward thread if it is there before the first backward pass."""
    torch_at = Path(torch.__file__).parent
    libraries = [f"-L{torch_at / 'lib'}", "-lc10", "-ltorch", "-ltorch_cpu", f"-Wl,-rpath,{torch_at / 'lib'}"]
    options = [
        "-DNDEBUG",
        f"-isystem{torch_at / 'include'}",
        *libraries,
    ]  # compiling takes a quarter of a minute, the first time
    module = python_module("fake_device.cpp", *options, made_for=f"{torch.__version__} {torch_at}")
    of_torch: Any = types.ModuleType("torch.fake")
    of_torch._lazy_init = lambda: None  # PyTorch 2.11 waits for no device that has none
    of_torch._is_in_bad_fork = lambda: False
    of_torch.manual_seed_all = lambda seed: None
    of_torch.device_count = lambda: 2
    torch._register_device_module("fake", of_torch)
    return module


@pytest.fixture
def fake(loaded: Any) -> Iterator[Any]:
    """The device, as new. A test that leaves one of its events behind fails."""
    gc.collect()  # of other tests: what they held
    loaded.reset()
    yield loaded
    loaded.reset()
    assert loaded.live_events() == 0
