"""Figures of a trace to TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import torchprof
from torchprof.errors import ArgumentError
from torchprof.integrations.tracked import check_step, last_step, missing, named_figures
from torchprof.paths import text_of
from torchprof.trace.ceilings import Ceilings
from torchprof.trace.trace import Trace
from torchprof.wording import shown

__all__ = ["log"]

ROWS: Final = 40
"""Of a table: it is read in a browser, and the trace has all."""


def log(
    trace: Trace,
    step: int | None = None,
    *,
    writer: Any,
    of_step: int | None = None,
    ceilings: Ceilings | None = None,
    report: bool = True,
    prefix: str = "torchprof",
) -> dict[str, float]:
    """Log what a step cost for TensorBoard: the figures of `torchprof.figures` as scalars; findings and tables as text.

    TensorBoard shows no pages, so in place of that of `torchprof.report` it has texts: the findings, the modules and ops that
    take the most time, memory and devices. Logged again at the same step, it shows both.

    Args:
        trace: of `torchprof.profile` or `torchprof.load`.
        step: of the scalars, as for ``SummaryWriter.add_scalar``; by default the number of the step in the trace, of several
            that of the last.
        writer: a ``torch.utils.tensorboard.SummaryWriter``, or another with ``add_scalar`` and ``add_text``; or a directory
            for event files, to which a further file is written.
        of_step: the number of one step of the trace; by default all of them, of which figures are means.
        ceilings: of `torchprof.ceilings`: adds the utilization (MFU).
        report: whether to log the texts too.
        prefix: of all names, before a slash; empty for none.

    Returns:
        The figures that were logged, by name.

    Raises:
        ArgumentError: the writer is neither, or the prefix has characters that are no name; or as `torchprof.figures`.
        MissingPackageError: tensorboard is not installed, and a directory was given.
        Exception: whatever the writer raises comes out.

    Example:
        >>> import torchprof.integrations.tensorboard
        >>> torchprof.integrations.tensorboard.log(prof.trace, step=step, writer="runs")
    """
    step = check_step(step)
    figures = named_figures(trace, of_step=of_step, ceilings=ceilings, prefix=prefix)
    at = last_step(trace, of_step) if step is None else step
    is_path = isinstance(writer, str | bytes | os.PathLike)
    if not is_path and not all(callable(getattr(writer, name, None)) for name in ("add_scalar", "add_text", "flush")):
        raise ArgumentError(f"writer={shown(writer)} must be a SummaryWriter, or a directory for event files")
    to = _writer_to(text_of(writer)) if is_path else writer
    try:
        for name, value in figures.items():
            to.add_scalar(name, value, at)
        for name, text in _texts(trace, ceilings) if report else ():
            to.add_text(f"{prefix}/{name}" if prefix else name, f"```\n{text}\n```", at)
        to.flush()
    finally:
        if is_path:
            to.close()
    return figures


def _writer_to(directory: str) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise missing("tensorboard", "tensorboard") from error
    return SummaryWriter(directory)


def _texts(trace: Trace, ceilings: Ceilings | None) -> Iterator[tuple[str, str]]:
    """What a report has in words and tables, and the trace knows."""
    yield "findings", str(torchprof.findings(trace))
    yield "modules", str(torchprof.by_module(trace).sort("time").head(ROWS))
    yield "ops", str(torchprof.by_op(trace).head(ROWS))
    with suppress(ArgumentError):
        yield "memory", str(torchprof.memory(trace))
    with suppress(ArgumentError):
        yield "gpu", str(torchprof.gpu(trace, ceilings=ceilings))
