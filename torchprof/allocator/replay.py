"""PyTorch's CUDA caching allocator, simulated: what a sequence of allocations reserves on a GPU, and whether it fits.

    with torchprof.profile(model.to("meta")) as prof:
        train_step(batch)
    replay(prof.trace.allocations, AllocatorSettings.parse("expandable_segments:True"), capacity=24 * 2**30).max_reserved

The rules are in ``csrc/allocator/caching_allocator.cpp``. Four things are not part of them and can make a GPU differ: memory
that others use there (the CUDA context, libraries, other processes: subtract it from the capacity), the addresses that the
driver returns (they decide between free blocks of equal size), private pools of CUDA graphs, and the moment another stream is
done with a block.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from torchprof import _native
from torchprof.allocator.gpus import capacity_of
from torchprof.allocator.settings import AllocatorSettings
from torchprof.errors import ArgumentError, ModuleTypeError
from torchprof.trace.schema import Rows
from torchprof.wording import shown

__all__ = ["Replay", "check", "figures", "replay", "simulate"]

Ints = npt.NDArray[np.int64]

NO_BLOCKS: Final = np.zeros((0, 6), dtype=np.int64)


@dataclass(frozen=True)
class Replay:
    """What the allocator did. Sizes in bytes; ``max_`` is the most at any time.

    Attributes:
        settings, capacity: what it was replayed with.
        allocated, max_allocated: in allocated blocks, as ``torch.cuda.memory_allocated`` counts.
        reserved, max_reserved: reserved on the device, as ``torch.cuda.memory_reserved`` counts.
        requested: of the blocks that are allocated at the end, what was requested; the rest of ``allocated`` is rounding.
        active_blocks, segments, inactive_split, inactive_split_blocks, device_allocs, device_frees, retries: at the end, as
            ``torch.cuda.memory_stats`` has them (``active``, ``segment``, ``inactive_split_bytes``, ``inactive_split``,
            ``num_device_alloc``, ``num_device_free``, ``num_alloc_retries``).
        out_of_memory: the row that did not fit, at which the replay ends; None where all did.
        rows: of each event in order, the row it comes from.
        allocated_after, reserved_after: bytes after each event.
    """

    settings: AllocatorSettings
    capacity: int | None
    allocated: int
    max_allocated: int
    reserved: int
    max_reserved: int
    requested: int
    active_blocks: int
    segments: int
    inactive_split: int
    inactive_split_blocks: int
    device_allocs: int
    device_frees: int
    retries: int
    out_of_memory: int | None
    rows: Ints
    allocated_after: Ints
    reserved_after: Ints


def replay(
    allocations: Rows,
    settings: AllocatorSettings | None = None,
    capacity: int | str | None = None,
    *,
    streams: npt.ArrayLike | None = None,
) -> Replay:
    """Run the simulated allocator on allocations.

    Blocks from before the recording are allocated first. At one moment, older blocks are freed before new ones are allocated.

    Args:
        allocations: rows of ``trace.allocations``, all of one device. Those of meta tensors have the bytes that were
            requested; those recorded on CUDA have the size of the block, which is never smaller.
        settings: PyTorch's defaults if None.
        capacity: bytes of the device that PyTorch can have, memory such as ``"40GiB"``, or the name of a GPU of
            ``torchprof.GPUS``, all of it; None: no limit.
        streams: of each row, the number of the stream that it was allocated on, from 0 on: the allocator keeps the blocks of
            each apart. None: all on one.

    Raises:
        ArgumentError: the rows are of several devices, or one cannot be allocated, or the capacity is none, or streams are not
            as many numbers as rows.
        ModuleTypeError: they are no such rows, or the settings are no `AllocatorSettings`.
        ExtensionError: the compiled recorder is missing.

    Example:
        >>> replay(trace.allocations, capacity=24 * 2**30).out_of_memory is None
        True
    """
    limit = check(settings, capacity)
    names = allocations.dtype.names if isinstance(allocations, np.ndarray) else None
    if not names or not {"bytes", "start", "end", "device_type", "device_index"} <= set(names):
        raise ModuleTypeError(f"allocations must be rows of trace.allocations, not {type(allocations).__name__}")
    if len(np.unique(allocations[["device_type", "device_index"]])) > 1:
        raise ArgumentError("allocations are of several devices: pass the rows of one")
    of_streams = _streams(streams, len(allocations))
    rows = np.flatnonzero(allocations["bytes"] > 0)
    start, end = allocations["start"][rows], allocations["end"][rows]
    freed = end >= 0
    times = np.concatenate([start, end[freed]])
    # At one moment: frees of older blocks, allocations, and frees of what was allocated at that same moment.
    order_at_once = np.concatenate([np.ones(len(rows)), np.where(end[freed] > start[freed], 0, 2)])
    order = np.lexsort((order_at_once, times))
    of_row = np.concatenate([rows, rows[freed]])[order]
    is_free = (np.arange(len(times)) >= len(rows))[order]
    events = np.zeros((len(order), 3), dtype=np.int64)
    events[:, 0] = of_row
    events[:, 1] = np.where(is_free, 0, allocations["bytes"][of_row])
    events[:, 2] = of_streams[of_row]
    results = simulate(events, settings or AllocatorSettings(), limit, NO_BLOCKS)
    return Replay(**figures(results, settings or AllocatorSettings(), limit, of_row))


def _streams(streams: npt.ArrayLike | None, count: int) -> Ints:
    if streams is None:
        return np.zeros(count, dtype=np.int64)
    numbers = np.asarray(streams)
    if numbers.shape != (count,) or not np.issubdtype(numbers.dtype, np.integer) or (numbers < 0).any():
        raise ArgumentError(
            f"streams must be a number from 0 on for each of {count} allocations, not {numbers.dtype} of shape {numbers.shape}"
        )
    return numbers.astype(np.int64)


def check(settings: Any, capacity: Any) -> int | None:
    """The capacity in bytes; None for no limit. Raises ModuleTypeError or ArgumentError if these are no settings, or none."""
    if settings is not None and not isinstance(settings, AllocatorSettings):
        raise ModuleTypeError(
            f"settings must be AllocatorSettings, as AllocatorSettings.parse('expandable_segments:True'), not {shown(settings)}"
        )
    return None if capacity is None else capacity_of(capacity)


def simulate(events: Ints, settings: AllocatorSettings, capacity: int | None, blocks: Ints) -> dict[str, Any]:
    """What the simulated allocator does: see ``simulate_caching_allocator`` in ``_C.pyi``.

    Raises:
        ArgumentError: an event or a block cannot be.
    """
    try:
        return _native.simulate_caching_allocator(events, asdict(settings), capacity or 0, blocks, True)
    except ValueError as error:
        raise ArgumentError(f"these allocations cannot be replayed: {error}") from error


def figures(results: dict[str, Any], settings: AllocatorSettings, capacity: int | None, rows: Ints) -> dict[str, Any]:
    index = results.pop("index")
    same = (
        "allocated reserved requested active_blocks segments inactive_split inactive_split_blocks device_allocs device_frees "
        "retries allocated_after reserved_after"
    ).split()
    return {
        "settings": settings,
        "capacity": capacity,
        **{name: results[name] for name in same},
        "max_allocated": results["allocated_peak"],
        "max_reserved": results["reserved_peak"],
        "out_of_memory": int(rows[index]) if index >= 0 else None,
        "rows": rows[: len(results["allocated_after"])],
    }
