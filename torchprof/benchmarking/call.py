"""One call of what is measured: made ready, run, and waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from torchprof.benchmarking.devices import devices_in_use, synchronize
from torchprof.record.profile import profile
from torchprof.trace.trace import Trace

__all__ = ["Call", "record", "warm_up"]


@dataclass(frozen=True)
class Call:
    """A function, its arguments, and what is done before and after each call of it.

    Attributes:
        function, args, kwargs: what is called.
        setup: called before; where it returns something, that is the arguments: a tuple of ``args`` and ``kwargs``.
        teardown: called after, with the arguments.
    """

    function: Callable[..., object]
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    setup: Callable[[], Any] | None = None
    teardown: Callable[..., object] | None = None

    @contextmanager
    def prepared(self) -> Iterator[Callable[[], object]]:
        """The call, ready to be made once inside the block."""
        args, kwargs = self.args, self.kwargs
        if self.setup is not None and (given := self.setup()):
            args, kwargs = given
        yield partial(self.function, *args, **kwargs)
        if self.teardown is not None:
            self.teardown(*args, **kwargs)

    def timed(self, devices: Sequence[torch.device]) -> int:
        """Nanoseconds from when the devices have nothing to do until they have done all that this call launched."""
        with self.prepared() as run:
            synchronize(devices)
            began = time.perf_counter_ns()
            run()
            synchronize(devices)
            return time.perf_counter_ns() - began


def warm_up(call: Call, rounds: int) -> tuple[torch.device, ...]:
    """Make some calls that do not count, wait for them, and say which devices are in use now."""
    for _ in range(rounds):
        with call.prepared() as run:
            run()
    devices = devices_in_use()
    synchronize(devices)
    return devices


def record(call: Call, recording: profile, rounds: int, devices: Sequence[torch.device]) -> tuple[Trace, ...]:
    """Traces of so many calls, each of one. One more is made before these: with it, what records the GPU is set up."""
    traces = []
    for _ in range(1 + rounds):
        with call.prepared() as run:
            synchronize(devices)
            with recording:
                run()
                synchronize(devices)
        traces.append(recording.trace)
    return tuple(traces[1:])
