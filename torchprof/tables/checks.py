"""Checks of the arguments that tables of a trace share."""

from __future__ import annotations

from typing import Any, Final

from torchprof.errors import ArgumentError
from torchprof.trace.ceilings import Ceilings
from torchprof.trace.checks import check_trace
from torchprof.trace.schema import Phase

__all__ = ["check_ceilings", "check_path", "check_trace", "phase_named"]

PHASES: Final = {phase.name.lower(): phase for phase in Phase}
SHORT: Final = {"recompute": Phase.RECOMPUTATION}
"""Phases by the names of their columns, where these are others."""


def phase_named(name: Any) -> Phase | None:
    """The phase of this name, also of its column, or the phase itself; None of None.

    Raises:
        ArgumentError: there is no such phase.
    """
    if name is None or isinstance(name, Phase):
        return name
    found = {**PHASES, **SHORT}.get(name) if isinstance(name, str) else None
    if found is None:
        raise ArgumentError(f"phase={name!r} is unknown: use one of {', '.join(map(repr, PHASES))}")
    return found


def check_path(module: Any) -> None:
    """Raise ArgumentError unless this is the path of a module, or None."""
    if module is not None and not isinstance(module, str):
        raise ArgumentError(f"module={module!r} is no path: give one such as 'encoder.0'; see by_module")


def check_ceilings(ceilings: Any, *, of_device: bool) -> None:
    """Raise ArgumentError unless these are ceilings, and those of a device where one did the work."""
    if not isinstance(ceilings, Ceilings):
        raise ArgumentError(f"ceilings={ceilings!r} must be what torchprof.ceilings() returns, or None")
    if of_device and ceilings.threads:
        raise ArgumentError(
            f"ceilings={ceilings!r} are those of a CPU, and the work was done by a device: use torchprof.ceilings('cuda')"
        )
