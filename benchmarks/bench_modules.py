"""What it costs to record one module call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from conftest import Peer, SideBySide, nothing
from torch import nn

import torchprof


@contextmanager
def python_hooks(model: nn.Module) -> Iterator[None]:
    """A forward pre-hook and a forward hook that do nothing, on every module."""
    handles = [module.register_forward_pre_hook(lambda module, args: None) for module in model.modules()]
    handles += [module.register_forward_hook(lambda module, args, output: None) for module in model.modules()]
    yield
    for handle in handles:
        handle.remove()


def test_recording_a_module_call(side_by_side: SideBySide) -> None:
    calls = side_by_side.size(20_000, 10)
    model, x = nn.Identity(), torch.ones(4)

    def recorded_by(observer: Callable[[], AbstractContextManager[Any]]) -> Peer:
        def peer() -> float:
            with observer():
                begin = time.perf_counter_ns()
                for _ in range(calls):
                    model(x)
                return (time.perf_counter_ns() - begin) / calls

        return peer

    contest = side_by_side(
        "one module call (nn.Identity), on top of calling it",
        {
            "bare": recorded_by(nothing),
            "torchprof, tensors in and out": recorded_by(lambda: torchprof.profile(ops=False, memory=False, stacks=False)),
            "Python pre and post hooks": recorded_by(lambda: python_hooks(model)),
        },
        unit="ns",
        rounds=30,
        minus="bare",
    )
    assert len(contest.medians) == 2
