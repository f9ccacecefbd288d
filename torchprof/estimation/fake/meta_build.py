"""Where a model is built on ``meta``: what scripts do there as on a machine with a GPU, and what they compute and read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from torchprof.errors import EstimateError
from torchprof.estimation.fake.callers import program_builds, replaced
from torchprof.estimation.fake.device_names import is_cuda
from torchprof.estimation.torch_private import ESTIMATE

__all__ = ["on_meta"]

EMPTY_LIKE: Final = torch.empty_like
"""PyTorch's own, in whose place rules may put another."""
META: Final = torch.device("meta")
CPU: Final = torch.device("cpu")
FEW: Final = 4096
"""Elements up to which values are kept beside a tensor on meta: rates, sizes and tables that a build computes and reads."""
MADE_KNOWN: Final = frozenset("tensor as_tensor arange linspace logspace range full zeros ones eye scalar_tensor".split())
"""Functions that make tensors whose values follow from their arguments."""
UNKNOWN: Final = ("empty", "rand", "bernoulli", "normal", "uniform", "multinomial", "dropout", "exponential", "geometric")
"""What is in the names of functions whose values do not."""
READS: Final = frozenset(
    "item tolist numpy __float__ __int__ __bool__ __index__ __complex__ __array__ __format__ __contains__ equal allclose "
    "is_nonzero".split()
)
"""Functions that return values of tensors."""


Checks = Mapping[Any, Callable[[Any, Any], None]]


@contextmanager
def on_meta(checks: Checks = MappingProxyType({})) -> Iterator[None]:
    """Tensors are made on ``meta`` and stay there, and ``torch.cuda`` answers as in a step, until the block ends.

    Args:
        checks: of functions, what raises where their arguments, positional and by name, are wrong.
    """
    with ExitStack() as stack:
        stack.enter_context(META)
        stack.enter_context(_StaysOnMeta(checks))
        stack.enter_context(replaced(nn.Module, "to", _to_a_number(nn.Module.to)))
        stack.enter_context(program_builds())
        yield


def _to_a_number(to: Callable[..., Any]) -> Callable[..., Any]:
    """``module.to(0)``: a number is that of a GPU, also where PyTorch finds none."""

    @wraps(to)
    def call(self: nn.Module, *args: Any, **options: Any) -> Any:
        if args:
            args = (_gpu(args[0]), *args[1:])
        if "device" in options:
            options["device"] = _gpu(options["device"])
        return to(self, *args, **options)

    return call


def _gpu(device: Any) -> Any:
    return torch.device("cuda", device) if type(device) is int else device


class _StaysOnMeta(TorchFunctionMode):
    """What a program puts on a GPU, or takes from there, stays on meta. Of few elements the values are known, if they can be.

    They are computed a second time, on the CPU, where all that goes in is known.
    """

    def __init__(self, checks: Checks) -> None:
        super().__init__()
        self._checks = checks
        self._values: Any = WeakIdKeyDictionary()
        self._overwritten: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in READS:
            return self._read(func, args, kwargs or {})
        if func is torch.Tensor.__iter__:
            return iter(self.__torch_function__(torch.Tensor.unbind, types, args))
        if func is torch.device:  # a name, of where something may be put later
            return func(*args, **(kwargs or {}))
        first = args[0] if args else None
        is_tensor = isinstance(first, torch.Tensor)
        if func is torch.Tensor.cuda or (func is torch.Tensor.cpu and first is not None and first.is_meta):
            return first
        if is_tensor and not kwargs and len(args) == 1:  # such as what a tensor is asked for, over and over
            done = func(*args)
            if self._values and isinstance(done, torch.Tensor | tuple | list) and first in self._values:
                self._keep(func, name, args, {}, done)
            return done
        given, options = args, dict(kwargs or {})
        if (check := self._checks.get(func)) is not None:
            check(args, options)
        stays = func is torch.Tensor.to and is_tensor and args[0].is_meta
        args = (*args[:1], *(META if func is torch.Tensor.to and type(value) is int else value for value in args[1:]))
        args = tuple(_on_meta(value, stays=stays) for value in args)
        kwargs = {each: _on_meta(value, stays=stays) for each, value in options.items()}
        if type(kwargs.get("device")) is int or (func is EMPTY_LIKE and is_tensor and args[0].is_meta):
            kwargs["device"] = META  # the latter: model.to_empty(device="cpu"), for shards that stay on the host
        done = func(*args, **kwargs)
        if name in MADE_KNOWN or (self._values and self._any_known((*given, *options.values()))):
            self._keep(func, name, given, options, done)
        return done

    def _any_known(self, values: tuple[Any, ...]) -> bool:
        """Whether the values of any of these tensors, or of what lists of them hold, were known."""
        listed = (each for value in values for each in (value if isinstance(value, list | tuple) else (value,)))
        return any(isinstance(each, torch.Tensor) and each in self._values for each in listed)

    def _keep(self, func: Any, name: str, args: Any, kwargs: dict[str, Any], done: Any) -> None:
        """Compute the values of what a function has made or changed, or forget them where they are not known."""
        results = [each for each in _leaves(done) if type(each) is torch.Tensor]
        tensors = [each for each in _leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        if not any(each.is_meta for each in (*tensors, *results)):
            return  # it ran, and is not to run again
        written = [each for each in _leaves(kwargs.get("out")) if isinstance(each, torch.Tensor)]
        if name == "__setitem__":
            written = tensors[:1]
        elif name.startswith("__i") or (name.endswith("_") and not name.endswith("__")):
            written += [each for each in tensors if any(each is result for result in results)]
        if not written and not any(each.is_meta and each.numel() <= FEW for each in results):
            return
        known = all(map(self._is_known, tensors)) and all(each.is_meta for each in written)
        if known and (tensors or name in MADE_KNOWN) and not any(word in name for word in UNKNOWN):
            values = self._computed(func, args, kwargs)
            if values is not None and (name == "__setitem__" or len(values) == len(results)):
                for each, value in zip(results, values, strict=False):
                    if each.is_meta and each.shape == value.shape:
                        self._values[each] = value
                return
        for each in written:
            if (value := self._values.get(each)) is not None:
                self._overwritten.add(value.untyped_storage()._cdata)

    def _computed(self, func: Any, args: Any, kwargs: dict[str, Any]) -> list[torch.Tensor] | None:
        """The tensors that a function returns where it is given the values; None where it cannot be run on the CPU."""
        try:
            with ESTIMATE.DisableTorchFunction(), torch.no_grad():
                given, options = ESTIMATE.tree_map(self._value, (tuple(args), kwargs))
                if func is torch.Tensor.to:
                    given = tuple(CPU if type(each) is int else each for each in given)
                if type(options.get("device")) is int:
                    options["device"] = CPU
                return [each for each in _leaves(func(*given, **options)) if type(each) is torch.Tensor]
        except Exception:
            return None

    def _is_known(self, tensor: torch.Tensor) -> bool:
        if not tensor.is_meta:
            return type(tensor) is torch.Tensor
        value = self._values.get(tensor)
        return value is not None and value.untyped_storage()._cdata not in self._overwritten

    def _value(self, given: Any) -> Any:
        if isinstance(given, torch.Tensor):
            return self._values.get(given, given)
        is_device = isinstance(given, torch.device) or is_cuda(given) or given == "meta"
        return CPU if is_device else given

    def _read(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        tensors = [each for each in args if isinstance(each, torch.Tensor)]
        if any(each.is_meta for each in tensors) and all(map(self._is_known, tensors)):
            with ESTIMATE.DisableTorchFunction():
                return func(*map(self._value, args), **kwargs)
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:  # NotImplementedError is one
            if "meta" not in str(error):
                raise
            raise EstimateError(
                "the function that builds the model reads values of a tensor (.item(), .tolist(), .numpy(), float(tensor)), "
                "and it runs on meta tensors, which have none: compute them with device='cpu', or of Python's numbers"
            ) from error


def _on_meta(value: Any, *, stays: bool) -> Any:
    """A device where a tensor is put; ``stays``: it is on meta, and nothing takes it from there."""
    if isinstance(value, str):
        return "meta" if is_cuda(value) or (stays and value.partition(":")[0] == "cpu") else value
    return META if isinstance(value, torch.device) and (stays or is_cuda(value)) else value


def _leaves(value: Any) -> list[Any]:
    """What is in lists, tuples and dicts, one inside the other."""
    leaves: list[Any] = ESTIMATE.tree_flatten(value)[0]
    return leaves
