"""Names of devices, as PyTorch writes them: ``"cpu"``, ``"meta"``, ``"cuda:0"``."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.trace.schema import DEVICE_NAMES, Rows

__all__ = ["device_name", "devices_of", "on_device"]

WITHOUT_INDEX: Final = [DEVICE_NAMES.index("cpu"), DEVICE_NAMES.index("meta")]
"""Device types of which there is only one device, whatever its index."""


def device_name(device_type: int, index: int) -> str:
    """The name of a device. One that was recorded without an index is the first of its type."""
    name = DEVICE_NAMES[device_type] if 0 <= device_type < len(DEVICE_NAMES) else f"device {device_type}"
    return name if device_type in WITHOUT_INDEX else f"{name}:{max(0, index)}"


def devices_of(rows: Rows) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The devices of rows with the columns ``device_type`` and ``device_index``.

    Returns:
        Names of devices, and for every row the index of its name.
    """
    index = np.where(np.isin(rows["device_type"], WITHOUT_INDEX), 0, np.maximum(rows["device_index"], 0))
    keys, device = np.unique(rows["device_type"].astype(np.int64) * 256 + index, return_inverse=True)
    return [device_name(*divmod(key, 256)) for key in keys.tolist()], device


def on_device(rows: Rows, device: str) -> npt.NDArray[np.bool_]:
    """Which rows, with the columns ``device_type`` and ``device_index``, belong to the device with this name."""
    names, row_device = devices_of(rows)
    mask: npt.NDArray[np.bool_] = row_device == (names.index(device) if device in names else -1)
    return mask
