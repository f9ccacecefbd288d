"""Names of devices, as PyTorch writes them: ``"cpu"``, ``"meta"``, ``"cuda:0"``."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["device_name", "devices_of", "on_device"]

WITHOUT_INDEX: Final = ("cpu", "meta")
"""Device types of which there is only one device, whatever its index."""


def device_name(trace: Trace, device_type: int, index: int) -> str:
    """The name of a device. One that was recorded without an index is the first of its type."""
    name = trace.device_types[device_type]
    return name if name in WITHOUT_INDEX else f"{name}:{max(0, index)}"


def devices_of(trace: Trace, rows: Rows) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The devices of rows with the columns ``device_type`` and ``device_index``.

    Returns:
        Names of devices, and for every row the index of its name.
    """
    without_index = [number for number, name in trace.device_types.items() if name in WITHOUT_INDEX]
    index = np.where(np.isin(rows["device_type"], without_index), 0, np.maximum(rows["device_index"], 0))
    keys, device = np.unique(rows["device_type"].astype(np.int64) * 256 + index, return_inverse=True)
    return [device_name(trace, *divmod(key, 256)) for key in keys.tolist()], device


def on_device(trace: Trace, rows: Rows, device: str) -> npt.NDArray[np.bool_]:
    """Which rows, with the columns ``device_type`` and ``device_index``, belong to the device with this name."""
    names, row_device = devices_of(trace, rows)
    mask: npt.NDArray[np.bool_] = row_device == (names.index(device) if device in names else -1)
    return mask
