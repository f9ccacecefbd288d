"""The rules: which there are, and how one becomes known."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import Final, Generic, TypeVar

from torchprof.advice import rank_rules, rules
from torchprof.advice.finding import Finding
from torchprof.trace.ranks import Ranks
from torchprof.trace.trace import Trace

__all__ = ["NotTold", "Rule", "all_rank_rules", "all_rules", "rank_rule", "rule"]

Find = Callable[[Trace], Iterator[Finding]]
FindInRanks = Callable[[Ranks], Iterator[Finding]]
Looks = TypeVar("Looks", Find, FindInRanks)


class NotTold(Exception):
    """A rule cannot tell from this trace: its text says what the trace does not have, such as ``no shapes were recorded``.

    A rule may raise it after the findings that it could make, of a part of what it looks for.

    Attributes:
        looked_for: the part that it did look for, in words that continue "looked for ..."; empty: none.
    """

    def __init__(self, reason: str, *, looked_for: str = "") -> None:
        super().__init__(reason)
        self.looked_for = looked_for


@dataclass(frozen=True, slots=True)
class Rule(Generic[Looks]):
    """A rule.

    Attributes:
        name: of its file.
        looks_for: what it looks for, in words that continue "looked for ...": ``"waits for data"``.
        find: the findings in a trace, or across ranks; raises `NotTold` where the trace does not say.
    """

    name: str
    looks_for: str
    find: Looks


_RULES: Final[dict[str, Rule[Find]]] = {}
_RANK_RULES: Final[dict[str, Rule[FindInRanks]]] = {}


def rule(looks_for: str) -> Callable[[Find], Find]:
    """Make a function a rule. It is named by the file that it stands in."""
    return partial(_register, _RULES, looks_for)


def rank_rule(looks_for: str) -> Callable[[FindInRanks], FindInRanks]:
    """The same of a rule that looks at all ranks of a run together."""
    return partial(_register, _RANK_RULES, looks_for)


def _register(known: dict[str, Rule[Looks]], looks_for: str, find: Looks) -> Looks:
    name = find.__module__.rpartition(".")[2]
    known[name] = Rule(name, looks_for, find)
    return find


def _import(package: ModuleType) -> None:
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


@cache
def all_rank_rules() -> tuple[Rule[FindInRanks], ...]:
    """Every rule in ``torchprof/advice/rank_rules/``, by name."""
    _import(rank_rules)
    return tuple(_RANK_RULES[name] for name in sorted(_RANK_RULES))


@cache
def all_rules() -> tuple[Rule[Find], ...]:
    """Every rule in ``torchprof/advice/rules/``, by name."""
    _import(rules)
    return tuple(_RULES[name] for name in sorted(_RULES))
