"""One event of the file, and what turns JSON into events: msgspec where it is installed, the json of Python otherwise.

Only what is read is decoded: with msgspec five times as fast as all of it. A number with a fraction stays text, because a
time in microseconds since 1970, with its nanoseconds, has more digits than a float.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

__all__ = ["ARGUMENTS", "NO_ARGS", "Event", "EventArgs", "MalformedError", "PlainEvent", "decode", "decode_repaired", "parse"]

ARGUMENTS: Final = {
    "external_id": "External id",
    "old_external_id": "external id",  # of devices, in files of 2021
    "sequence_nr": "Sequence number",
    "forward_thread": "Fwd thread id",
    "dims": "Input Dims",
    "types": "Input type",
    "values": "Concrete Inputs",
    "correlation": "correlation",
    "device": "device",
    "stream": "stream",
    "grid": "grid",
    "block": "block",
    "registers": "registers per thread",
    "shared_memory": "shared memory",
    "bytes": "bytes",
    "size": "size",  # the same, of HIP
    "graph": "graph id",
    "memory_bytes": "Bytes",
    "address": "Addr",
    "allocated": "Total Allocated",
    "reserved": "Total Reserved",
    "device_type": "Device Type",
    "device_index": "Device Id",
    "collective": "Collective name",
    "dtype": "dtype",
    "in_elements": "In msg nelems",
    "out_elements": "Out msg nelems",
    "group_size": "Group size",
    "group": "Process Group Name",
    "group_description": "Process Group Description",
    "ranks": "Process Group Ranks",
}
"""What is read of ``args``, and how the file calls it."""

_FIELDS: Final = ("ph", "cat", "name", "pid", "tid", "ts", "dur")
_TEXTS: Final = ("dims", "types", "values")
"""Of these the JSON text is kept: there are few that differ."""
MOST_REMEMBERED: Final = 2**14
_NO_NUMBER: Final = re.compile(r'(?<!\\)("\s*:\s*)-?(?:nan|inf(?:inity)?)(?=\s*[,}])', re.IGNORECASE)


class MalformedError(Exception):
    """These bytes are no JSON, or not all of it."""


class PlainArgs:
    """``args`` of an event: what `ARGUMENTS` lists; None where it is missing, and no text."""

    __slots__ = ("_given",)

    def __init__(self, given: Any) -> None:
        self._given = given if isinstance(given, dict) else {}

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


def _property(name: str, key: str) -> property:
    if name not in _TEXTS:
        return property(lambda args: args._given.get(key))
    texts: dict[str, bytes] = {}  # to write them as Python does is faster, and few differ

    def text(args: PlainArgs) -> bytes:
        value = args._given.get(key)
        if value is None:
            return b""
        written = str(value)
        found = texts.get(written)
        if found is None:
            found = texts[written] = json.dumps(value).encode()
            if len(texts) > MOST_REMEMBERED:
                texts.clear()
        return found

    return property(text)


for _name, _key in ARGUMENTS.items():
    setattr(PlainArgs, _name, _property(_name, _key))


class PlainEvent:
    """An event: its phase, category, name, process, thread, and its time and duration in us."""

    __slots__ = ("args", "cat", "dur", "is_odd", "name", "ph", "pid", "tid", "ts")
    ph: Any
    cat: Any
    name: Any
    pid: Any
    tid: Any
    ts: Any
    dur: Any
    is_odd: bool
    """Whether it is no object, or its ``args`` are none."""

    def __init__(self, given: Any) -> None:
        get = given.get if isinstance(given, dict) else {}.get
        self.ph, self.cat, self.name, self.pid, self.tid, self.ts, self.dur = map(get, _FIELDS)
        args = get("args")
        self.args = PlainArgs(args) if args is not None else None
        self.is_odd = not isinstance(given, dict) or not isinstance(args, dict | None)


def parse(text: bytes | str, parse_constant: Callable[[str], None] | None = None) -> Any:
    """JSON, with numbers that have a fraction as text.

    Raises:
        MalformedError: it is no JSON.
    """
    collects = gc.isenabled()
    try:
        gc.disable()  # while only C runs: it would look at every event again and again, and finds nothing
        return json.loads(text, parse_float=str, strict=False, parse_constant=parse_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedError(str(error)) from None
    finally:
        if collects:
            gc.enable()


def _decode_strictly(text: bytes) -> list[Event]:
    return _events(parse(text, parse_constant=_refuse))


def _decode_plainly(text: bytes) -> list[Event]:
    return _events(parse(text))


def _refuse(text: str) -> None:
    raise MalformedError(f"{text} is no JSON")


def _events(found: Any) -> list[Event]:
    if not isinstance(found, list):
        raise MalformedError("it is no list of events")
    return [PlainEvent(each) for each in found]


def decode_repaired(text: bytes) -> list[Event]:
    """The events of a list that is nearly JSON: with ``nan``, ``inf`` or text that is not UTF-8, as some versions wrote.

    Raises:
        MalformedError: it is none with that, either.
    """
    try:
        return _decode_plainly(text)
    except MalformedError:
        return _decode_plainly(_NO_NUMBER.sub(r"\1null", text.decode("utf-8", "replace")).encode())


_decoder: Any = None
_odd: type[Exception] = MalformedError
"""What the decoder raises of JSON that is unlike the events of torch.profiler."""
if TYPE_CHECKING or importlib.util.find_spec("msgspec") is None:
    Event: TypeAlias = PlainEvent
    EventArgs: TypeAlias = PlainArgs
else:
    import msgspec

    EventArgs = msgspec.defstruct(
        "EventArgs",
        [(name, msgspec.Raw, msgspec.Raw()) if name in _TEXTS else (name, Any, None) for name in ARGUMENTS],
        rename=ARGUMENTS,
        gc=False,
    )
    Event = msgspec.defstruct("Event", [*((name, Any, None) for name in _FIELDS), ("args", EventArgs | None, None)], gc=False)
    _decoder = msgspec.json.Decoder(list[Event], float_hook=str)
    _odd = msgspec.ValidationError


def decode(text: bytes) -> list[Event]:
    """The events of a JSON list, also those that are unlike the ones of torch.profiler.

    Raises:
        MalformedError: it is no such list: see `decode_repaired`.
    """
    if _decoder is None:
        return _decode_strictly(text)
    try:
        found: list[Event] = _decoder.decode(text)
    except _odd:  # it is JSON so far, and an event is no object, or the like
        return _decode_strictly(text)
    except (ValueError, RecursionError) as error:  # those of msgspec are ValueErrors
        raise MalformedError(str(error)) from None
    return found


NO_ARGS: Final = decode(b'[{"args": {}}]')[0].args or PlainArgs({})
"""Of an event that has none."""
