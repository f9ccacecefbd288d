"""The threads that ran ops and modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from torchprof.importers.kineto.columns import Ints
from torchprof.importers.kineto.read_events import Events
from torchprof.trace.schema import LAYOUTS, NO_THREAD, SCOPE_BACKWARD, Rows

__all__ = ["Threads", "threads_of", "torch_ids_of"]

NO_TORCH_ID: Final = 2**32
"""Added to the row of a thread whose number in PyTorch the file does not tell; a number of PyTorch is smaller."""


@dataclass(frozen=True, slots=True)
class Threads:
    """The threads of the trace.

    Attributes:
        table: the table of threads.
        rows: the row of each, by its row in the file.
        main: the row of the one that runs the loop.
    """

    table: Rows
    rows: dict[int, int]
    main: int

    def row_of(self, of_file: Ints) -> Ints:
        """The row of every thread; ``NO_THREAD`` of one that ran nothing."""
        rows = np.full(max([*self.rows, int(of_file.max(initial=0))], default=0) + 1, NO_THREAD, dtype=np.int64)
        for number, row in self.rows.items():
            rows[number] = row
        found: Ints = rows[of_file]
        return found


def threads_of(columns: list[Ints], events: Events) -> Threads:
    """The threads in these columns, and those with steps.

    That with the steps comes first, or else the first thread of a process, or the busiest.
    """
    counts = np.zeros(len(events.threads.rows), dtype=np.int64)
    for each in columns:
        counts += np.bincount(each, minlength=len(counts))
    listed = events.threads.list()
    with_steps = {thread for _, _, _, thread in events.steps}
    used = sorted({*np.flatnonzero(counts).tolist(), *with_steps})
    used.sort(key=lambda number: (number not in with_steps, listed[number][0] != listed[number][1], -counts[number]))
    used = used[:NO_THREAD]
    table = np.zeros(len(used), dtype=LAYOUTS["threads"])
    table["native_id"] = [max(0, listed[number][1]) for number in used]
    return Threads(table, {number: row for row, number in enumerate(used)}, 0)


def torch_ids_of(ops: Rows, threads: int) -> Ints:
    """PyTorch's number of every thread, which nodes of autograd have of the thread that ran forward.

    The file has that number of no thread: it is that of the thread whose ops have most of the sequence numbers of these nodes.
    """
    found = NO_TORCH_ID + np.arange(threads, dtype=np.int64)
    is_node = ops["scope"] == SCOPE_BACKWARD
    nodes = ops[is_node & (ops["forward_thread"] != 0)]
    numbered = np.flatnonzero(~is_node & (ops["sequence_nr"] >= 0))
    numbers = [np.unique(ops["sequence_nr"][numbered[ops["thread"][numbered] == thread]]) for thread in range(threads)]
    matches = [
        (int(np.isin(nodes["sequence_nr"][nodes["forward_thread"] == torch_id], of_thread).sum()), int(torch_id), thread)
        for torch_id in np.unique(nodes["forward_thread"])
        for thread, of_thread in enumerate(numbers)
    ]
    taken: set[int] = set()
    for count, torch_id, thread in sorted(matches, key=lambda match: -match[0]):
        if count and found[thread] >= NO_TORCH_ID and torch_id not in taken:
            found[thread] = torch_id
            taken.add(torch_id)
    return found
