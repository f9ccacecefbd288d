"""What follows from streams: each runs its kernels in the order in which they were launched."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.trace.schema import Activity, Rows

__all__ = ["launched_before"]


def launched_before(kernels: Rows) -> npt.NDArray[np.bool_]:
    """Which rows of ``kernels`` were launched before the recording began.

    No launch of theirs was recorded, and they ran on their stream before all whose launch was.
    """
    found = np.zeros(len(kernels), dtype=np.bool_)
    unseen = (kernels["runtime_call"] < 0) & (kernels["op"] < 0) & (kernels["kind"] != Activity.INTERVAL)
    rows, launched = np.flatnonzero(unseen), np.flatnonzero(kernels["runtime_call"] >= 0)
    if not len(rows) or not len(launched):
        return found
    stream = (
        (kernels["device_type"].astype(np.int64) << 48)
        | (kernels["device_index"].astype(np.int64) & 0xFF) << 40
        | kernels["stream"]
    )
    known, of_launched = np.unique(stream[launched], return_inverse=True)
    first = np.full(len(known), np.iinfo(np.int64).max)
    np.minimum.at(first, of_launched, kernels["start"][launched])
    at = np.minimum(np.searchsorted(known, stream[rows]), len(known) - 1)
    found[rows] = (known[at] == stream[rows]) & (kernels["start"][rows] < first[at])
    return found
