"""What the allocator of a device reports: the bytes that it has allocated and reserved in total."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.trace.schema import Rows

__all__ = ["AllocatorTotals"]

Ints = npt.NDArray[np.int64]


class AllocatorTotals:
    """The rows of ``trace.allocator_totals`` of one device. There are none on the CPU, whose allocator reports no totals.

    A row holds until the next; the first also holds before its time.
    """

    def __init__(self, rows: Rows, held_before: int) -> None:
        """
        Args:
            held_before: bytes of the recorded blocks that were allocated before the recording. ``unreported`` contains them.
        """
        self._rows = rows
        self._untracked: Ints = rows["unreported"] - held_before

    def __bool__(self) -> bool:
        return len(self._rows) > 0

    def untracked_at(self, times: Ints) -> Ints:
        """Bytes that were allocated at these times beyond all recorded blocks; 0 where there are no totals.

        Negative where recorded blocks had been freed on threads that are not recorded.
        """
        return self._untracked[self._row_at(times)] if self else np.zeros(len(times), dtype=np.int64)

    def reserved_at(self, time: int) -> int | None:
        """Bytes that the allocator had reserved from the device at this time; None where it reports no totals."""
        return int(self._rows["reserved"][self._row_at(np.array([time]))][0]) if self else None

    @property
    def max_reserved(self) -> int | None:
        """The most that the allocator had reserved at any time; None where it reports no totals."""
        return int(self._rows["reserved"].max()) if self else None

    def _row_at(self, times: Ints) -> Ints:
        return np.maximum(np.searchsorted(self._rows["time"], times, side="right") - 1, 0)
