"""What torchprof is measured against."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.cpp_extension import load

HERE = Path(__file__).resolve().parent


@functools.cache
def observers() -> Any:
    """The compiled observers of observers.cpp."""
    build = HERE.parents[1] / "build" / "benchmarks"
    build.mkdir(parents=True, exist_ok=True)
    sources = [str(HERE / "observers.cpp")]
    return load("observers", sources, extra_cflags=["-O3", "-DNDEBUG", "-std=c++20"], build_directory=str(build))


@contextmanager
def empty_callback(tensors: bool) -> Iterator[None]:
    """A RecordFunction callback that does nothing, with or without being handed the tensors."""
    observers().observe(tensors)
    try:
        yield
    finally:
        observers().stop()


def torch_profiler(**options: bool) -> AbstractContextManager[Any]:
    return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], **options)


class EmptyMode(TorchDispatchMode):
    """A dispatch mode that only passes on."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))
