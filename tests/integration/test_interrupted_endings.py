"""An interrupt while a recording ends: the trace is there all the same, the interrupt goes on, and the next recording works."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from compiled import SANITIZERS
from reading import op_names
from torch import nn

import torchprof
from torchprof import _C, Trace, profile
from torchprof.record import recorder

PACKAGE = str(Path(torchprof.__file__).parent)
STEPS = 3
STRIDE = int(os.environ.get("TORCHPROF_STRIDE", "241" if SANITIZERS else "61"))
"""Of the instructions at which an interrupt comes, so many are passed over. With 1, it takes minutes."""

COUNTED = "ops operands signatures module_calls allocations steps op_totals call_totals".split()
"""Tables whose number of rows does not depend on where memory is."""


class Interrupts:
    """Raises in ``_pass_to`` and ``__exit__`` of `torchprof.profile`, and in what they call of torchprof's own Python code:
    before the instruction with the first number, counted from 1, then so many after that one, and so on.

    Attributes:
        gaps: what is left of these numbers.
        ending: which of the two it was that the first interrupt came in.
    """

    def __init__(self, *gaps: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.gaps = list(gaps)
        self.error = error
        self.ending = self._inside = ""

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and self.gaps:
            self.gaps[0] -= 1
            if self.gaps[0] <= 0:
                del self.gaps[0]
                self.ending = self.ending or self._inside
                raise self.error  # Python traces no more then, until `inside` asks for it again
        return self

    def inside(self, function: Callable[..., object]) -> Callable[..., object]:
        def interrupted(*arguments: Any) -> object:
            before = sys.gettrace()
            self._inside = function.__name__
            sys.settrace(self)
            try:
                return function(*arguments)
            finally:
                sys.settrace(before)

        return interrupted

    def run(self, program: Callable[[], object], *, steps: bool = True) -> None:
        """Run it; without ``steps``, only ``__exit__`` is interrupted."""
        with pytest.MonkeyPatch.context() as patch:
            if steps:
                patch.setattr(profile, "_pass_to", self.inside(profile._pass_to))
            whole: Any = profile.__exit__
            patch.setattr(whole, "_method", self.inside(whole._method))
            program()


def loop(prof: profile, model: nn.Module, steps: int = STEPS, error: type[BaseException] | None = None) -> None:
    with prof:
        for _ in range(steps):
            model(torch.ones(2, 2)).sum().backward()
            prof.step()
        if error is not None:
            raise error


def whole(model: nn.Module, **options: Any) -> profile:
    return profile(model, **options)


def aggregated(model: nn.Module, **options: Any) -> profile:
    return profile(model, aggregate=True, **options)


def cycles(model: nn.Module, **options: Any) -> profile:
    return profile(model, schedule=torchprof.schedule(wait=1, active=1, repeat=0), **options)


def back_to_back(model: nn.Module, **options: Any) -> profile:
    return profile(model, schedule=torchprof.schedule(active=1, repeat=0), aggregate=True, **options)


Made = Callable[..., profile]
PROGRAMS: list[Made] = [whole, aggregated, cycles, back_to_back]


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.ReLU())


def figures(traces: list[Trace]) -> list[Any]:
    """What does not differ between two recordings of the same program."""
    return [
        (
            {name: len(getattr(trace, name)) for name in COUNTED},
            trace.steps["number"].tolist(),
            sorted(trace.facts),
            trace.facts.get("ended_by"),
            [info.path for info in trace.model.modules] if trace.model is not None else None,
            [(row["name"], row["calls"], row["flops"]) for row in torchprof.by_module(trace).rows],
        )
        for trace in traces
    ]


@functools.cache
def expected(made: Made, steps: int, error: type[BaseException] | None) -> tuple[list[Any], int]:
    """The figures of so many steps, ended by an exception or not, and how many traces were delivered."""
    delivered: list[profile] = []
    prof = made(recorded := model(), on_trace_ready=delivered.append)
    with contextlib.suppress(BaseException):
        loop(prof, recorded, steps, error)
    return figures(prof.traces), len(delivered)


def works() -> bool:
    with profile() as prof:
        torch.ones(2)
    return "aten::ones" in op_names(prof.trace)


def check(made: Made, interrupts: Interrupts) -> bool:
    """Whether the interrupts came. Then everything is as it must be."""
    given = len(interrupts.gaps)
    delivered: list[profile] = []
    prof = made(recorded := model(), on_trace_ready=delivered.append)
    error: BaseException | None = None
    before = _C.installed(nn.Module)
    try:
        interrupts.run(lambda: loop(prof, recorded))
    except interrupts.error as raised:
        error = raised
    assert _C.installed(nn.Module) == before
    if len(interrupts.gaps) == given:
        assert error is None
        return False
    assert error is not None, "the interrupt was swallowed"
    ended_by = interrupts.error if interrupts.ending == "_pass_to" else None
    found, count = expected(made, prof._number, ended_by)
    assert figures(prof.traces) == found
    assert prof.trace is prof.traces[-1]
    assert count - 1 <= len(delivered) <= count, "an interrupt just before it is as one in it"
    return True


@pytest.mark.parametrize("made", PROGRAMS, ids=lambda made: made.__name__)
@pytest.mark.parametrize("more", [(), (1,), (40,)], ids=["once", "at once again", "again"])
def test_an_interrupt_of_the_end_goes_on_and_the_trace_is_whole(made: Made, more: tuple[int, ...]) -> None:
    number = 1
    while check(made, Interrupts(number, *more)):
        number += STRIDE
    assert number > 1000
    assert works()


class TooLong(Exception):
    """What the handler of an alarm may raise."""


@pytest.mark.parametrize("made", PROGRAMS, ids=lambda made: made.__name__)
def test_what_a_handler_raises_beside_the_programs_own_exception_goes_on(made: Made) -> None:
    for number in range(1, 700, 31):
        prof = made(recorded := model())
        interrupts = Interrupts(number, error=TooLong)
        with pytest.raises(TooLong) as caught:
            interrupts.run(lambda prof=prof, recorded=recorded: loop(prof, recorded, error=ZeroDivisionError), steps=False)
        assert isinstance(caught.value.__context__, ZeroDivisionError)
        assert figures(prof.traces) == expected(made, STEPS, ZeroDivisionError)[0]


def test_a_signal_is_such_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    described, calls = recorder.describe, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) <= 2:
            signal.raise_signal(signal.SIGINT)
        return described(*arguments)

    monkeypatch.setattr(recorder, "describe", interrupted)
    prof = whole(recorded := model())
    with pytest.raises(KeyboardInterrupt):
        loop(prof, recorded)
    assert len(calls) == 3
    assert figures(prof.traces) == expected(whole, STEPS, None)[0]


def test_where_interrupts_do_not_end_the_trace_is_made_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    prof = whole(recorded := model())
    monkeypatch.setattr(recorder, "describe", raises(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        loop(prof, recorded)
    monkeypatch.undo()
    assert works()
    assert figures([prof.trace]) == expected(whole, STEPS, None)[0]
    assert prof.traces == [prof.trace]


def test_where_interrupts_do_not_even_let_it_stop_there_is_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    prof = whole(recorded := model())
    monkeypatch.setattr(recorder, "walk", raises_at_the_end(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        loop(prof, recorded)
    monkeypatch.undo()
    with pytest.raises(torchprof.RecordingError, match="was interrupted when it began, or again and again when it ended"):
        _ = prof.trace
    assert works()


def raises(error: type[BaseException]) -> Callable[..., Any]:
    def function(*arguments: Any) -> Any:
        raise error("no")

    return function


def raises_at_the_end(error: type[BaseException]) -> Callable[..., Any]:
    """`walk`, which is called when a recording begins, too."""
    walk = recorder.walk

    def function(models: Any) -> Any:
        return raises(error)() if recorder._native.is_recording() else walk(models)

    return function


def test_what_always_fails_is_raised_or_a_warning_beside_the_programs_own_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "walk", raises_at_the_end(ValueError))
    with pytest.raises(ValueError, match="no"):
        loop(whole(recorded := model()), recorded)
    said = "could not be ended as it should: ValueError: no"
    with pytest.warns(RuntimeWarning, match=said) as warned, pytest.raises(ZeroDivisionError):
        loop(whole(recorded), recorded, error=ZeroDivisionError)
    assert [warning.filename for warning in warned] == [__file__]
    assert works()


@pytest.mark.parametrize("made", PROGRAMS, ids=lambda made: made.__name__)
def test_an_interrupt_of_on_trace_ready_goes_on_and_it_is_called_once(made: Made) -> None:
    delivered: list[int] = []

    def interrupted(prof: profile) -> None:
        delivered.append(len(prof.traces))
        raise KeyboardInterrupt

    prof = made(recorded := model(), on_trace_ready=interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop(prof, recorded)
    assert delivered == [1]
    assert len(prof.traces) == 1
    assert works()


def test_a_loop_that_catches_the_interrupt_goes_on_with_the_next_step() -> None:
    """Each interrupt comes at another instruction of the same cycles."""
    for number in range(1, 1500, 61):
        prof = back_to_back(recorded := model())
        interrupts = Interrupts(number)
        caught = []

        def catching(prof: profile = prof, recorded: nn.Module = recorded, caught: list[int] = caught) -> None:
            with prof:
                for step in range(STEPS):
                    recorded(torch.ones(2, 2)).sum().backward()
                    try:
                        prof.step()
                    except KeyboardInterrupt:
                        caught.append(step)

        interrupts.run(catching)
        assert len(caught) == 1
        assert figures(prof.traces) == expected(back_to_back, STEPS, None)[0], number
