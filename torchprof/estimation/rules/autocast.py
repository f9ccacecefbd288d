"""Autocast as on CUDA, for fake tensors, which say they are on the CPU: what it casts differs between the two."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Final

import torch

from torchprof import _native
from torchprof.estimation.fake.callers import by_program, in_graph
from torchprof.estimation.rules.autocast_policies import Policy, Treatment, treatments
from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.target import Target
from torchprof.estimation.torch_private import AUTOCAST_RULE, DISPATCHER_RULES, ESTIMATE
from torchprof.record.nested import find_tensors

aten = torch.ops.aten

KEY: Final = "AutocastCPU"
WITHOUT_A_COPY: Final = {aten.softmax.int: aten._softmax.default, aten.log_softmax.int: aten._log_softmax.default}
"""Kernels that read float16 and write float32."""
WITH_A_COPY: Final = (aten.cumsum.default, aten.cumprod.default)
"""Kernels that take a ``dtype`` and convert their input to it first."""
STATE: Final = ("is_autocast_enabled", "set_autocast_enabled", "get_autocast_dtype", "set_autocast_dtype")


@rule(
    Kind.PATCH,
    "torch.autocast",
    on="cuda",
    when="under autocast for 'cuda', or for the device type of fake tensors",
    source="the kernels that PyTorch registers for AutocastCUDA and AutocastCPU, asked one by one; their lists are in "
    "aten/src/ATen/autocast_mode.h",
)
@contextmanager
def autocast_of_cuda(target: Target) -> Iterator[None]:
    """Autocast for CUDA is that of fake tensors, until the block ends."""
    kernels = _Kernels()
    with ExitStack() as stack:
        stack.callback(kernels.remove)
        enabled, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
        stack.callback(torch.set_autocast_dtype, "cpu", dtype)
        stack.callback(torch.set_autocast_enabled, "cpu", enabled)
        # Not by torch.autocast, inside of which autocast of the program would keep what it has cast.
        torch.set_autocast_enabled("cpu", torch.is_autocast_enabled("cuda"))
        torch.set_autocast_dtype("cpu", torch.get_autocast_dtype("cuda"))
        if torch.is_autocast_enabled("cpu"):
            kernels.install()
        for owner, name, replaced in ((torch.autocast, "__init__", _made(kernels)), *_states(kernels)):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, replaced)
        yield


def _made(kernels: _Kernels) -> Callable[..., None]:
    make = torch.autocast.__init__

    @wraps(make)
    def init(self: torch.autocast, device_type: str, dtype: torch.dtype | None = None, *args: Any, **options: Any) -> None:
        if in_graph() and device_type in ("cuda", "cpu"):
            kernels.install()
            if device_type == "cuda":
                device_type, dtype = "cpu", dtype or torch.get_autocast_dtype("cuda")
        make(self, device_type, dtype, *args, **options)

    return init


def _states(kernels: _Kernels) -> Iterator[tuple[Any, str, Any]]:
    """Functions of `torch` that ask or set what is cast on CUDA, which some do where no device is named."""
    default_dtype = torch.get_autocast_dtype("cuda")
    for name in STATE:
        yield torch, name, _of_cpu(getattr(torch, name), kernels, default_dtype)


def _of_cpu(function: Callable[..., Any], kernels: _Kernels, default_dtype: torch.dtype) -> Callable[..., Any]:
    def of_device(*args: Any) -> Any:
        names_none = not args or not isinstance(args[0], str)
        if not by_program() or not (names_none or args[0] == "cuda"):
            return function(*args)
        if function.__name__ == "set_autocast_enabled":
            kernels.install()
        if function.__name__ == "get_autocast_dtype" and not function_of("cpu"):
            return default_dtype
        return function("cpu", *(args if names_none else args[1:]))

    function_of = torch.is_autocast_enabled
    return of_device


class _Kernels:
    """The kernels that the dispatcher runs under autocast, of ops that CUDA's treats otherwise than the CPU's."""

    def __init__(self) -> None:
        self._libraries: dict[str, Any] = {}  # by namespace: torchvision has kernels of its own
        self._ops: list[Any] = []
        self._installed = False

    def install(self) -> None:
        """Put them in place, once."""
        if self._installed:
            return
        self._installed = True
        try:
            _native.pause_recording()  # of the ops that are called to ask about them
            wanted, there = treatments("cuda"), treatments("cpu")
        finally:
            _native.resume_recording([], 0)
        self._ops = [op for op in {**wanted, **there} if _differ(wanted.get(op), there.get(op))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch says that there is another kernel
            for op in self._ops:
                kernel = _kernel(op, wanted.get(op, Treatment(Policy.NONE, op)), is_registered=op in there)
                if op.namespace not in self._libraries:
                    self._libraries[op.namespace] = torch.library.Library(op.namespace, "IMPL")  # type: ignore[no-untyped-call]
                self._libraries[op.namespace].impl(op, kernel, KEY, with_keyset=True)
        self._forget()

    def remove(self) -> None:
        for library in self._libraries.values():
            library._destroy()
        self._forget()

    def _forget(self) -> None:
        """Compilers dispatch in Python, which remembers the kernel of an op."""
        for op in self._ops:
            op._dispatch_cache.clear()


def _differ(one: Treatment | None, other: Treatment | None) -> bool:
    return (one and one.policy) != (other and other.policy)


def _kernel(op: Any, treatment: Treatment, *, is_registered: bool) -> Callable[..., Any]:
    fakes = (ESTIMATE.FakeTensor, DISPATCHER_RULES.FunctionalTensor)
    below = AUTOCAST_RULE.keys_below(getattr(AUTOCAST_RULE.DispatchKey, KEY))
    keys_of_autocast = AUTOCAST_RULE.DispatchKeySet(getattr(AUTOCAST_RULE.DispatchKey, KEY))
    others = torch.library.get_kernel(op, KEY).call_boxed if is_registered else None

    def run(keys: Any, *args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(tensor, fakes) for tensor in find_tensors((args, kwargs))):  # those of other threads
            return others(keys, *args, **kwargs) if others is not None else op.redispatch(keys & below, *args, **kwargs)
        if treatment.policy is Policy.NONE:
            return op.redispatch(keys & below, *args, **kwargs)
        if treatment.policy is Policy.REFUSED:
            raise RuntimeError(treatment.error)
        with AUTOCAST_RULE.ExcludeDispatchKeys(keys_of_autocast):
            return _treated(op, treatment, args, kwargs)

    return run


def _treated(op: Any, treatment: Treatment, args: Any, kwargs: Any) -> Any:
    if treatment.policy is Policy.FLOAT32_RESULT:
        return _with_float32_result(op, treatment.runs, args, kwargs)
    dtype = {Policy.LOWER: torch.get_autocast_dtype("cpu"), Policy.FLOAT32: torch.float32}.get(treatment.policy)
    if dtype is None:
        floats = {tensor.dtype for tensor in find_tensors((args, kwargs)) if _is_cast(tensor)}
        dtype = torch.float32 if len(floats) != 1 else next(iter(floats))
    args, kwargs = ESTIMATE.tree_map_only(torch.Tensor, lambda part: part.to(dtype) if _is_cast(part) else part, (args, kwargs))
    return op(*args, **kwargs)


def _with_float32_result(op: Any, runs: Any, args: Any, kwargs: Any) -> Any:
    arguments = op._schema.arguments
    defaults = {argument.name: argument.default_value for argument in arguments if not argument.kwarg_only}
    given = {**defaults, **dict(zip((argument.name for argument in arguments), args, strict=False)), **kwargs}
    first = args[0]
    if not _is_cast(first) or given.get("dtype") is not None:
        return op(*args, **kwargs)
    if op in WITHOUT_A_COPY and first.dtype is torch.float16:
        return WITHOUT_A_COPY[op](first, given["dim"], True)
    if op in WITH_A_COPY:
        first = first.float()
    positional = [first if name == "self" else value for name, value in given.items() if name not in kwargs and name != "dtype"]
    return runs(*positional, **{**kwargs, "dtype": torch.float32})


def _is_cast(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype is not torch.float64
