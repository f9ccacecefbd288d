"""`torchprof.explain_oom`: why a program ran out of memory, and what would have saved it, to print."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from torchprof.allocator.out_of_memory import OutOfMemoryAccount, none_failed
from torchprof.allocator.replay import check
from torchprof.errors import ArgumentError
from torchprof.importers.cuda_snapshot import CudaSnapshot
from torchprof.paths import AnyPath
from torchprof.rendering.grid import Parts
from torchprof.rendering.printed import Printed
from torchprof.rendering.units import format_bytes
from torchprof.tables.snapshot_memory import device_number, line_of
from torchprof.tables.table import Table
from torchprof.wording import counted

__all__ = ["OutOfMemory", "explain_oom"]


class OutOfMemory(OutOfMemoryAccount, Printed):
    """Which request failed, how much was free but fragmented, and what would have saved the run. ``str()`` is the printed text.

    Beside the figures of `OutOfMemoryAccount` (``requested``, ``allocated``, ``reserved``, ``capacity``, ``free``,
    ``largest_free``, ``missing``, ``attempts``, ``saved_by``) it has a table of them: ``attempt_table``.
    """

    @cached_property
    def attempt_table(self) -> Table:
        """The run with other settings."""
        rows = [
            {
                "name": attempt.text,
                "max_reserved": attempt.max_reserved,
                "outcome": "fits"
                if attempt.fits
                else f"out of memory after {attempt.served:,} of {attempt.allocations:,} allocations",
                "fits": attempt.fits,
                "served": attempt.served,
            }
            for attempt in self.attempts
        ]
        return Table("PYTORCH_ALLOC_CONF", rows, ("max_reserved", "outcome"))

    def to_dict(self) -> dict[str, Any]:
        """What is printed, as plain data, in bytes; None is not known."""
        figures = "requested capacity device_free allocated awaiting_free free pieces largest_free missing earlier before"
        return {
            "device": self.device,
            "stack": list(self.stack),
            **{name: getattr(self, name) for name in figures.split()},
            "most": self.most,
            "limited": self.limited,
            "attempts": self.attempt_table.to_dict(),
            "saved_by": list(self.saved_by),
            "may_be_saved_by": list(self.may_be_saved_by),
            "followed": self.followed,
            "reproduced": self.reproduced,
            "verdict": self._verdict(),
        }

    def __repr__(self) -> str:
        return f"<OutOfMemory: {format_bytes(self.requested)} on {self.device}>"

    def parts(self) -> Parts:
        where = f" in {line_of(self.stack)}" if self.stack else ""
        yield f"Out of memory on {self.device}: {format_bytes(self.requested)} were needed{where}"
        least = "" if self.most is not None else "at least "
        to = "" if self.most in (None, self.capacity) else f" to {format_bytes(self.most)}"
        waiting = f", {format_bytes(self.awaiting_free)} freed and still used by other streams" if self.awaiting_free else ""
        yield (
            f"Of {least}{format_bytes(self.capacity)}{to} that PyTorch could have, {format_bytes(self.allocated)} were "
            f"allocated{waiting}; {format_bytes(self.free)} were reserved and free, in {counted(self.pieces, 'piece')}"
        )
        free = "unknown, the history does not have it" if self.device_free is None else format_bytes(self.device_free)
        yield f"The largest piece for this request: {format_bytes(self.largest_free)}; free on the device: {free}"
        if self.limited and self.given_capacity is None:
            yield "The device had room: a limit such as torch.cuda.set_per_process_memory_fraction must have ended it"
            yield "The snapshot does not have it: below is the least that it can be; capacity= takes what the error said"
        if self.earlier:
            yield f"Earlier requests that failed, after which the program went on: {self.earlier:,}"
        yield from self.attempt_table.parts()
        if not self.followed:
            yield "INEXACT: the history could not be followed: what was allocated and free, and the pieces, may be off"
        if not self.reproduced:
            yield (
                "INEXACT: replayed with its own settings and the memory that there was, the run does not fail there: take the "
                "others with a grain of salt"
            )
        if self.before:
            yield f"Allocated before the history, and not moved by other settings: {format_bytes(self.before)}"
        yield self._verdict()

    def _verdict(self) -> str:
        given, unknown = self.given_capacity is not None, self.given_capacity is None and self.device_free is None
        within = f" in {format_bytes(self.capacity)}" if given else ""
        if self.attempts[0].fits:
            if given:
                return f"All fits{within} as it was recorded: no other setting is needed"
            return "What would have saved the run is unknown: as replayed, it needs no other setting"
        if self.saved_by:
            also = f"; {self.may_be_saved_by[0]} too, if the limit was high enough" if self.may_be_saved_by else ""
            return f"PYTORCH_ALLOC_CONF={self.saved_by[0]} would have saved the run{within}{also}"
        if unknown:
            return "Whether a setting would have saved the run is unknown, as is what the device had free: give its capacity"
        if self.may_be_saved_by:
            return (
                f"PYTORCH_ALLOC_CONF={self.may_be_saved_by[0]} would have saved the run if the limit was high enough: give it"
            )
        if self.missing:
            more = ("up to " if self.most not in (None, self.capacity) else "") + format_bytes(self.missing)
            return f"No setting would have saved the run{within}: {more} more are needed even with nothing fragmented"
        return f"None of these settings would have saved the run{within}, though enough was free in pieces"


def explain_oom(
    snapshot: Mapping[str, Any] | AnyPath, device: str | None = None, *, capacity: int | str | None = None
) -> OutOfMemory:
    """Explain the last ``torch.OutOfMemoryError`` of a recorded memory history, and replay it with other settings.

    Args:
        snapshot: the path of what ``torch.cuda.memory._dump_snapshot`` wrote after the error, or what
            ``torch.cuda.memory._snapshot()`` returned; with ``torch.cuda.memory._record_memory_history()`` before.
        device: such as ``"cuda:1"``; by default the one whose request failed, if it is one.
        capacity: bytes of the device that PyTorch could have, memory such as ``"40GiB"``, or the name of a GPU of
            ``torchprof.GPUS``: all its memory, of which the CUDA context takes some hundred MiB. None: what PyTorch had
            reserved, and what the device had free.

    Raises:
        ArgumentError: no request failed in the history, or on several devices; or the snapshot cannot be read.
        TraceFileError: the file is no snapshot, is damaged, or asks to import something.
        ExtensionError: the compiled recorder is missing.

    Example:
        >>> print(torchprof.explain_oom(torch.cuda.memory._snapshot()))
    """
    limit = check(None, capacity)
    found = CudaSnapshot.of(snapshot)
    failed = [number for number in found.devices if found.has_history(number) and _failed(found, number)]
    if device is None and len(failed) > 1:
        raise ArgumentError(f"requests failed on {', '.join(f'cuda:{number}' for number in failed)}: name the device")
    if device is None and not failed:
        numbers = [str(each) for each in found.devices if found.has_history(each)]
        raise none_failed(found, f"the history of device {', '.join(numbers)}" if numbers else "it, which has no history")
    number = failed[0] if device is None else device_number(found, device)
    explained = OutOfMemory(found, number, limit)
    _ = explained.entry  # says so if there is none
    return explained


def _failed(snapshot: CudaSnapshot, number: int) -> bool:
    return any(entry.action == "oom" for entry in snapshot.history(number))
