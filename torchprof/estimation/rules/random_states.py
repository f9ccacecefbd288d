"""States of random number generators, which checkpointing saves for each segment: real tensors, made without any op."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.target import Target
from torchprof.record.torch_private import is_fake_mode_active

COUNTED = "_torchprof_counted"
"""An attribute of a state: a fake tensor, whose memory is counted for as long as the state lives."""


@rule(
    Kind.PATCH,
    "torch.get_rng_state",
    "torch.random.get_rng_state",
    on="cpu",
    when="the program asks for the state of the CPU's generator; on CUDA, states are on the host too",
    source="CheckpointFunction and _checkpoint_without_reentrant_generator in torch/utils/checkpoint.py; "
    "CPUGeneratorImpl::get_state in aten/src/ATen/CPUGeneratorImpl.cpp allocates 5,056 bytes",
)
@contextmanager
def saved_random_states(target: Target) -> Iterator[None]:
    """States count, until the block ends."""
    original = torch.random.get_rng_state

    def get_rng_state() -> torch.Tensor:
        state = original()
        if is_fake_mode_active():
            setattr(state, COUNTED, torch.empty(len(state), dtype=state.dtype))
        return state

    get_rng_state.__doc__ = original.__doc__
    torch.get_rng_state = torch.random.get_rng_state = get_rng_state
    try:
        yield
    finally:
        torch.get_rng_state = torch.random.get_rng_state = original
