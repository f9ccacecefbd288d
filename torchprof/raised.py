"""Adds to what a model raised where that was and how its inputs were made, and shows the table up to there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torchprof.analysis.model.failure import failure
from torchprof.analysis.model.layer_calls import raising_call
from torchprof.errors import RecordingError, TorchprofError
from torchprof.record.error_lines import line_of_error
from torchprof.record.inputs import Inputs
from torchprof.record.mismatch import is_of_inputs, message_of, mismatch_note
from torchprof.record.profile import profile
from torchprof.record.single_pass import bytes_of
from torchprof.tables.summary import Summary
from torchprof.terminal import printable
from torchprof.trace.trace import Trace

__all__ = ["explain_error", "explains_recordings", "made_from"]


@contextmanager
def explains_recordings() -> Iterator[None]:
    """Add to an error about another recording what a summary needs."""
    try:
        yield
    except RecordingError as error:
        error.add_note(
            "torchprof.summary records a pass of its own: call it before or after the other recording. Without input_size and "
            "input_data it runs nothing and lists the parameters"
        )
        raise


def made_from(input_size: Any, batch_size: Any) -> str:
    """How inputs were made, in words; empty where they are the caller's own."""
    if input_size is None:
        return ""
    return f"input_size={input_size!r}" + (f", batch_size={batch_size!r}" if batch_size is not None else "")


def explain_error(
    error: Exception,
    recording: profile,
    *,
    inputs: Inputs,
    made_from: str,
    table: Callable[[Trace], Summary],
    prints: bool,
) -> None:
    """Add to the model's own exception where it was raised and how the inputs were made, and show the table so far."""
    if isinstance(error, TorchprofError):
        return
    with suppress(Exception):  # whatever goes wrong here, the error to see is the model's
        trace = recording.trace
        line = line_of_error(error)
        if (found := raising_call(trace, error)) is not None:
            error.add_note(_place(error, trace, *found, line=line, inputs=inputs, made_from=made_from))
        elif line:
            error.add_note(f"torchprof.summary: raised at {line}")
        trace.facts.update(failure={**failure(trace, error), "line": line}, input_bytes=bytes_of(inputs.tensors()))
        so_far = table(trace)
        error.torchprof_summary = so_far  # type: ignore[attr-defined]
        if prints:
            so_far.print()
        else:
            error.add_note("the table up to there is this exception's attribute torchprof_summary")


def _place(
    error: Exception,
    trace: Trace,
    path: str,
    type_name: str,
    given: tuple[str, ...],
    *,
    line: str,
    inputs: Inputs,
    made_from: str,
) -> str:
    where = f"module {path!r} ({printable(type_name)})" if path else f"the root module ({printable(type_name)})"
    lines = [f"torchprof.summary: raised in {where}, called with {', '.join(given) or 'no tensors'}"]
    if line:
        lines.append(f"at {line}")
    mismatch = mismatch_note(error, trace, path, given, inputs, made=bool(made_from))
    if mismatch:
        lines.append(mismatch)
    if made_from:
        check = ": check these and dtypes, or pass your own as input_data" if not mismatch and is_of_inputs(error) else ""
        lines.append(f"the inputs were made from {made_from}{check}")
    if isinstance(error, TypeError) and "argument" in message_of(error):
        lines.append(
            "the items of input_data were given by name: a dict that is one argument stands in a tuple, input_data=({...},)"
            if inputs.kwargs
            else "forward's arguments can be given by name: input_data={'name': tensor, ...}"
        )
    return "\n".join(lines)
