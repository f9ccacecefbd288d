"""What is wrong with a test: the limits that it does not keep, and those of which it cannot be told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from torchprof.errors import ArgumentError
from torchprof.integrations.pytest_plugin.explain import explanation, explanation_of_breaks, explanation_of_times
from torchprof.integrations.pytest_plugin.figures import Figure, Figures
from torchprof.integrations.pytest_plugin.graph_breaks import GraphBreaks
from torchprof.integrations.pytest_plugin.limits import Limit
from torchprof.integrations.pytest_plugin.timing import Timing
from torchprof.rendering.units import format_bytes, format_flops

__all__ = ["NOUNS", "broken_limits", "written"]

NOUNS: Final = {
    "peak": "peak",
    "saved": "bytes saved for backward",
    "flops": "FLOPs",
    "ops": "ops",
    "kernels": "kernels",
    "syncs": "waits for the GPU",
    "params": "parameters",
    "graph_breaks": "graph breaks",
    "time_ratio": "time ratio",
}


def written(figure: str, value: float) -> str:
    """A value for people, exact in parentheses where it was rounded."""
    if figure in ("peak", "saved"):
        return f"{format_bytes(int(value))} ({int(value):,} B)" if value >= 1024 else format_bytes(int(value))
    if figure == "flops":
        return f"{format_flops(value)} ({int(value):,})" if value >= 1000 else format_flops(value)
    return f"{value:.2f}" if figure == "time_ratio" else f"{int(value):,}"


def broken_limits(
    limits: Sequence[Limit], figures: Figures | None, why: str, breaks: GraphBreaks, timing: Timing | None
) -> Iterator[str]:
    """One text for every limit that is passed, or cannot be told.

    Args:
        figures: of the trace of the test; None where there is none.
        why: why there is none.
        breaks, timing: what else was counted and timed.
    """
    for limit in limits:
        if limit.figure == "graph_breaks":
            found, explained = Figure(breaks.count, breaks.unknown), explanation_of_breaks(breaks)
            yield from _checked(limit, found.value, found, explained)
        elif limit.figure == "time_ratio":
            assert timing is not None  # the marker needs the fixture
            ratio = None if timing.unknown else timing.time_ratio
            yield from _checked(
                limit, ratio, Figure(None, timing.unknown), "" if ratio is None else explanation_of_times(timing)
            )
        elif figures is None:
            yield from _checked(limit, None, Figure(None, why), "")
        else:
            try:
                found = figures.of(limit.figure, limit.module)
            except ArgumentError as error:
                yield from _checked(limit, None, Figure(None, str(error)), "")
                continue
            is_over = found.value is not None and found.value > limit.most
            explained = explanation(figures, limit.figure, limit.module, found.device) if is_over else ""
            yield from _checked(limit, found.value, found, explained)


def _checked(limit: Limit, value: float | None, figure: Figure, explained: str) -> Iterator[str]:
    noun = NOUNS[limit.figure] + (f" of {limit.module or 'the model'}" if limit.module is not None else "")
    noun += f" on {figure.device}" if figure.device else ""
    if value is not None and value > limit.most:
        least = "at least " if figure.unknown else ""
        said = f"{noun}: {least}{written(limit.figure, value)}, and the limit is {limit.text}"
        yield f"{said}\n{explained}" if explained else said
    elif figure.unknown:
        yield f"{noun}: it cannot be told that the limit of {limit.text} is kept: {figure.unknown}"
