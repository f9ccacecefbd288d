"""Optimizers: how they update parameters on CUDA, and which of them may read values of tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Final

import torch

from torchprof import _native
from torchprof.estimation.fake.callers import replaced
from torchprof.estimation.fake.real_ops import RealOps
from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.sharding.offload import HOST
from torchprof.estimation.target import Target
from torchprof.estimation.torch_private import ESTIMATE
from torchprof.record.torch_private import is_fake_mode_active

HAVE_NAMES: Final = ("torch.optim", "torch.utils._foreach_utils")
"""Modules that ask what foreach kernels take."""
NEVER: Final = -2
"""A tolerance below which nothing gets."""


@rule(
    Kind.PATCH,
    "torch.utils._foreach_utils._get_foreach_kernels_supported_devices",
    "torch.utils._foreach_utils._foreach_supported_types",
    on="cuda",
    when="an optimizer, or a function such as clip_grad_norm_, asks whether it may work on all tensors at once, which needs "
    "temporaries for all; what it does then is its own choice",
    source="_default_to_fused_or_foreach in torch/optim/optimizer.py; _has_foreach_support in torch/utils/_foreach_utils.py",
)
@contextmanager
def foreach_kernels(target: Target) -> Iterator[None]:
    """Fake tensors, which say they are on the CPU, are taken as tensors that foreach kernels work on."""
    with _listing_the_cpu("_get_foreach_kernels_supported_devices"), ExitStack() as stack:
        for module in _modules_with("_foreach_supported_types"):
            module._foreach_supported_types.append(
                ESTIMATE.FakeTensor
            )  # as torch.distributed.tensor adds its own, maybe meanwhile
            stack.callback(module._foreach_supported_types.remove, ESTIMATE.FakeTensor)
        yield


@rule(
    Kind.PATCH,
    "torch.optim.optimizer._get_capturable_supported_devices",
    on="cuda",
    when="capturable was chosen, which optimizers refuse for tensors that say they are on the CPU",
    source="_get_capturable_supported_devices in torch/optim/optimizer.py",
)
@contextmanager
def capturable_optimizer(target: Target) -> Iterator[None]:
    with _listing_the_cpu("_get_capturable_supported_devices"):
        yield


@contextmanager
def _listing_the_cpu(name: str) -> Iterator[None]:
    """A function that lists types of devices lists the CPU too, for fake tensors, until the block ends."""
    with ExitStack() as stack:
        for module in _modules_with(name):
            original = getattr(module, name)
            setattr(module, name, _with_cpu(original))
            stack.callback(setattr, module, name, original)
        yield


def _with_cpu(listed: Callable[..., list[str]]) -> Callable[..., list[str]]:
    @wraps(listed)
    def devices(*args: Any, **options: Any) -> list[str]:
        found = listed(*args, **options)
        return [*found, "cpu"] if is_fake_mode_active() else found

    return devices


def _modules_with(name: str) -> list[Any]:
    """The modules of PyTorch that have imported a name."""
    loaded = list(sys.modules.items())
    return [module for key, module in loaded if key.startswith(HAVE_NAMES) and name in vars(module)]


@rule(
    Kind.PATCH,
    "torch.tensor",
    on="cuda",
    when="an optimizer that works on all tensors at once counts its steps on the host: Adam and others that are neither "
    "capturable nor fused. With foreach=False they count, 512 bytes for each parameter",
    source="_init_group in torch/optim/adam.py: 'deliberately host step on CPU'; histories of an H200 have none of it",
)
@contextmanager
def steps_on_the_host(target: Target) -> Iterator[None]:
    """Numbers that PyTorch's optimizers make with ``torch.tensor`` are not on the GPU, until the block ends."""
    make = torch.tensor

    @wraps(make)
    def tensor(*args: Any, **options: Any) -> torch.Tensor:
        if not _caller().startswith("torch.optim") or not is_fake_mode_active():
            return make(*args, **options)
        try:
            _native.pause_recording()
            made = make(*args, **options)
            made.untyped_storage().resize_(0)  # what is not counted has no bytes
            return made
        finally:
            _native.resume_recording([], 0)

    with replaced(torch, "tensor", tensor):
        yield


def _caller() -> str:
    """The module that called a function which an estimate put in place of another, whichever others are around it."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("torchprof."):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))


@rule(
    Kind.OPTIMIZER,
    "torch.optim.Adafactor",
    "torch.optim.ASGD",
    on=("cpu", "cuda"),
    when="always: what they read changes neither what they do nor what they need",
    source="_single_tensor_adafactor in torch/optim/_adafactor.py and _single_tensor_asgd in torch/optim/asgd.py call item()",
)
def value_independent_optimizer(optimizer: torch.optim.Optimizer, real_ops: RealOps) -> None:
    if isinstance(optimizer, (torch.optim.Adafactor, torch.optim.ASGD)):
        optimizer.step = real_ops.allowing_value_reads()(optimizer.step)  # type: ignore[method-assign]


@rule(
    Kind.OPTIMIZER,
    "torch.optim",
    on="cuda",
    when="parameters are on the host (CPUOffloadPolicy of FSDP2): by default they are updated one by one, as on the CPU",
    source="_default_to_fused_or_foreach in torch/optim/optimizer.py",
)
def one_by_one_on_the_host(optimizer: torch.optim.Optimizer, real_ops: RealOps) -> None:
    for group in optimizer.param_groups:
        chosen = group.get("foreach", False) is not None or group.get("fused")
        if not chosen and any(parameter.device == HOST for parameter in group["params"]):
            group["foreach"] = False


@rule(
    Kind.OPTIMIZER,
    "torch.optim.LBFGS",
    on=("cpu", "cuda"),
    when="always: a step is taken to need all of its iterations, which fill the history",
    source="LBFGS.step in torch/optim/lbfgs.py reads values to see whether it may end, and gets those of stand-ins: ones",
)
def all_iterations(optimizer: torch.optim.Optimizer, real_ops: RealOps) -> None:
    if isinstance(optimizer, torch.optim.LBFGS):
        for group in optimizer.param_groups:
            group["tolerance_change"] = group["tolerance_grad"] = NEVER
        optimizer.step = real_ops.allowing_value_reads()(optimizer.step)  # type: ignore[method-assign]


@rule(
    Kind.PATCH,
    "torch.amp.GradScaler",
    on=("cpu", "cuda"),
    when="always: gradients are taken to be finite, so that the optimizer makes its step",
    source="GradScaler._maybe_opt_step in torch/amp/grad_scaler.py reads whether a gradient is infinite",
)
@contextmanager
def finite_gradients(target: Target) -> Iterator[None]:
    scaler: Any = torch.amp.GradScaler
    original = getattr(scaler, "_maybe_opt_step", None)
    if original is None:
        yield
        return

    def step(self: Any, optimizer: Any, state: Any, *args: Any, **options: Any) -> Any:
        if is_fake_mode_active():
            return optimizer.step(*args, **options)
        return original(self, optimizer, state, *args, **options)

    scaler._maybe_opt_step = step
    try:
        yield
    finally:
        scaler._maybe_opt_step = original
