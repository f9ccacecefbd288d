"""The device ``"cuda"`` in a program: where fake tensors are, though they say they are on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Final

import torch

from torchprof.estimation.fake.callers import REPLACES, in_graph, replaced
from torchprof.estimation.fake.device_names import is_cuda
from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.target import Target
from torchprof.estimation.torch_private import CUDA_NAMES, DISPATCHER_RULES

CPU: Final = torch.device("cpu")
LIKE: Final = ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like")
NEW: Final = ("to", "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "new_empty_strided")
"""Methods that take a device."""
NOTHING: Final = ("cuda", "pin_memory")
"""Methods that return the tensor itself: it is there already; and memory of the host does not count."""


@rule(
    Kind.PATCH,
    "torch.Tensor.to",
    "torch.Tensor.cuda",
    on="cuda",
    when="the program names the device 'cuda'",
    source="dispatch_to in tools/autograd/templates/python_variable_methods.cpp: a tensor that is there is returned",
)
@contextmanager
def cuda_devices(target: Target) -> Iterator[None]:
    """``"cuda"`` is where fake tensors are, until the block ends."""
    constructors = {function.__name__ for function in CUDA_NAMES.constructors()}
    with ExitStack() as stack:
        for owner, names, wrapper in (
            (torch, (*constructors, *LIKE), _with_device),
            (torch.fft, ("fftfreq", "rfftfreq"), _with_device),
            (torch.Tensor, NEW, _with_device),
            (torch.Tensor, NOTHING, _unchanged),
            (DISPATCHER_RULES.FunctionalTensor, ("cuda",), _unchanged),  # a compiler's, which asks which GPU it is
            (torch.Tensor, ("record_stream",), _ignored),
            (torch.nn.Module, ("to", "cuda"), _stays),
        ):
            for name in names:
                if hasattr(owner, name):
                    stack.enter_context(replaced(owner, name, wrapper(getattr(owner, name))))
        if is_cuda(CUDA_NAMES.devices.CURRENT_DEVICE):  # that of torch.set_default_device
            stack.enter_context(CPU)
        context = CUDA_NAMES.devices.DeviceContext
        stack.enter_context(replaced(context, "__init__", _of_device(context.__init__)))
        yield


def _with_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which takes the CPU for CUDA."""
    is_method = function.__name__ == "to"

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if not in_graph():
            return function(*args, **options)
        if any(map(is_cuda, args[1:])):
            args = (args[0], *(CPU if is_cuda(arg) else arg for arg in args[1:]))
        if is_method and len(args) > 1 and type(args[1]) is int:
            args = (args[0], CPU, *args[2:])
        device = options.get("device")
        if is_cuda(device) or type(device) is int:
            options["device"] = CPU
        return function(*args, **options)

    setattr(call, REPLACES, function)
    return call


def _of_device(make: Callable[..., None]) -> Callable[..., None]:
    """What a block ``with torch.device("cuda")`` is made with."""

    @wraps(make)
    def init(self: Any, device: Any) -> None:
        make(self, CPU if in_graph() and is_cuda(device) else device)

    return init


def _unchanged(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(self: torch.Tensor, *args: Any, **options: Any) -> Any:
        return self if in_graph() else function(self, *args, **options)

    return call


def _stays(function: Callable[..., Any]) -> Callable[..., Any]:
    """A module is there already; only a dtype is another."""

    @wraps(function)
    def call(self: torch.nn.Module, *args: Any, **options: Any) -> Any:
        if not in_graph():
            return function(self, *args, **options)
        args = tuple(arg for arg in args if not is_cuda(arg) and type(arg) is not int)
        if is_cuda(options.get("device")) or type(options.get("device")) is int:
            del options["device"]
        moves_only = function.__name__ == "cuda" or not (args or options.keys() - {"non_blocking"})
        return self if moves_only else function(self, *args, **options)

    return call


def _ignored(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(self: torch.Tensor, stream: Any) -> None:
        if not in_graph():
            function(self, stream)

    return call
