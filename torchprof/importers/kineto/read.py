"""`read_kineto`: a file of torch.profiler as a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

from torchprof.errors import TraceFileError
from torchprof.importers.kineto.assemble import Assembled, assemble
from torchprof.importers.kineto.document import Document
from torchprof.importers.kineto.numbers import integer
from torchprof.importers.kineto.read_events import Events
from torchprof.trace.rank import rank_of
from torchprof.trace.schema import Activity
from torchprof.trace.trace import Trace
from torchprof.wording import counted

__all__ = ["SOURCE", "read_kineto"]

SOURCE: Final = "torch.profiler"
MOST_NAMED: Final = 4


def read_kineto(shown: str, file: BinaryIO, advance: Callable[[int], None]) -> Trace:
    """Read what ``torch.profiler`` wrote.

    Args:
        shown: the path, for messages.
        file: the file, plain or packed by gzip.
        advance: called with the number of bytes that were read since.

    Raises:
        TraceFileError: it is no such file, is damaged or cut short.
    """
    document, events = Document(shown, file, advance), Events()
    for each in document.events():
        events.add(each)
    if not events and "schemaVersion" not in document.metadata:
        raise TraceFileError(f"{shown}: a Chrome trace, but none of torch.profiler: it has no ops, kernels or calls")
    found = assemble(events)
    found.trace.facts.update(_facts(document.metadata, found))
    found.trace.facts["notes"] = list(_notes(document, events, found))
    return found.trace


def _facts(metadata: dict[str, Any], found: Assembled) -> dict[str, Any]:
    """What the file says of the recording as a whole."""
    trace = found.trace
    facts: dict[str, Any] = {"source": SOURCE, "origin_unix_ns": integer(metadata.get("baseTimeNanoseconds"), 0) + found.origin}
    if len(trace.kernels) or len(trace.runtime_calls):
        facts["gpu"] = SOURCE
    else:
        facts |= {"gpu": "off", "gpu_note": "the file has no events of devices: ProfilerActivity.CUDA was not recorded"}
    if isinstance(distributed := metadata.get("distributedInfo"), dict):
        facts["distributed"] = distributed
        facts |= _rank(distributed)
    devices = metadata.get("deviceProperties")
    if isinstance(devices, list):
        facts["devices"] = [str(each.get("name", "")) for each in devices if isinstance(each, dict)]
    if not trace.facts["memory"]:
        facts["memory_missing"] = (
            "its memory events have no addresses, as in files of 2021"
            if found.has_memory
            else "it was recorded with profile_memory=False"
        )
    return facts


def _rank(distributed: dict[str, Any]) -> dict[str, Any]:
    """What the file says of its rank, as a recording of torchprof does."""
    rank = rank_of({"distributed": distributed})
    if rank is None:
        return {}
    listed = distributed.get("pg_config")
    groups = [
        {
            "name": str(group.get("pg_name", "")),
            "description": str(group.get("pg_desc", "")),
            "backend": str(group.get("backend_config", "")),
            "ranks": [integer(each, -1) for each in group["ranks"]],
        }
        for group in (listed if isinstance(listed, list) else ())
        if isinstance(group, dict) and isinstance(group.get("ranks"), list)
    ]
    size = {"world_size": rank.size} if rank.size is not None else {}
    return {"rank": rank.number, **size, **({"process_groups": groups} if groups else {})}


def _notes(document: Document, events: Events, found: Assembled) -> Iterator[str]:
    """What must be said of a file of which not everything is in the trace."""
    if events.left_out:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in events.left_out.most_common(MOST_NAMED))
        more = len(events.left_out) - MOST_NAMED
        yield f"events of other kinds are left out: {kinds}" + (f" and {more} more kinds" if more > 0 else "")
    if events.unreadable:
        yield counted(
            events.unreadable,
            "event has no name, no time or no duration, and is left out",
            "events have no name, no time or no duration, and are left out",
        )
    if events.odd:
        yield counted(events.odd, "event is no object, or its args are none", "events are no objects, or their args are none")
    if events.no_device:
        which = counted(events.no_device, "kernel, copy or fill says", "kernels, copies and fills say")
        yield f"{which} no device that can be: shown on the first"
    if events.backwards:
        yield counted(
            events.backwards,
            "event ends before it begins: it counts as 0 ns",
            "events end before they begin: they count as 0 ns",
        )
    if found.same_ids:
        yield f"{counted(found.same_ids, 'op has', 'ops have')} the External id of another one: kernels belong to the first"
    if unsized := int(((found.trace.kernels["kind"] != Activity.KERNEL) & (found.trace.kernels["bytes"] == 0)).sum()):
        yield counted(
            unsized,
            "copy has no size: it is missing in sums of bytes",
            "copies and fills have no size: they are missing in sums of bytes",
        )
    if events.frames.late:
        yield f"the stacks of {counted(events.frames.late, 'op')} may lack functions, because the file is not in order"
    if found.unfinished:
        yield "its last step is left out, in which nothing ran: torch.profiler begins one more than there are"
    if document.repaired:
        yield counted(
            document.repaired,
            "piece of the file was no valid JSON, and was read as what it must have been",
            "pieces of the file were no valid JSON, and were read as what they must have been",
        )
    if not found.trace.facts["modules"]:
        yield "it names no modules: record with with_stack=True to have them"
    yield from found.problems
