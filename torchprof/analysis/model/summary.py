"""What a summary shows: the rows of a model's modules, and its totals."""

from __future__ import annotations

from dataclasses import replace

from torchprof.analysis.model.failure import in_words, with_failure
from torchprof.analysis.model.rows import Row, module_rows
from torchprof.analysis.model.totals import Totals, model_totals
from torchprof.analysis.model.unbatched import unbatched_input
from torchprof.analysis.time.calls import call_costs
from torchprof.errors import ArgumentError
from torchprof.trace.trace import Trace

__all__ = ["rows_and_totals"]


def rows_and_totals(trace: Trace) -> tuple[list[Row], Totals]:
    """The summary of a trace that was recorded with a model.

    Raises:
        ArgumentError: the trace has no model.
    """
    if trace.model is None:
        raise ArgumentError("the trace was recorded without a model: pass it to torchprof.profile(model)")
    costs = call_costs(trace)
    rows, totals = module_rows(trace, costs), model_totals(trace, costs)
    totals = replace(totals, unbatched=unbatched_input(trace, rows))
    if rows[0].calls:
        totals = replace(totals, forward=rows[0].forward)
    if ended := trace.facts.get("failure"):
        rows = with_failure(rows, ended)
        totals = replace(totals, memory="none", failure=in_words(ended))
    return rows, totals
