"""Names of devices that programs give."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["is_cuda"]


def is_cuda(device: Any) -> bool:
    """Whether something names a device of CUDA: ``"cuda:1"``, ``torch.device("cuda")``. A number alone may be no device."""
    kind = device.partition(":")[0] if isinstance(device, str) else device.type if isinstance(device, torch.device) else ""
    return kind == "cuda"
