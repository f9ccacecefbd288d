"""The file: its events, some megabytes at a time, and what it says beside them.

    {"schemaVersion": 1, "deviceProperties": [...], "traceEvents": [{...},
      {...}, {...},   ──►  a list of events
      {...}, {...},   ──►  a list of events
      ...
      {...}], "traceName": "...", "baseTimeNanoseconds": 1751410836000000000}

A list is cut where ``}, {"ph"`` or the like stands. What is cut off must be JSON as it stands; where it is not, the place was
in a string or inside an event, and another is tried. So every cut is between two events.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

from torchprof.errors import TraceFileError
from torchprof.importers.kineto.beginning import BYTE_ORDER_MARK, GZIP, is_json
from torchprof.importers.kineto.event import Event, MalformedError, decode, decode_repaired, parse
from torchprof.importers.other_files import what_else

__all__ = ["Document"]

PIECE: Final = 2**20
"""Bytes of a list of events."""
MOST_CUTS_TRIED: Final = 4
MOST_BEFORE_EVENTS: Final = 256 * 2**20

_EVENTS: Final = re.compile(rb'(?<!\\)"traceEvents"\s*:\s*\[')
_BETWEEN: Final = re.compile(rb'\}(\s*,\s*)\{\s*"(?:ph|cat|name|pid|tid|ts|dur|id|args|s|bp)"\s*:')
_NO_TRACE: Final = "neither a trace of torchprof nor a file of torch.profiler"


class Document:
    """A file of torch.profiler. ``metadata`` and ``repaired`` are known when all events were read.

    Attributes:
        metadata: what stands beside the events.
        repaired: pieces of the file that were no JSON until they were repaired.
    """

    def __init__(self, shown: str, file: BinaryIO, advance: Callable[[int], None]) -> None:
        """
        Args:
            shown: the path, for messages.
            advance: called with the number of bytes of the file that were read since.
        """
        self.metadata: dict[str, Any] = {}
        self.repaired = 0
        self._shown = shown
        self._raw = file
        self._advance = advance
        self._told = 0
        self._before = 0  # bytes of the text that were decoded
        self._length = 0  # and that were read
        is_packed = file.read(len(GZIP)) == GZIP
        file.seek(0)
        self._file: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=file) if is_packed else file
        self._is_packed = is_packed

    def events(self) -> Iterator[list[Event]]:
        """The events, in the order of the file.

        Raises:
            TraceFileError: the file is none of torch.profiler, is damaged or cut short.
        """
        rest = self._find_events()
        size = PIECE
        while True:
            more = self._read(size)
            if not more:
                break
            rest += more
            cut = self._first_events(rest)
            if cut is None:
                size = len(rest)  # no event ends in it, or it is damaged: look at twice as much
                continue
            events, end = cut
            rest, size = rest[end:], PIECE
            self._before += end
            yield events
        yield self._last_events(rest)

    def _read(self, size: int) -> bytes:
        try:
            found = self._file.read(size)
        except EOFError:
            raise self._cut_short() from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise TraceFileError(f"{self._shown}: damaged ({error})") from None
        self._length += len(found)
        at = self._raw.tell()
        self._advance(at - self._told)
        self._told = at
        return found

    def _find_events(self) -> bytes:
        """What follows the beginning of the list of events."""
        text = self._read(PIECE).removeprefix(BYTE_ORDER_MARK)
        if not is_json(text):
            what = what_else(text[:64])
            raise TraceFileError(f"{self._shown}: {_NO_TRACE}{', but ' if what else ''}{what}")
        if text.lstrip()[:1] == b"[":
            raise TraceFileError(f"{self._shown}: a JSON list, and {_NO_TRACE}: that has its events under 'traceEvents'")
        looked_at = 0
        while (begins := _EVENTS.search(text, looked_at)) is None:
            looked_at = max(0, len(text) - 64)
            more = self._read(PIECE) if len(text) < MOST_BEFORE_EVENTS else b""
            if not more:
                self._refuse(text)
            text += more
        try:
            self.metadata = self._object(text[: begins.end()] + b"]}")
        except MalformedError as error:
            raise TraceFileError(f"{self._shown}: damaged, or {_NO_TRACE} ({error})") from None
        self._before = begins.end()
        return text[begins.end() :]

    def _refuse(self, text: bytes) -> None:
        """Say what is wrong with a file that has no list of events."""
        try:
            parse(text)
        except MalformedError as error:
            raise TraceFileError(f"{self._shown}: damaged or cut short, or {_NO_TRACE} ({error})") from None
        raise TraceFileError(f"{self._shown}: JSON, but {_NO_TRACE}: it has no 'traceEvents'")

    def _first_events(self, text: bytes) -> tuple[list[Event], int] | None:
        """Events that stand in the text as a whole, and where the next one begins; None where no cut is found."""
        cuts = [(match.start() + 1, match.end(1)) for match in _BETWEEN.finditer(text, max(0, len(text) - 2**16))]
        for read in (decode, decode_repaired):
            for end, after in cuts[: -MOST_CUTS_TRIED - 1 : -1]:
                try:
                    events = read(b"[" + text[:end] + b"]")
                except MalformedError:
                    continue
                self.repaired += read is decode_repaired
                return events, after
        return None

    def _last_events(self, text: bytes) -> list[Event]:
        """The events up to the end of the list, and what follows them."""
        end = self._end_of_list(text)
        try:
            events = decode(b"[" + text[:end] + b"]")
        except MalformedError:
            try:
                events = decode_repaired(b"[" + text[:end] + b"]")
            except MalformedError:  # whose position is that in a piece of the text
                end += self._before
                raise TraceFileError(f"{self._shown}: damaged between bytes {self._before:,} and {end:,} of its text") from None
            self.repaired += 1
        try:
            self.metadata |= self._object(b'{"traceEvents": []' + text[end + 1 :])
        except MalformedError as error:
            raise TraceFileError(f"{self._shown}: damaged or cut short after its events ({error})") from None
        return events

    def _end_of_list(self, text: bytes) -> int:
        """Where the list of events is closed. Strings are skipped."""
        depth = 1
        for match in re.finditer(rb'"(?:[^"\\]|\\.)*"|[\[\]]', text, re.DOTALL):
            token = match.group()
            depth += 1 if token == b"[" else -1 if token == b"]" else 0
            if depth == 0:
                return match.start()
        raise self._cut_short()

    def _object(self, text: bytes) -> dict[str, Any]:
        try:
            found = parse(text)
        except (MalformedError, UnicodeDecodeError):
            found = parse(text.decode("utf-8", "replace"))
        if not isinstance(found, dict):
            raise MalformedError("it is no JSON object")
        found.pop("traceEvents", None)
        return found

    def _cut_short(self) -> TraceFileError:
        place = f"{self._length:,} bytes of its text"
        if self._is_packed:  # which is unpacked some way ahead of what was read
            self._raw.seek(0, os.SEEK_END)
            place = f"{self._raw.tell():,} packed bytes"
        return TraceFileError(
            f"{self._shown}: cut short after {place}: kernels and what ran last may be missing, so nothing of it is read"
        )
