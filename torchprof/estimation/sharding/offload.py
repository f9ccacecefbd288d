"""Shards that FSDP2 keeps on the host (``CPUOffloadPolicy``): what is there is no memory of the device.

All fake tensors say they are on the CPU, so the host is ``cpu:0``: PyTorch tells it from ``cpu``, and what is made of tensors
there is there. FSDP2 copies shards to the device before it gathers them, by their device; and gradients back with
``.to("cpu")``, which is told apart here. Where blocks are allocated on the host, the recording is marked, as where another
stream becomes the current one (`torchprof.estimation.sharding.streams`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Final

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from torchprof import _native
from torchprof.estimation.fake.callers import replaced
from torchprof.estimation.sharding.pipelines import groups_of
from torchprof.estimation.sharding.streams import IN_PINNED_MEMORY, ON_HOST, mark_stream
from torchprof.estimation.torch_private import ESTIMATE, OFFLOAD, SHARDING

__all__ = ["HOST", "Host", "offloaded", "shards_stay_pinned"]

HOST: Final = torch.device("cpu", 0)
DEVICE: Final = torch.device("cpu")


class Host:
    """Tells a recording which results of ops are on the host.

    Args:
        pinned: whether the parameters there are in pinned memory.

    Attributes:
        pinning: whether what is made on the host now is in pinned memory.
    """

    def __init__(self, *, pinned: bool) -> None:
        self.pinned, self.pinning = pinned, False

    def resume(self, results: Sequence[torch.Tensor], workspace: int) -> None:
        """As `_native.resume_recording`."""
        if not any(getattr(result, "fake_device", None) == HOST for result in results):
            _native.resume_recording(results, workspace)
            return
        mark_stream(IN_PINNED_MEMORY if self.pinning else ON_HOST)
        try:
            _native.resume_recording(results, workspace)
        finally:
            mark_stream(torch.cpu.current_stream().number)

    def resume_with(self, parameters: Sequence[torch.Tensor]) -> None:
        """The same with the parameters and buffers of a model, some of which are on the host."""
        there = [part for part in parameters if part.device == HOST]
        with self.pins(self.pinned):
            self.resume(there, 0)
        _native.pause_recording()
        _native.resume_recording([part for part in parameters if part.device != HOST], 0)

    @contextmanager
    def pins(self, pinned: bool) -> Iterator[None]:
        """What is made on the host is in pinned memory, or not, until the block ends."""
        before, self.pinning = self.pinning, pinned
        try:
            yield
        finally:
            self.pinning = before


def offloaded(model: nn.Module) -> list[Any]:
    """FSDP2's descriptions of the parameters of a model whose shards it keeps on the host."""
    states = [module._get_fsdp_state() for module in model.modules() if isinstance(module, SHARDING.FSDPModule)]
    return [part for group in groups_of(states) for part in group.fsdp_params if part.offload_to_cpu]


@contextmanager
def shards_stay_pinned() -> Iterator[None]:
    """FSDP2 copies no shards that it takes not to be pinned, and its gradients go to the host, until the block ends."""
    with ExitStack() as stack:
        parameter, name = OFFLOAD.FSDPParam, "reset_sharded_param"
        stack.enter_context(replaced(parameter, name, _pinned(getattr(parameter, name))))
        place, name = OFFLOAD.param_group, "foreach_reduce"
        stack.enter_context(replaced(place, name, _to_host(getattr(place, name))))
        yield


def _pinned(reset: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(reset)
    def reset_sharded_param(self: Any, *args: Any, **options: Any) -> Any:
        with replaced(torch.Tensor, "is_pinned", lambda *args, **options: True):
            return reset(self, *args, **options)

    return reset_sharded_param


def _to_host(reduce: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(reduce)
    def reduced(fsdp_params: Any, *args: Any, **options: Any) -> Any:
        # On the CPU host and device are one, and no shard is on HOST.
        if not any(part.sharded_param.device == HOST for part in fsdp_params):
            return reduce(fsdp_params, *args, **options)
        with _CopiesToHost():
            return reduce(fsdp_params, *args, **options)

    return reduced


class _CopiesToHost(TorchFunctionMode):
    """``.to("cpu")`` of what is on the device is a copy on the host; one that is not waited for goes to pinned memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.to and args[1:] == (DEVICE,) and isinstance(args[0], ESTIMATE.FakeTensor):
            host = args[0].fake_mode.host
            if host is not None and args[0].device != HOST:
                with host.pins(bool(kwargs.get("non_blocking"))):
                    return func(args[0], HOST, **kwargs)
        return func(*args, **kwargs)
