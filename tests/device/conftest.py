"""The fake device: compiled once, loaded before anything else, and as new for every test."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests" / "native" / "fake_device.cpp"


def built() -> Path:
    """The compiled device, under the build folder that git ignores. Compiling takes a quarter of a minute."""
    import pybind11

    torch_at = Path(torch.__file__).parent
    compiler = os.environ.get("CXX", "c++")
    digest = hashlib.sha256(f"{torch.__version__} {sys.version} {compiler}".encode() + SOURCE.read_bytes()).hexdigest()
    library = ROOT / "build" / "fake_device" / digest[:16] / "fake_device.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        unfinished = library.with_suffix(f".{os.getpid()}")
        includes = [pybind11.get_include(), torch_at / "include", sysconfig.get_paths()["include"]]
        libraries = ["-lc10", "-ltorch", "-ltorch_cpu", f"-Wl,-rpath,{torch_at / 'lib'}"]
        options = "-shared -fPIC -O1 -std=c++20 -DNDEBUG -fvisibility=hidden -Wall -Wextra -Wno-unused-parameter".split()
        command = [compiler, *options, *(f"-I{path}" for path in includes), SOURCE, "-o", unfinished, f"-L{torch_at / 'lib'}"]
        subprocess.run([*map(str, command), *libraries], check=True)
        unfinished.replace(library)  # whole or not at all
    return library


@pytest.fixture(scope="session")
def loaded() -> Any:
    """The device, of which PyTorch starts a backward thread if it is there before the first backward pass."""
    spec = importlib.util.spec_from_file_location("fake_device", built())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    of_torch: Any = types.ModuleType("torch.fake")
    of_torch._is_in_bad_fork = lambda: False
    of_torch.manual_seed_all = lambda seed: None
    torch._register_device_module("fake", of_torch)
    return module


@pytest.fixture
def fake(loaded: Any) -> Iterator[Any]:
    """The device, as new. A test that leaves one of its events behind fails."""
    loaded.reset()
    yield loaded
    loaded.reset()
    assert loaded.live_events() == 0
