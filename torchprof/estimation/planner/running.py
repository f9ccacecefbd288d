"""Estimates of all configurations: what is known already is not estimated, and two processes may work at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

from torchprof.errors import EstimateError, TorchprofError
from torchprof.estimation.planner.accumulated import AT_MOST
from torchprof.estimation.planner.cache import Cache
from torchprof.estimation.planner.choice import Choice
from torchprof.estimation.planner.configuration import Configuration
from torchprof.estimation.planner.found import Found
from torchprof.estimation.planner.helper import Helper, can_be_sent
from torchprof.estimation.planner.keys import key_of, of_choice
from torchprof.estimation.planner.one_choice import Asked, found_of
from torchprof.estimation.planner.progress import Progress, told

__all__ = ["Running"]

WORTH: Final = 30.0
"""Seconds that a second process has to save: it takes some to begin."""


class Running:
    """The estimates of all configurations.

    Args:
        asked: what does not depend on the choice.
        choices: the configurations.
        capacity: bytes that the GPU has.
        cache, processes: as for `torchprof.plan`.

    Attributes:
        first_error: what the first configuration raised, if it did.
    """

    def __init__(
        self, asked: Asked, choices: Sequence[Choice], capacity: int, cache: bool | str, processes: int | None
    ) -> None:
        self._asked, self._choices, self._capacity, self._processes = asked, choices, capacity, processes
        key = key_of(asked, cache if isinstance(cache, str) else None) if cache is not False else None
        self._cache = Cache(key)
        self._found: dict[int, Found] = {}
        self.first_error: TorchprofError | None = None

    def run(self, progress: Progress | None) -> tuple[list[Configuration], bool]:
        """All configurations, with what is known of each; and whether Ctrl-C ended it."""
        interrupted = False
        try:
            with told(progress) as say:
                self._run(say)
        except KeyboardInterrupt:
            interrupted = True
        rows = [Configuration(choice, self._capacity, self._found.get(at)) for at, choice in enumerate(self._choices)]
        return rows, interrupted

    def _run(self, say: Progress) -> None:
        same: dict[str, list[int]] = {}
        for at, choice in enumerate(self._choices):
            name = of_choice(choice, min(choice.accumulation, AT_MOST))
            same.setdefault(name if name is not None else f"#{at}", []).append(at)
        waiting: list[str] = []

        def done(name: str, found: Found) -> None:
            for at in same[name]:
                self._found[at] = found
                say(len(self._found), len(self._choices), Configuration(self._choices[at], self._capacity, found))

        for name in same:
            known = self._cache.get(name) if not name.startswith("#") else None
            if known is not None:
                done(name, known)
            else:
                waiting.append(name)
        with ExitStack() as stack:
            helpers: list[Helper] = []
            slowest = 0.0
            while waiting or any(helper.has_work for helper in helpers):
                for helper in helpers:
                    self._take(helper, done)
                    while waiting and helper.wants_more and len(waiting) > 1:
                        name = waiting.pop(0)
                        helper.give(name, self._choices[same[name][0]])
                if waiting:
                    name = waiting.pop(0)
                    begin = time.perf_counter()
                    found = found_of(self._asked, self._choices[same[name][0]])
                    slowest = max(slowest, time.perf_counter() - begin)
                    self._keep(name, found, done)
                    if not helpers and waiting:
                        helpers = [stack.enter_context(Helper(self._asked)) for _ in range(self._others(slowest, len(waiting)))]
                else:
                    time.sleep(0.05)  # what the others have begun
                for helper in [helper for helper in helpers if helper.has_ended]:
                    helpers.remove(helper)
                    waiting += helper.left()

    def _take(self, helper: Helper, done: Callable[[str, Found], None]) -> None:
        for name, found in helper.results():
            self._keep(name, found, done)

    def _keep(self, name: str, found: Found, done: Callable[[str, Found], None]) -> None:
        if not name.startswith("#"):
            self._cache.put(name, found)
        if found.error and self.first_error is None:
            self.first_error = EstimateError(found.error)
        done(name, found)

    def _others(self, seconds: float, waiting: int) -> int:
        """How many further processes are to be started, where an estimate takes so long, and so many wait."""
        if self._processes is not None:
            wanted = min(self._processes - 1, waiting)
        else:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            wanted = 1 if cores > 1 and seconds * waiting / 2 > WORTH else 0
        return wanted if wanted and can_be_sent(self._asked) else 0
