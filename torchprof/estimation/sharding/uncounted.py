"""What of torch.distributed runs for itself and takes no memory of the device, and what takes some unseen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch

from torchprof import _native
from torchprof.estimation.fake.callers import replaced
from torchprof.estimation.torch_private import SHARDING

__all__ = ["layouts_without_memory", "storages_resized_with_memory"]


@contextmanager
def layouts_without_memory() -> Iterator[None]:
    """DTensor runs an op at its global shape, to know that of the result. It is no op of the program."""
    propagator = SHARDING.ShardingPropagator
    name = "_propagate_tensor_meta_non_cached"
    with replaced(propagator, name, _unrecorded(getattr(propagator, name))):
        yield


def _unrecorded(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def unrecorded(*args: Any, **options: Any) -> Any:
        try:
            _native.pause_recording()
            return function(*args, **options)
        finally:
            _native.resume_recording([], 0)

    return unrecorded


@contextmanager
def storages_resized_with_memory() -> Iterator[None]:
    """A storage that is resized, as FSDP does with what it gathers, is freed and allocated; on meta only a number changes."""
    resize = torch.UntypedStorage.resize_

    @wraps(resize)
    def resize_(self: torch.UntypedStorage, size: int) -> torch.UntypedStorage:
        if self.device.type != "meta":
            resize(self, size)
        else:
            _native.resize_on_meta(self, size)
        return self

    with replaced(torch.UntypedStorage, "resize_", resize_):
        yield
