"""`torchprof.benchmark`: how long a function takes, and what it does meanwhile."""

from __future__ import annotations

import inspect
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Never

from torch import nn

from torchprof import _native
from torchprof.arguments import check_int
from torchprof.benchmarking.benchmarked import Benchmark
from torchprof.benchmarking.call import Call, record, warm_up
from torchprof.errors import ArgumentError, ModuleTypeError, RecordingError
from torchprof.record.background import give_way
from torchprof.record.profile import profile
from torchprof.tables.checks import check_ceilings
from torchprof.trace.ceilings import Ceilings
from torchprof.wording import counted, shown

__all__ = ["benchmark", "check_settings", "model_of", "name_of"]

LEAST_ROUNDS: Final = 5

Models = nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module]


def benchmark(
    function: Callable[[], object],
    *arguments: Never,
    model: Models | None = None,
    setup: Callable[[], object] | None = None,
    rounds: int | None = None,
    seconds: float = 1.0,
    warmup: int = 3,
    recorded: int = 3,
    ceilings: Ceilings | None = None,
    gpu: str = "auto",
) -> Benchmark:
    """Time calls of a function, on a GPU until the work is done; and say what a call does, as recorded in calls of their own.

    A GPU works on after a call has returned: the clock starts when the devices in use have nothing to do, and stops when they
    have done all that was launched. While calls are timed nothing records them. After these, ``1 + recorded`` further calls are
    recorded, of which the first, that sets the recorder up, is left out. So the function is called
    ``warmup + rounds + 1 + recorded`` times.

    Args:
        function: called without arguments; a lambda will do.
        arguments: none. ``benchmark(lambda: model(x))`` is how to call a function with some.
        model: as for `torchprof.profile`, so that the hottest modules have paths. By default ``function`` itself or the object
            whose method it is, if that is a module.
        setup: called before every call, outside of the time; what it launches is waited for. What it returns is not used.
        rounds: how many calls to time. By default as many as fit into ``seconds``, and at least 5.
        seconds: how long to time calls where ``rounds`` is None.
        warmup: how many calls to make before any is timed, at least 1: with these, PyTorch compiles, chooses algorithms and
            reserves memory, and it is found which devices are in use.
        recorded: how many calls to record, at least 1.
        ceilings: of `torchprof.ceilings`, for the device and the dtype in which the function computes: for ``mfu``.
        gpu: how to record GPUs: see `torchprof.profile`.

    Returns:
        A `Benchmark`. What is not known, such as kernels where no GPU was recorded, is None in it, and it says why.

    Raises:
        ArgumentError, ModuleTypeError: an argument has the wrong value or type.
        RecordingError: torchprof is recording already, which would change the times; or ``gpu`` is not possible.
        ExtensionError: the compiled recorder is missing or was built for another PyTorch.

    Example:
        >>> print(torchprof.benchmark(lambda: train_step(batch), model=model, ceilings=torchprof.ceilings("cuda")))
    """
    if arguments:
        given = ", ".join(["x"] if len(arguments) == 1 else [f"x{number}" for number in range(1, len(arguments) + 1)])
        named = function.__name__ if isinstance(function, types.FunctionType) and function.__name__.isidentifier() else "m"
        raise ArgumentError(
            f"benchmark() takes one function and calls it without arguments, not with {counted(len(arguments), 'argument')}: "
            f"write benchmark(lambda: {named}({given}))"
        )
    if setup is not None and not callable(setup):
        raise ModuleTypeError(f"setup must be a function or None, not {type(setup).__name__}: {shown(setup)}")
    if rounds is not None:
        check_int("rounds", rounds, 1)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
        raise ArgumentError(f"seconds={shown(seconds)} must be a number of seconds above 0")
    check_settings(function, warmup, recorded, ceilings)
    recording = profile(model if model is not None else model_of(function), gpu=gpu, progress=False)
    call = Call(function, setup=_without_result(setup))
    devices = warm_up(call, warmup)
    times: list[int] = []
    end = time.perf_counter() + seconds
    while len(times) < (rounds or LEAST_ROUNDS) or (rounds is None and time.perf_counter() < end):
        times.append(call.timed(devices))
    traces = record(call, recording, recorded, devices)
    return Benchmark(name_of(function), tuple(times), traces, tuple(map(str, devices)), ceilings)


def check_settings(function: Any, warmup: Any, recorded: Any, ceilings: Any) -> None:
    """Check what the function `benchmark` and the fixture ``gpu_benchmark`` are both given.

    Raises:
        ModuleTypeError: the function is not one, or one whose calls do nothing yet.
        ArgumentError: another argument has a value that is not accepted.
        RecordingError: torchprof is recording already.
    """
    if not callable(function):
        raise ModuleTypeError(f"function must be a function to call, not {type(function).__name__}: {shown(function)}")
    if later := _what_runs_later(function):
        kind, run = later
        name = name_of(function)
        raise ModuleTypeError(f"function {name} is a {kind}, whose calls only make one: give lambda: {run.format(name)}")
    check_int("warmup", warmup, 1)
    check_int("recorded", recorded, 1)
    if ceilings is not None:
        check_ceilings(ceilings, of_device=False)
    give_way()  # what records in the background, such as pytest --torchprof, as for any recording that is asked for
    if _native.is_recording():
        raise RecordingError("torchprof is recording, which would change the times: benchmark outside of the recording")


def _what_runs_later(function: Any) -> tuple[str, str] | None:
    """What kind of function it is whose call runs nothing of it, and how all of it is run; None where a call runs it."""
    called = function, type(function).__call__
    if any(map(inspect.iscoroutinefunction, called)):
        return "coroutine function", "asyncio.run({}())"
    if any(map(inspect.isgeneratorfunction, called)):
        return "generator function", "list({}())"
    return None


def model_of(function: Any) -> nn.Module | None:
    """The model that a function is, or is a method of; None where it is neither."""
    of = getattr(function, "__self__", function)
    return of if isinstance(of, nn.Module) else None


def name_of(function: Any) -> str:
    """What a function is called: by its name, without where it was made, or of an object by its class."""
    return str(getattr(function, "__qualname__", type(function).__qualname__)).rpartition("<locals>.")[2]


def _without_result(setup: Callable[[], object] | None) -> Callable[[], None] | None:
    if setup is None:
        return None

    def call_setup() -> None:
        setup()

    return call_setup
