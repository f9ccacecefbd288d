"""DistributedDataParallel with communication hooks, as users register them: those of PyTorch, and one of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import BuiltinCommHookType
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState, post_localSGD_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parallel.distributed import _MixedPrecision

__all__ = ["HOOKED", "STEPS_OF_HOOKS", "events_on_cpu"]

STEPS_OF_HOOKS: Final = 5
"""PowerSGD begins in the third step, and has all of its state in the fourth."""
LocalSGD: Any = PostLocalSGDState
new_subgroups: Any = dist.new_subgroups
ONE_BUCKET: Final[dict[str, Any]] = {"bucket_cap_mb": 100}
"""With gloo, what follows a collective runs on its threads: of two buckets, ranks would send in another order."""


def gathered_bytes(group, bucket):  # type: ignore[no-untyped-def]  # PyTorch refuses annotations that are strings
    """A hook of a user: gradients go as 8 bits, and each rank adds up those of all."""
    gradient = bucket.buffer()
    scale = gradient.abs().max() / 127
    sent = (gradient / scale).to(torch.int8)
    received = [torch.empty_like(sent) for _ in range(dist.get_world_size())]
    work: Any = dist.all_gather(received, sent, async_op=True)

    def added(done: Any) -> Any:
        gradient.zero_()
        for each in received:
            gradient.add_(each, alpha=1 / len(received))
        return gradient.mul_(scale)

    return work.get_future().then(added)


def _with(state: Callable[[], Any], hook: Callable[..., Any], **options: Any) -> Callable[[nn.Module, Any], nn.Module]:
    def wrapped(model: nn.Module, of: Any) -> nn.Module:
        made = DistributedDataParallel(model, **options)
        made.register_comm_hook(state(), hook)
        return made

    return wrapped


def builtin(model: nn.Module, of: Any) -> nn.Module:
    made = DistributedDataParallel(model)
    register: Any = made._register_builtin_comm_hook
    register(BuiltinCommHookType.FP16_COMPRESS)
    return made


def registered_in_step(model: nn.Module, of: Any) -> nn.Module:
    """The hook is registered by the first forward."""
    made = DistributedDataParallel(model)

    def register(module: nn.Module, inputs: Any) -> None:
        handle.remove()
        made.register_comm_hook(None, default_hooks.fp16_compress_hook)

    handle = made.register_forward_pre_hook(register)
    return made


class Event:
    """An event that has happened: PyTorch has none for the CPU, and ``mixed_precision=`` makes some."""

    def record(self, stream: Any = None) -> None:
        """Nothing of it is kept."""

    def wait(self, stream: Any = None) -> None:
        """It has happened."""

    wait_stream = wait


@contextmanager
def events_on_cpu() -> Iterator[None]:
    """There are events of the CPU, and a current stream, until the block ends."""
    stream = mock.patch("torch.accelerator.current_stream", return_value=Event())
    with mock.patch("torch.Event", Event), stream:
        yield


def mixed(reduced: torch.dtype) -> Callable[[nn.Module, Any], nn.Module]:
    def wrapped(model: nn.Module, of: Any) -> nn.Module:
        return DistributedDataParallel(model, mixed_precision=_MixedPrecision(torch.bfloat16, reduced))

    return wrapped


HOOKED: Final[dict[str, Callable[[Any, Any], nn.Module]]] = {
    "ddp-allreduce": _with(lambda: None, default_hooks.allreduce_hook),
    "ddp-fp16": _with(lambda: dist.group.WORLD, default_hooks.fp16_compress_hook),
    "ddp-fp16-views": _with(lambda: None, default_hooks.fp16_compress_hook, gradient_as_bucket_view=True),
    "ddp-fp16-builtin": builtin,
    "ddp-fp16-in-step": registered_in_step,
    "ddp-powersgd": _with(lambda: PowerSGDState(None, 2, 2), powerSGD_hook, **ONE_BUCKET),
    "ddp-powersgd-qr": _with(lambda: PowerSGDState(None, 4, 2, use_error_feedback=False), powerSGD_hook, **ONE_BUCKET),
    "ddp-powersgd-fp16": _with(
        lambda: PowerSGDState(None, 1, 2), default_hooks.fp16_compress_wrapper(powerSGD_hook), **ONE_BUCKET
    ),
    "ddp-local": _with(lambda: LocalSGD(None, new_subgroups(1)[0], 2), post_localSGD_hook),
    "ddp-bytes": _with(lambda: None, gathered_bytes),
    "ddp-mixed": mixed(torch.bfloat16),
    "ddp-mixed-fp32": mixed(torch.float32),
}
"""By name of the wrapping."""
