"""Streams and events of an estimate, in which all is done at once and in order: nobody has to wait."""

from __future__ import annotations

from typing import Any

__all__ = ["Event", "Stream"]


class Event:
    """An event: it has happened."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Nothing of it is kept."""

    def record(self, stream: Any = None) -> None:
        """It has happened."""

    def wait(self, stream: Any = None) -> None:
        """It has happened."""

    def synchronize(self) -> None:
        """It has happened."""

    def query(self) -> bool:
        return True


class Stream:
    """A stream: what it is given is done."""

    def wait_stream(self, stream: Any) -> None:
        """There is nothing to wait for."""

    def wait_event(self, event: Any) -> None:
        """There is nothing to wait for."""

    def synchronize(self) -> None:
        """There is nothing to wait for."""

    def record_event(self, event: Any = None) -> Any:
        return event or Event()

    def query(self) -> bool:
        return True

    def is_capturing(self) -> bool:
        """No graph is made of what it does."""
        return False
