"""The rules: which there are, and how one becomes known."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from torchprof.advice import rules
from torchprof.advice.finding import Finding
from torchprof.trace.trace import Trace

__all__ = ["NotTold", "Rule", "all_rules", "rule"]

Find = Callable[[Trace], Iterator[Finding]]


class NotTold(Exception):
    """A rule cannot tell from this trace: its text says what the trace does not have, such as ``no shapes were recorded``."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule.

    Attributes:
        name: of its file.
        looks_for: what it looks for, in words that continue "looked for ...": ``"waits for data"``.
        find: the findings in a trace; raises `NotTold` where the trace does not say.
    """

    name: str
    looks_for: str
    find: Find


_RULES: Final[dict[str, Rule]] = {}


def rule(looks_for: str) -> Callable[[Find], Find]:
    """Make a function a rule. It is named by the file that it stands in."""

    def register(find: Find) -> Find:
        name = find.__module__.rpartition(".")[2]
        _RULES[name] = Rule(name, looks_for, find)
        return find

    return register


@cache
def all_rules() -> tuple[Rule, ...]:
    """Every rule in ``torchprof/advice/rules/``, by name."""
    for module in pkgutil.iter_modules(rules.__path__):
        importlib.import_module(f"{rules.__name__}.{module.name}")
    return tuple(_RULES[name] for name in sorted(_RULES))
