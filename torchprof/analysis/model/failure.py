"""A run that ended with an exception: where it was raised, and what that means for the rows of the summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from torchprof.analysis.model.layer_calls import raising_call
from torchprof.analysis.model.notes import RAISED
from torchprof.analysis.model.rows import Row
from torchprof.trace.trace import Trace

__all__ = ["failure", "in_words", "with_failure"]

LONGEST: Final = 80
"""Of the message that stands behind a row."""


def failure(trace: Trace, error: BaseException) -> dict[str, Any]:
    """What ``trace.facts["failure"]`` says of an exception that ended the run.

    Returns:
        ``error``, its class and the first line of its message; ``phase``, ``"forward"`` or ``"backward"``; and ``module``, the
        path of the innermost module that it was raised in, and its class as ``type``, or None if it came from none.
    """
    found = raising_call(trace, error)
    phase = "forward" if trace.mark("forward done") is None else "backward"
    path, kind = found[:2] if found is not None else (None, None)
    return {"error": _first_line(error), "phase": phase, "module": path, "type": kind}


def with_failure(rows: Sequence[Row], failure: dict[str, Any]) -> list[Row]:
    """The rows, of which one is marked as the one that raised. What had not been called then was not reached."""
    marked: list[Row] = []
    path = failure["module"]
    is_found = path is None
    for row in rows:
        notes = row.note.split("; ") if row.note else []
        if not is_found and row.calls and f"{path}.".startswith(f"{row.path}." if row.path else ""):
            is_found = row.path == path
            notes = [note for note in notes if note != RAISED]
            if is_found:
                notes.insert(0, f"raised {failure['error']}")
            if row.output_shapes in ((), (RAISED,)):  # it did not return
                row = row._replace(output_shapes=(), output_bytes=None)
            row = row._replace(failed=is_found, note="; ".join(notes))
        elif failure["phase"] == "forward" and "not called" in notes:
            row = row._replace(note="; ".join("not reached" if note == "not called" else note for note in notes))
        marked.append(row)
    return marked


def in_words(failure: dict[str, Any]) -> str:
    """``forward raised in module 'encoder.0' (Linear), at model.py:12, in forward: `x = self.encoder(x)```."""
    path, kind = failure["module"], failure["type"]
    at = f", at {failure['line']}" if failure.get("line") else ""
    if path is None:
        return f"{failure['phase']} raised {failure['error']}{at}"
    return f"{failure['phase']} raised in " + (f"module {path!r} ({kind})" if path else f"the root module ({kind})") + at


def _first_line(error: BaseException) -> str:
    try:
        message = str(error).strip().partition("\n")[0]
    except Exception:  # the message is code of the program
        message = ""
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
