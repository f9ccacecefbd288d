"""What the numbers of dtypes and of device types mean in one trace.

Rows store the numbers of the PyTorch that recorded them, and the trace keeps its names for them. A list written here would
end: a newer PyTorch has types that this one does not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["DeviceTypes", "Dtype", "Dtypes"]


class Dtype(NamedTuple):
    """A dtype.

    Attributes:
        name: as in ``float32``.
        itemsize: bytes of one element; None where that is unknown.
    """

    name: str
    itemsize: int | None


class Dtypes(dict[int, Dtype]):
    """Dtypes by number. One that has no entry is called ``dtype 61``, and the size of its elements is unknown."""

    def __missing__(self, number: int) -> Dtype:
        return Dtype(f"dtype {number}", None)

    def itemsizes(self, numbers: npt.NDArray[np.int8]) -> npt.NDArray[np.float64]:
        """Bytes of one element of each of these dtypes; NaN where that is unknown."""
        sizes = np.full(256, np.nan)  # numbers are a signed byte: negative ones index from the end
        for number, dtype in self.items():
            sizes[number] = np.nan if dtype.itemsize is None else dtype.itemsize
        found: npt.NDArray[np.float64] = sizes[numbers]
        return found


class DeviceTypes(dict[int, str]):
    """Names of device types by number, as in ``cuda``. One that has no entry is called ``device type 30``."""

    def __missing__(self, number: int) -> str:
        return f"device type {number}"

    def number(self, name: str) -> int | None:
        """The number of the type with this name, if there is one."""
        return next((number for number, known in self.items() if known == name), None)
