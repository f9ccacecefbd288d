"""Ctrl-C at any moment of a recording: it ends the recording and nothing else, and the next one works."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from compiled import SANITIZERS
from reading import op_names
from torch import nn

import torchprof
from torchprof import _C

PACKAGE = str(Path(torchprof.__file__).parent)
STRIDE = 7 if SANITIZERS else 1
"""Of the places where an interrupt may come, every such one is tried. Sanitizers look at what is compiled, and are slow."""


class Interrupter:
    """Raises KeyboardInterrupt just before the instruction of torchprof's own Python code with this number, as Ctrl-C may."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self

    def run(self, program: Callable[[], object]) -> bool:
        """Whether the program came to its end before the interrupt."""
        before = sys.gettrace()
        sys._getframe().f_trace_opcodes = True  # before settrace: Python 3.12 asks only then whether any frame wants them
        sys.settrace(self)
        try:
            program()
        except KeyboardInterrupt:
            return False
        finally:
            sys.settrace(before)
        return True


class Instructions(Interrupter):
    """Interrupts nothing, and numbers the instructions: of those in the same place of the same calls, the first."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.first: dict[tuple[object, ...], int] = {}

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        found = super().__call__(frame, event, argument)
        if found is not None and event == "opcode":
            self.first.setdefault(tuple(place_of(frame)), -1 - self.left)
        return found


def place_of(frame: FrameType | None) -> Iterator[object]:
    """The instruction of a frame and of those that called it."""
    while frame is not None:
        yield frame.f_code, frame.f_lasti
        frame = frame.f_back


def plain(model: nn.Module) -> None:
    with torchprof.profile(model):
        model(torch.ones(1, 2))


def steps(model: nn.Module) -> None:
    with torchprof.profile(model, aggregate=True) as prof:
        for _ in range(2):
            model(torch.ones(1, 2))
            prof.step()


def cycles(model: nn.Module) -> None:
    plan = torchprof.schedule(wait=1, active=1, repeat=2)
    with torchprof.profile(model, schedule=plan, on_trace_ready=lambda prof: None) as prof:
        for _ in range(4):
            prof.step()


def without_memory(model: nn.Module) -> None:
    with torchprof.profile(model, ops=False, memory=False):
        model(torch.ones(1, 2))


@pytest.mark.parametrize("program", [plain, steps, cycles, without_memory], ids=lambda program: program.__name__)
def test_an_interrupt_before_any_instruction_leaves_nothing_behind(program: Callable[[nn.Module], None]) -> None:
    model = nn.Linear(2, 2)
    program(model)  # what is made once is made
    before = _C.installed(nn.Module)
    instructions = Instructions()
    assert instructions.run(lambda: program(model))
    places = sorted(instructions.first.values())[::STRIDE]
    for count, number in enumerate(places):
        ended = Interrupter(number).run(lambda: program(model))
        assert _C.installed(nn.Module) == before, number
        assert not ended, "it runs the same instructions each time"
        if count % 50 == 0 or number == places[-1]:
            assert records(), number
    assert len(places) * STRIDE > 1500


def records() -> bool:
    with torchprof.profile() as prof:
        torch.ones(2)
    return "aten::ones" in op_names(prof.trace)


def is_inside(frame: FrameType | None, function: Callable[..., object]) -> bool:
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None


@pytest.fixture
def storm() -> Iterator[Callable[[float, int], None]]:
    """Raises so many KeyboardInterrupts in `steps`, by a signal: the first after some seconds, the others just after it."""
    left = 0

    def raise_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal left
        if left and is_inside(frame, steps):
            left -= 1
            begin(20e-6, left)
            raise KeyboardInterrupt

    def begin(delay: float, interrupts: int) -> None:
        nonlocal left
        left = interrupts
        signal.setitimer(signal.ITIMER_REAL, delay if interrupts else 0)

    before = signal.signal(signal.SIGALRM, raise_interrupt)
    yield begin
    begin(0, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("interrupts", [1, 2, 3])
def test_several_interrupts_at_random_moments_leave_nothing_behind(
    storm: Callable[[float, int], None], interrupts: int
) -> None:
    model = nn.Linear(2, 2)
    steps(model)
    before = _C.installed(nn.Module)
    for trial in range(100):
        for _ in range(2):
            try:
                storm(1e-5 * (trial + 1), interrupts)
                steps(model)
            except KeyboardInterrupt:
                pass
        storm(0, 0)
        assert _C.installed(nn.Module) == before, trial
        assert records()


def test_an_interrupted_block_has_the_trace_of_what_ran() -> None:
    def work() -> None:
        torch.ones(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), torchprof.profile() as prof:
        work()
    assert "aten::ones" in op_names(prof.trace)
    assert prof.trace.facts["ended_by"] == "KeyboardInterrupt"
    assert "KeyboardInterrupt ended the recording" in str(torchprof.by_op(prof.trace))


def test_a_recording_whose_thread_is_gone_is_ended_by_another() -> None:
    prof = torchprof.profile()

    def begin() -> None:
        prof.__enter__()
        torch.ones(3)

    thread = threading.Thread(target=begin, name="worker")
    thread.start()
    thread.join()
    said = "already recording, on thread 'worker', which has ended: one recording at a time"
    with pytest.raises(torchprof.RecordingError, match=said), torchprof.profile():
        pass
    prof.__exit__(None, None, None)
    assert "aten::ones" in op_names(prof.trace)
    assert not _C.is_recording()


def test_a_recording_that_nobody_can_end_any_more_makes_room() -> None:
    before = _C.installed(nn.Module)
    torchprof.profile().__enter__()  # nothing refers to it
    assert _C.is_recording()
    assert records()
    assert _C.installed(nn.Module) == before


def test_entering_a_recording_again_is_refused_and_it_goes_on() -> None:
    with torchprof.profile() as prof:
        torch.ones(3)
        with pytest.raises(torchprof.RecordingError, match="running already"), prof:
            pass
        torch.zeros(3)
    assert {"aten::ones", "aten::zeros"} <= set(op_names(prof.trace))
