"""Dynamo knows PyTorch's functions by themselves, and not by what an estimate has in their place.

It lists them once in a process, where something is compiled, and anew once a process group was made. Listed while others are in
their place, they would be unknown to it, also in what the program compiles after the estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torchprof.estimation.fake.callers import originals, replaced
from torchprof.estimation.torch_private import STANCE

__all__ = ["functions_listed_by_themselves"]


@contextmanager
def functions_listed_by_themselves() -> Iterator[None]:
    """Dynamo lists PyTorch's own functions, until the block ends."""
    rules = STANCE.trace_rules
    with ExitStack() as stack:
        for name in ("get_torch_obj_rule_map", "get_tensor_method"):
            stack.enter_context(replaced(rules, name, _OfOriginals(getattr(rules, name))))
        yield


class _OfOriginals:
    """In place of a function that lists what is there and remembers it."""

    def __init__(self, listed: Callable[[], Any]) -> None:
        self._listed: Any = listed

    def __call__(self) -> Any:
        if self._listed.cache_info().currsize:
            return self._listed()
        with originals():
            return self._listed()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listed, name)  # such as cache_clear
