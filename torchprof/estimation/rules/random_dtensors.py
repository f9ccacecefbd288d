"""Random numbers of DTensors, of which each rank draws its part: on GPUs from a state that all of them have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch.distributed as dist

from torchprof.estimation.fake.callers import replaced
from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.target import Target
from torchprof.estimation.torch_private import SHARDING

__all__: list[str] = []


class States:
    """In place of what makes ranks draw as one: nothing is drawn, and states of GPUs are on the host."""

    distribute_region_enabled = True

    def _distribute_region(self, spec: Any, generator: Any = None) -> AbstractContextManager[None]:
        return nullcontext()


@rule(
    Kind.PATCH,
    "torch.distributed.tensor.rand",
    "torch.distributed.tensor.randn",
    on="cuda",
    when="DTensors are random in a world of ranks: its mesh is one of the CPU, for which PyTorch has no such states, and warns",
    source="is_rng_supported_mesh in torch/distributed/tensor/_random.py, and what calls it there, in _api.py and _dispatch.py",
)
@contextmanager
def random_dtensors(target: Target) -> Iterator[None]:
    """Meshes can have random DTensors, until the block ends."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_backend() == "fake"):
        yield
        return
    place = SHARDING.random
    with replaced(place, "_rng_tracker", States()), replaced(place, "is_rng_supported_mesh", lambda mesh: True):
        yield
