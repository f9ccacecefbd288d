"""Figures of a trace to Weights & Biases."""

from __future__ import annotations

from typing import Any

from torchprof.errors import ArgumentError
from torchprof.integrations.tracked import check_step, missing, named_figures, report_file
from torchprof.trace.ceilings import Ceilings
from torchprof.trace.trace import Trace

__all__ = ["log"]


def log(
    trace: Trace,
    step: int | None = None,
    *,
    run: Any = None,
    of_step: int | None = None,
    ceilings: Ceilings | None = None,
    report: bool = True,
    prefix: str = "torchprof",
) -> dict[str, float]:
    """Log what a step cost to a run of Weights & Biases: the figures of `torchprof.figures`, and the report as a panel.

    They join the row of the run's step, with what the program itself logs there: the run's step does not advance. Logged again
    at the same step, the last ones count.

    Args:
        trace: of `torchprof.profile` or `torchprof.load`.
        step: of the run, as for ``wandb.log``; by default the one that the run is at.
        run: of ``wandb.init``; by default the one that it began last.
        of_step: the number of one step of the trace; by default all of them, of which figures are means.
        ceilings: of `torchprof.ceilings`: adds the utilization (MFU).
        report: whether to log the page of `torchprof.report` too, which has some megabytes. Where plotly is not installed, a
            warning says that there is none.
        prefix: of all names, before a slash; empty for none.

    Returns:
        The figures that were logged, by name.

    Raises:
        ArgumentError: no run was begun, the run is already past the step, or the prefix has characters that are no name; or
            as `torchprof.figures`.
        MissingPackageError: wandb is not installed.
        Exception: whatever wandb raises comes out.

    Example:
        >>> import torchprof.integrations.wandb
        >>> torchprof.integrations.wandb.log(prof.trace, step=step)
    """
    step = check_step(step)
    try:
        import wandb
    except ImportError as error:
        raise missing("wandb", "wandb") from error
    run = wandb.run if run is None else run
    if run is None:
        raise ArgumentError("run=None, and no run was begun in this process: call wandb.init() first, or give run=")
    figures = named_figures(trace, of_step=of_step, ceilings=ceilings, prefix=prefix)
    run.log(figures, step=step, commit=False)
    if step is not None and (at := _step_of(run)) is not None and at > step:
        raise ArgumentError(
            f"step={step} is before step {at}, which the run is at: W&B takes no earlier ones, and logged nothing; "
            "leave step out to log at the run's own"
        )
    if report:
        with report_file(trace, ceilings) as path:
            if path is not None:
                page = wandb.Html(path.read_text(encoding="utf-8"), inject=False, data_is_not_path=True)
                run.log({f"{prefix}/report" if prefix else "report": page}, step=step, commit=False)
    return figures


def _step_of(run: Any) -> int | None:
    """The step that a run is at; None of one that several processes share, which has none."""
    try:
        return int(run.step)
    except Exception:
        return None
