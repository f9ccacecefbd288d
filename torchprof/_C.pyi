"""The compiled extension, whose sources are in csrc/bindings/. The package uses it through torchprof._native alone."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Tables = dict[str, NDArray[Any]]
Held = tuple[int, int, int, str, int, int, int, bool]

# recording.cpp

class DeviceRecorderError(Exception): ...

def start(
    *,
    ops: bool,
    shapes: bool,
    memory: bool,
    budget_bytes: int,
    module_class: type | None,
    ops_with_arguments: set[str],
    counted_ops: set[str],
    aggregate: bool,
    gpu: str,
    device_type: int,
    held: Sequence[Held],
    evaluator_switch: object = ...,
) -> None: ...
def stop(held: Sequence[Held], may_wait: bool = ...) -> tuple[Tables, list[str], dict[str, Any]]: ...
def mark(name: str, /) -> None: ...
def begin_step(number: int, warmup: bool) -> None: ...
def end_step(may_wait: bool = ...) -> None: ...
def bytes() -> int: ...
def observe_new_classes() -> None: ...
def is_recording() -> bool: ...
def installed(module_class: type, /) -> dict[str, Any]: ...

# tensors.cpp

def storage(tensor: torch.Tensor, /) -> tuple[int, int, int, int]: ...
def use_counts(tensor: torch.Tensor, /) -> tuple[int, int]: ...
def changed(pairs: list[tuple[dict[Any, Any], dict[Any, Any]]], /) -> list[int]: ...

# model.cpp

def walk(roots: list[tuple[str, Any]], place: type, /) -> list[Any]: ...
def describe(
    places: list[Any],
    *,
    module_info: type,
    tensor_info: type,
    read_class: Callable[[type], tuple[str, bool, bool]],
    read_module: Callable[[str, Any], tuple[str, str, tuple[Any, ...], tuple[Any, ...]]],
    read_tensor: Callable[[str, torch.Tensor, str | None], Any],
    special: tuple[str, ...],
    attributes: tuple[str, ...],
    owners: dict[int, str],
    parameter: type,
) -> tuple[Any, ...]: ...

# types.cpp

def dtypes() -> dict[int, tuple[str, int]]: ...
def device_types() -> dict[int, str]: ...

# pause.cpp

def pause_recording() -> None: ...
def resume_recording(results: list[torch.Tensor], workspace: int, /) -> None: ...
def real_peak() -> int: ...
def adds_gradients() -> bool: ...

# allocator.cpp

def simulate_caching_allocator(
    events: NDArray[np.int64], settings: dict[str, Any], capacity: int, blocks: NDArray[np.int64], timeline: bool
) -> dict[str, Any]: ...
