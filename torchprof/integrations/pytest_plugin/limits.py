"""Limits of what a test may take: the arguments of ``@pytest.mark.limit``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Final

import pytest

from torchprof.comparison.limits import UNITS
from torchprof.errors import ArgumentError
from torchprof.wording import nearest, shown

__all__ = ["FIGURES", "NOT_OF_MODULES", "Limit", "limits_of"]

FIGURES: Final[Mapping[str, Mapping[str, float]]] = {
    "peak": UNITS["bytes"],
    "saved": UNITS["bytes"],
    "flops": UNITS["FLOPs"],
    "ops": {},
    "kernels": {},
    "syncs": {},
    "params": UNITS["FLOPs"],
    "graph_breaks": {},
    "time_ratio": {},
}
"""The figures that may be limited, and the units that each may be written in."""
NOT_OF_MODULES: Final = ("graph_breaks", "time_ratio")
"""Those that are of the whole test."""
ORDER: Final = tuple(FIGURES)
AMOUNT: Final = re.compile(r"\s*(?P<number>\d[\d_,]*\.?\d*(?:[eE][+-]?\d+)?|\.\d+)\s*(?P<unit>[A-Za-z]*)\s*")
OF_FLOPS: Final = re.compile(r"FLOPs?$", re.IGNORECASE)
EXAMPLES: Final = {"peak": '"2 GiB"', "saved": '"500 MiB"', "flops": '"1.5 G"', "params": '"110 M"', "time_ratio": "1.1"}


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that a figure may be.

    Attributes:
        figure: its name.
        most: bytes, FLOPs, a count or a ratio.
        given: as it was written.
        module: the path of the module that it is of; None: of the whole test.
    """

    figure: str
    most: float
    given: Any
    module: str | None = None

    @property
    def text(self) -> str:
        """The limit as a reader wrote it: ``2 GiB``, ``1,000``."""
        return self.given if isinstance(self.given, str) else f"{self.given:,}"


def limits_of(item: pytest.Item) -> list[Limit]:
    """The limits of a test. Of each figure of a module, that of the nearest marker counts: of the parameter set, the function,
    the class, the file. None there takes away what a farther one says.

    Raises:
        ArgumentError: a marker has an unknown name, a value that cannot be read, or the same figure is given twice.
    """
    found: dict[tuple[str, str | None], Limit | None] = {}
    for level in _levels(item):
        here: dict[tuple[str, str | None], Limit | None] = {}
        for mark in level:
            for key, limit in _read(mark):
                if key in here:
                    raise ArgumentError(f"@pytest.mark.limit gives {key[0]}={_of_module(key[1])} twice: leave one")
                here[key] = limit
        found = {**here, **found}
    kept = [limit for limit in found.values() if limit is not None]
    return sorted(kept, key=lambda limit: (limit.module is not None, limit.module or "", ORDER.index(limit.figure)))


def _levels(item: pytest.Item) -> Iterator[list[pytest.Mark]]:
    """The markers, the nearest first."""
    of_parameters: list[Any] = list(getattr(getattr(item, "callspec", None), "marks", ()))
    near = [mark for mark in of_parameters if mark.name == "limit"]
    if near:
        yield near
    levels: dict[int, list[pytest.Mark]] = {}
    for node, mark in item.iter_markers_with_node("limit"):
        if not any(mark is each for each in near):
            levels.setdefault(id(node), []).append(mark)
    yield from levels.values()


def _read(mark: pytest.Mark) -> Iterator[tuple[tuple[str, str | None], Limit | None]]:
    """The limits of one marker by figure and module; None where it takes one away."""
    if mark.args:
        raise ArgumentError(
            f'@pytest.mark.limit({", ".join(map(shown, mark.args))}) says of what: give names, such as limit(peak="2 GiB"). '
            "Where this marker is that of something else, run pytest with -p no:torchprof"
        )
    given = dict(mark.kwargs)
    module = given.pop("module", None)
    if module is not None and not isinstance(module, str):
        raise ArgumentError(f'@pytest.mark.limit(module={shown(module)}) is no path: give one, such as module="encoder.0"')
    if not given:
        raise ArgumentError(f"@pytest.mark.limit limits nothing: give one of {', '.join(FIGURES)}")
    for figure, value in given.items():
        if figure not in FIGURES:
            near = nearest(figure, [*FIGURES, "module"])
            way_out = f"is it {near!r}?" if near else f"use one of {', '.join(FIGURES)}"
            raise ArgumentError(f"@pytest.mark.limit({figure}={shown(value)}): there is no figure {figure!r}; {way_out}")
        if module is not None and figure in NOT_OF_MODULES:
            raise ArgumentError(
                f"@pytest.mark.limit({figure}={shown(value)}, module={module!r}): {figure} is of the whole test: "
                "give it in a marker of its own, without module"
            )
        yield (figure, module), Limit(figure, _amount(figure, value), value, module) if value is not None else None


def _amount(figure: str, value: Any) -> float:
    """What a value stands for.

    Raises:
        ArgumentError: it cannot be read.
    """
    wrong = f"@pytest.mark.limit({figure}={shown(value)}) cannot be read"
    units = FIGURES[figure]
    if isinstance(value, str) and units:
        found = AMOUNT.fullmatch(value)
        if found is None:
            raise ArgumentError(f"{wrong}: write it like {EXAMPLES[figure]}")
        unit = OF_FLOPS.sub("", found["unit"]) if figure == "flops" else found["unit"]
        sizes = {each.lower(): size for each, size in units.items()} if "B" in units else units
        key = unit.lower() if "B" in units else unit
        if key not in sizes:
            said = f"{unit!r} is no unit of it" if unit else "it has no unit"
            raise ArgumentError(f"{wrong}: {said}: use one of {', '.join(each for each in units if each)}")
        amount = float(re.sub("[_,]", "", found["number"])) * sizes[key]
    elif isinstance(value, Real) and not isinstance(value, bool):
        amount = float(value)
    else:
        raise ArgumentError(f"{wrong}: give a number" + (f", or a text such as {EXAMPLES[figure]}" if units else ""))
    if not math.isfinite(amount) or amount < 0 or (figure == "time_ratio" and not amount):
        raise ArgumentError(f"{wrong}: it is the most that is allowed: give a finite number of at least 0")
    if not units and figure != "time_ratio" and amount != int(amount):
        raise ArgumentError(f"{wrong}: {figure} is a whole number")
    return amount


def _of_module(module: str | None) -> str:
    return "..." if module is None else f"... of module={module!r}"
