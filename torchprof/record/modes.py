"""Modes of the process and of this thread that a program may set."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import torch

__all__ = ["read_modes", "set_modes"]

AUTOCAST_DEVICES: Final = ("cpu", "cuda")
UNREADABLE: Final = object()


def read_modes() -> list[Any]:
    """What each mode is now, for `set_modes`."""
    return [_read(read) for read, _ in MODES]


def set_modes(before: list[Any]) -> None:
    """Set each mode to what it was when `read_modes` read it. Where it is the same, nothing is done."""
    for (read, write), value in zip(MODES, before, strict=True):
        if value is not UNREADABLE and (now := _read(read)) is not UNREADABLE and now != value:
            with suppress(RuntimeError):
                write(value)


def _read(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except RuntimeError:  # a precision that was set in another way
        return UNREADABLE


def _set_default_device(device: torch.device) -> None:
    # The CPU is what there is without a default device.
    torch.set_default_device(None if device == torch.device("cpu") else device)


def _autocast(device: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    def write(state: tuple[bool, torch.dtype]) -> None:
        torch.set_autocast_enabled(device, state[0])
        torch.set_autocast_dtype(device, state[1])

    return lambda: (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)), write


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


MODES: Final[tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...]] = (
    (torch.is_grad_enabled, torch._C._set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, _set_default_device),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    (_anomaly, lambda state: torch.set_anomaly_enabled(*state)),
    *map(_autocast, AUTOCAST_DEVICES),
)
"""What reads a mode, and what sets it."""
