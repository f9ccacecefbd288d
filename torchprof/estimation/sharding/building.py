"""Building a model as a rank does: on meta, where its parameters take no memory; then with fake ones on the CPU."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchprof import _native
from torchprof.errors import EstimateError, ModuleTypeError
from torchprof.estimation.fake.callers import replaced
from torchprof.estimation.fake.meta_build import on_meta
from torchprof.estimation.fake.model import Faking
from torchprof.estimation.sharding.offload import HOST, Host, offloaded
from torchprof.estimation.sharding.pipelines import as_module
from torchprof.estimation.sharding.unused_parameters import FindsUnused
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
    with on_meta(), _wrapped_later():
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
            with _without_talking():
                finds = vars(wrapper)["finds"]
                vars(wrapper)["wrap"]()
                SHARDING.register_comm_hook(wrapper.reducer, wrapper.process_group, _reduced)
                unused = None
                if finds:
                    wrapper.find_unused_parameters = True
                    parameters = [parameter for parameter in wrapper._module_parameters if parameter.requires_grad]
                    unused = FindsUnused(wrapper.reducer, parameters, wrapper.process_group, on_cpu=not has_host)
                vars(wrapper)["reducer"] = _Reducer(wrapper, unused)
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


@contextmanager
def _wrapped_later() -> Iterator[None]:
    """DistributedDataParallel keeps the parameters that it is given, so it gets them once they are fake."""
    wrap = DistributedDataParallel.__init__

    signature = inspect.signature(wrap)

    @wraps(wrap)
    def init(self: Any, *args: Any, **options: Any) -> None:
        given = signature.bind(self, *args, **options)
        if given.arguments.get("mixed_precision") is not None:
            raise EstimateError(
                "DistributedDataParallel(mixed_precision=...) cannot be estimated: leave it out and use torch.autocast, or "
                "fully_shard with a MixedPrecisionPolicy"
            )
        # A static graph, in which it is known what is used, needs what another does, and is told from it by values.
        finds = bool(given.arguments.get("find_unused_parameters")) and not given.arguments.get("static_graph")
        # A model on the CPU has no device_ids.
        given.arguments.update(device_ids=None, output_device=None, static_graph=False, find_unused_parameters=False)
        nn.Module.__init__(self)
        self.module = given.arguments["module"]
        object.__setattr__(self, "finds", finds)
        object.__setattr__(self, "wrap", lambda: wrap(*given.args, **given.kwargs))

    def register_comm_hook(self: Any, *args: Any, **options: Any) -> None:
        raise EstimateError(
            "DistributedDataParallel.register_comm_hook() cannot be estimated: leave it out. The plain all-reduce is counted, "
            "of which a hook that compresses to 16 bits sends half"
        )

    with (
        replaced(DistributedDataParallel, "__init__", init),
        replaced(DistributedDataParallel, "register_comm_hook", register_comm_hook),
    ):
        yield


@contextmanager
def _without_talking() -> Iterator[None]:
    """What DistributedDataParallel asks the other ranks when it begins: they have the same parameters."""
    place = SHARDING.ddp
    with (
        replaced(place, "_verify_param_shape_across_processes", _nothing),
        replaced(place, "_sync_module_states", _nothing),
    ):
        yield


def _reduced(group: dist.ProcessGroup, bucket: Any) -> torch.futures.Future[torch.Tensor]:
    """A bucket of gradients has been reduced. The world that is not there says it without the bucket, which is refused."""
    dist.all_reduce(bucket.buffer(), group=group)
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


class _Reducer:
    """A reducer of DistributedDataParallel that keeps its first buckets: it would send others the order of its second ones.

    It makes those in the second forward, for gradients in the order in which they came. Gradients that are views of the first
    ones, as they are between the backwards of one step, keep these until they are copied: both are there at once.
    """

    def __init__(self, wrapper: DistributedDataParallel, unused: FindsUnused | None) -> None:
        self._reducer, self._unused = wrapper.reducer, unused
        self._views = [*wrapper.parameters()] if wrapper.gradient_as_bucket_view and unused is None else []
        self._has_reduced = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reducer, name)

    def _rebuild_buckets(self) -> bool:
        if self._has_reduced:
            gradients = [parameter.grad for parameter in self._views if parameter.grad is not None]
            self._views = []
            if gradients:
                torch.empty(sum(gradient.nbytes for gradient in gradients), dtype=torch.uint8, device=gradients[0].device)
        return False

    def prepare_for_backward(self, outputs: list[torch.Tensor]) -> None:
        self._has_reduced = True
        self._reducer.prepare_for_backward([])
        if self._unused is not None:
            self._unused.search(outputs)


def _nothing(*args: Any, **options: Any) -> None:
    """In place of what talks to other ranks."""
