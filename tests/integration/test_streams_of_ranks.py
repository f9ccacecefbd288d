"""Streams that the program of a rank makes, enters and sets: those of ``torch.cuda`` and of any accelerator are the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

import pytest
import torch
from networks import Of
from torch import Tensor, nn

import torchprof
from torchprof import Estimate
from torchprof.estimation.sharding.streams import POOL, streams_of

SIDE: Final = 1024
BYTES: Final = 4 * SIDE * SIDE

Make = Callable[[], Any]
Enter = Callable[[Any], AbstractContextManager[Any]]


def cuda(name: str, *args: Any) -> Any:
    return getattr(torch.cuda, name)(*args)


MAKE: Final[dict[str, Make]] = {
    "torch.cuda.Stream()": lambda: cuda("Stream"),
    "torch.Stream()": lambda: torch.Stream(),
    "torch.cuda.ExternalStream(1)": lambda: cuda("ExternalStream", 1),
}
ENTER: Final[dict[str, Enter]] = {
    "torch.cuda.stream(stream)": lambda stream: cuda("stream", stream),
    "torch.cuda.StreamContext(stream)": lambda stream: cuda("StreamContext", stream),
    "stream": lambda stream: stream,
}


def without_gradients(model: nn.Module, optimizer: Any, x: Tensor) -> None:
    with torch.no_grad():
        model(x)


def of(function: Callable[[Tensor], Any], step: Callable[..., object] = without_gradients, **options: Any) -> Estimate:
    shape = torch.empty(SIDE, SIDE, device="meta")
    return torchprof.estimate(lambda: Of(function), shape, step=step, steps=1, **{"world_size": 2, **options})


def numbers(found: Estimate) -> list[int]:
    """The streams of the blocks that a program made, of which the first is its input."""
    rows = found.memory.allocations
    large = rows["bytes"] == BYTES
    return [int(number) for number in streams_of(found.trace, rows)[large][1:]]


def beside(make: Make, enter: Enter) -> Callable[[Tensor], Any]:
    def function(x: Tensor) -> Tensor:
        stream = make()
        stream.wait_stream(torch.cuda.current_stream())
        with enter(stream):
            y = x * 2
        torch.cuda.current_stream().wait_event(stream.record_event())
        del x
        return y * 2

    return function


@pytest.mark.parametrize("enter", ENTER)
@pytest.mark.parametrize("make", MAKE)
def test_blocks_of_another_stream_count_however_it_is_made_and_entered(make: str, enter: str) -> None:
    found = of(beside(MAKE[make], ENTER[enter]))
    assert numbers(found) == [1, 0]
    assert not [note for note in found.notes if "stream" in note]


@pytest.mark.parametrize("make", ["torch.cuda.Stream()", "torch.Stream()"])
def test_compiled_code_is_as_what_is_not_compiled(make: str) -> None:
    torch._dynamo.reset()
    function = torch.compile(beside(MAKE[make], ENTER["torch.cuda.stream(stream)"]))
    first, last = numbers(of(function))
    assert first > 0
    assert last == 0


def test_on_one_gpu_they_are_noted() -> None:
    found = of(beside(MAKE["torch.cuda.Stream()"], ENTER["torch.cuda.stream(stream)"]), world_size=None)
    assert numbers(found) == [0, 0]
    assert "what torch.cuda.stream changes of what is reserved" in found.notes


@pytest.mark.parametrize("of_module", [torch.cuda, torch.accelerator])
def test_a_stream_that_is_set_is_the_current_one(of_module: Any) -> None:
    seen = []

    def function(x: Tensor) -> Tensor:
        stream = torch.Stream()
        y = x * 2
        of_module.set_stream(stream)
        seen.append([torch.cuda.current_stream() is stream, torch.accelerator.current_stream() is stream])
        z = y * 2
        with cuda("stream", torch.cuda.default_stream()):
            z = z * 2
        z = z * 2
        of_module.set_stream(torch.cuda.default_stream())
        return z * 2

    assert numbers(of(function)) == [0, 1, 0, 1, 0]
    assert seen == [[True, True]]


@pytest.mark.parametrize("enter", ENTER)
def test_a_block_that_has_ended_leaves_the_stream_that_was_current_before_it(enter: str) -> None:
    def function(x: Tensor) -> Tensor:
        with ENTER[enter](torch.cuda.default_stream()):
            torch.cuda.set_stream(cuda("Stream"))
            y = x * 2
        return y * 2

    assert numbers(of(function)) == [1, 0]


def test_streams_are_what_they_are_asked_to_be() -> None:
    seen: list[Any] = []

    def function(x: Tensor) -> None:
        for stream in (cuda("Stream"), torch.Stream(), torch.cuda.default_stream()):
            same = cuda("Stream", stream.device)
            seen.append((isinstance(stream, torch.cuda.Stream), isinstance(stream, torch.Stream), stream.device == same.device))

    of(function)
    assert seen == [(True, True, True)] * 3


def test_there_are_so_many_streams_and_then_the_first_is_given_again() -> None:
    def function(x: Tensor) -> None:
        for _ in range(POOL + 1):
            with torch.cuda.stream(cuda("Stream")):
                x = x * 2

    assert numbers(of(function)) == [*range(1, POOL + 1), 1]


def test_an_estimate_says_what_backward_does_on_the_stream_of_forward() -> None:
    def trained(model: nn.Module, optimizer: Any, x: Tensor) -> None:
        model(x.requires_grad_()).sum().backward()

    for make, enter in zip(MAKE.values(), ENTER.values(), strict=True):
        assert [note for note in of(beside(make, enter), trained).notes if note.startswith("blocks of backward on the stream")]
    assert not [note for note in of(lambda x: x * 2, trained).notes if "stream" in note]


def test_pytorchs_streams_are_its_own_again() -> None:
    names = "Stream ExternalStream stream StreamContext set_stream current_stream default_stream Event".split()
    before = [torch.Stream, *(getattr(torch.cuda, name) for name in names)]
    of(beside(MAKE["torch.Stream()"], ENTER["stream"]))
    assert [torch.Stream, *(getattr(torch.cuda, name) for name in names)] == before
