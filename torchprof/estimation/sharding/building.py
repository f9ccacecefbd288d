"""Building a model as a rank does: on meta, where its parameters take no memory; then with fake ones on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchprof import _native
from torchprof.errors import ModuleTypeError
from torchprof.estimation.fake.meta_build import on_meta
from torchprof.estimation.fake.model import Faking
from torchprof.estimation.sharding.fitting_sizes import checks_of_build
from torchprof.estimation.sharding.offload import HOST, Host, offloaded
from torchprof.estimation.sharding.pipelines import as_module
from torchprof.estimation.sharding.replicas import wrap, wrapped_later
from torchprof.estimation.torch_private import SHARDING

__all__ = ["built_sharded", "local_part", "made_fake", "wrappers"]


def wrappers() -> tuple[type[torch.Tensor], ...]:
    """Tensors that stand for what a rank has: sharded ones, and results of collectives that are awaited when they are used."""
    return SHARDING.DTensor, SHARDING.AsyncCollectiveTensor


def built_sharded(build: Callable[[], nn.Module]) -> nn.Module:
    """What the function builds, wraps and shards, on meta.

    Raises:
        ModuleTypeError: it is no function, or builds no module.
    """
    if isinstance(build, nn.Module) or not callable(build) or isinstance(build, type):
        what = f"the class {build.__name__}" if isinstance(build, type) else type(build).__name__
        raise ModuleTypeError(
            f"with world_size=, model must be a function that builds and shards the model as a rank does, not {what}"
        )
    with on_meta(checks_of_build()), wrapped_later():
        made = as_module(build())
    if not isinstance(made, nn.Module):
        raise ModuleTypeError(
            f"model() must return a torch.nn.Module, or the schedule of a pipeline, not {type(made).__name__}: {made!r:.80}"
        )
    return made


def made_fake(model: nn.Module, mode: Any, *, has_host: bool) -> nn.Module:
    """Give a model on meta fake parameters and buffers on the CPU, which DistributedDataParallel then groups in buckets.

    Args:
        has_host: whether shards that FSDP2 keeps on the host are not on the device, as on CUDA.
    """
    tied = _tied(model)
    parts = offloaded(model) if has_host else []
    on_host = {id(part.sharded_param) for part in parts}
    if parts:
        mode.host = Host(pinned=any(part.pin_memory for part in parts))
    with mode:
        try:
            _native.pause_recording()  # it reads those on meta, which take no memory
            apply: Any = model._apply  # as to_empty, which takes one device for all
            with mode.taking_meta():
                apply(lambda each: torch.empty_like(each, device=HOST if id(each) in on_host else "cpu"))
            for (owner, name), *others in tied:
                for other, same in others:
                    other._parameters[same] = owner._parameters[name]
            _attributes_made_fake(model, mode)
        finally:
            tensors = [local_part(tensor) for tensor in (*model.parameters(), *model.buffers())]
            if mode.host is None:
                _native.resume_recording(tensors, 0)
            else:
                mode.host.resume_with(tensors)
            mode.outside.forget()
        for wrapper in [module for module in model.modules() if isinstance(module, DistributedDataParallel)]:
            wrap(wrapper, mode.works, on_cpu=not has_host)
    return model


def _tied(model: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    """Where the same parameter is more than once: modules and names."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                places.setdefault(id(parameter), []).append((module, name))
    return [found for found in places.values() if len(found) > 1]


def _attributes_made_fake(model: nn.Module, mode: Any) -> None:
    """Tensors that modules keep, and which are neither parameters nor buffers."""
    faking = Faking(mode)
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                object.__setattr__(module, name, faking.tensor(value))


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank has of a tensor: all of it, or its shard."""
    return getattr(tensor, "_local_tensor", tensor)
