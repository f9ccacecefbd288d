"""Estimates of all configurations: what is known already is not estimated, and two processes may work at once."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Final

from torchprof.errors import EstimateError, TorchprofError
from torchprof.estimation.planner.accumulated import AT_MOST
from torchprof.estimation.planner.cache import Cache
from torchprof.estimation.planner.choice import Choice
from torchprof.estimation.planner.configuration import Configuration
from torchprof.estimation.planner.found import Found
from torchprof.estimation.planner.helper import Answers, Helper, sendable
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
        self._slowest = 0.0
        self._began: float | None = None
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
        waiting: deque[str] = deque()

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
        left, answers = len(waiting), Answers()
        with ExitStack() as stack:
            for helper in self._helpers({name: self._choices[same[name][0]] for name in waiting}, waiting, answers):
                stack.enter_context(helper)
            while left:
                try:
                    name = waiting.popleft() if answers.empty() else ""
                except IndexError:
                    name = ""  # all that is left was begun by others
                answer = (name, self._found_here(self._choices[same[name][0]])) if name else answers.get()
                if answer is not None:
                    left -= 1
                    self._keep(*answer, done)

    def _found_here(self, choice: Choice) -> Found:
        """The estimate, by this process."""
        self._began = time.perf_counter()
        found = found_of(self._asked, choice)
        self._slowest = max(self._slowest, time.perf_counter() - self._began)
        self._began = None
        return found

    def _keep(self, name: str, found: Found, done: Callable[[str, Found], None]) -> None:
        if not name.startswith("#"):
            self._cache.put(name, found)
        if found.error and self.first_error is None:
            self.first_error = EstimateError(found.error)
        done(name, found)

    def _helpers(self, choices: Mapping[str, Choice], waiting: deque[str], answers: Answers) -> Iterator[Helper]:
        """Further processes, which begin when they are worth it."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        wanted = min(self._processes or min(cores, 2), len(choices)) - 1
        sent = sendable(self._asked, choices) if wanted > 0 else None
        if sent is None:
            return

        def worth() -> bool:
            return self._processes is not None or self._seconds() * len(waiting) / 2 > WORTH

        for _ in range(wanted):
            yield Helper(*sent, waiting, answers, worth)

    def _seconds(self) -> float:
        """What the slowest estimate has taken; that which is running, until now."""
        began = self._began
        return max(self._slowest, time.perf_counter() - began if began is not None else 0.0)
