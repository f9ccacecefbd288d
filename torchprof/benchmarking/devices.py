"""The devices that a process works with, and waiting for them: what a clock must do before it starts and before it stops."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from torchprof.record.gpu_backends import accelerator_in_use

__all__ = ["devices_in_use", "synchronize"]


def devices_in_use() -> tuple[torch.device, ...]:
    """The devices, other than the CPU, on which PyTorch has reserved memory in this process; none where it works on the CPU.

    Where no allocator tells, it is the current device. A device that is not used is left alone: to wait for one would make the
    driver set it up, which takes memory.
    """
    accelerator = accelerator_in_use()
    if accelerator is None:
        return ()
    devices = [torch.device(accelerator.type, index) for index in range(torch.accelerator.device_count())]
    current = torch.device(accelerator.type, torch.accelerator.current_device_index())
    return tuple(device for device in devices if _has_reserved(device)) or (current,)


def _has_reserved(device: torch.device) -> bool:
    try:
        return torch.accelerator.memory_reserved(device) > 0
    except RuntimeError:  # an allocator without statistics
        return False


def synchronize(devices: Iterable[torch.device]) -> None:
    """Wait until these devices have done everything that was launched."""
    for device in devices:
        torch.accelerator.synchronize(device)
