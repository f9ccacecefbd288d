"""Figures of a trace to MLflow."""

from __future__ import annotations

import time
from typing import Any

from torchprof.errors import ArgumentError
from torchprof.integrations.tracked import check_step, last_step, missing, named_figures, report_file
from torchprof.trace.ceilings import Ceilings
from torchprof.trace.trace import Trace
from torchprof.wording import shown

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
    """Log what a step cost to a run of MLflow: the figures of `torchprof.figures` as metrics, and the report as an artifact.

    No run is begun. Logged again at the same step, metrics have both values, the latest last, and the report is the last.

    Args:
        trace: of `torchprof.profile` or `torchprof.load`.
        step: of the metrics, as for ``mlflow.log_metrics``; by default the number of the step in the trace, of several that of
            the last.
        run: of ``mlflow.start_run``, or its id; by default the active one of this thread.
        of_step: the number of one step of the trace; by default all of them, of which figures are means.
        ceilings: of `torchprof.ceilings`: adds the utilization (MFU).
        report: whether to log the page of `torchprof.report` too, as ``torchprof/report-step-100.html``; it has some megabytes.
            Where plotly is not installed, a warning says that there is none.
        prefix: of all names, before a slash, and the folder of the report; empty for none.

    Returns:
        The figures that were logged, by name.

    Raises:
        ArgumentError: no run is active, or the prefix has characters that MLflow does not take; or as `torchprof.figures`.
        MissingPackageError: neither mlflow nor mlflow-skinny is installed.
        Exception: whatever MLflow raises comes out.

    Example:
        >>> import torchprof.integrations.mlflow
        >>> torchprof.integrations.mlflow.log(prof.trace, step=step)
    """
    step = check_step(step)
    try:
        import mlflow
        from mlflow.entities import Metric
    except ImportError as error:
        raise missing("mlflow", "mlflow or mlflow-skinny") from error
    run_id = _id_of(mlflow.active_run() if run is None else run)
    figures = named_figures(trace, of_step=of_step, ceilings=ceilings, prefix=prefix)
    at = last_step(trace, of_step) if step is None else step
    client, now = mlflow.MlflowClient(), int(time.time() * 1000)
    client.log_batch(run_id, metrics=[Metric(name, value, now, at) for name, value in figures.items()])
    if report:
        with report_file(trace, ceilings) as path:
            if path is not None:
                named = path.rename(path.with_name(f"report-step-{at}.html"))
                client.log_artifact(run_id, str(named), prefix or None)
    return figures


def _id_of(run: Any) -> str:
    if run is None:
        raise ArgumentError(
            "run=None, and no run is active in this thread: log inside `with mlflow.start_run():`, or give run="
        )
    found = run if isinstance(run, str) else getattr(getattr(run, "info", None), "run_id", None)
    if not isinstance(found, str):
        raise ArgumentError(f"run={shown(run)} is no run: give what mlflow.start_run() returns, or its id")
    return found
