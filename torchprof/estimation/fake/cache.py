"""Keeps results of fake kernels: an op called again with arguments of the same shapes runs no fake kernel.

FakeTensorMode has such a cache too. This one is in front of it: it covers fewer cases, and is several times as fast. It keeps
results that are new tensors, one view of the first argument, or an argument written in place. Tensors with known values, and
what is not plain strided, go to FakeTensorMode.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from torchprof.estimation.torch_private import ESTIMATE

__all__ = ["MISS", "FakeOpCache"]

FakeTensor = ESTIMATE.FakeTensor
OpOverload = ESTIMATE.OpOverload
in_kernel_invocation_manager = ESTIMATE.in_kernel_invocation_manager
make_subclass = ESTIMATE.make_subclass
throw_on_data_ptr = ESTIMATE.throw_on_data_ptr

MISS: Final = object()
"""In place of a result: none is kept."""

CPU: Final = torch.device("cpu")
PLAIN: Final = frozenset(
    {int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size}
)
RESHAPES: Final = frozenset({"aten::resize_", "aten::resize_as_", "aten::set_", "aten::_resize_output_"})


class Unusual(Exception):
    """An argument of which its shape does not say everything."""


class FakeOpCache:
    """The results that one mode keeps."""

    def __init__(self, mode: Any) -> None:
        self._mode = mode
        self._kept: dict[Any, Any] = {}
        self._attributes: dict[str, Any] = {}

    def key(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What the result depends on; None where that is more than shapes and plain values."""
        try:
            return (func, torch.get_default_dtype(), _shown(args), _shown(tuple(kwargs.items())) if kwargs else None)
        except Unusual:
            return None

    def find(self, key: Any, args: Any) -> Any:
        """What an op returns, made anew from what is kept; or ``MISS``."""
        kept = self._kept.get(key, MISS)
        if kept is MISS or kept is None:
            return kept
        if isinstance(kept, int):
            return args[kept]
        if isinstance(kept, _New):
            return self._made(kept)
        return self._viewed(kept, args[0]) if isinstance(kept, _View) else tuple(map(self._made, kept))

    def keep(self, key: Any, func: Any, args: Any, returned: Any) -> None:
        """Keep what an op returned, if it can be made anew."""
        if not isinstance(func, OpOverload) or torch.Tag.inplace_view in func.tags:
            return
        if torch.Tag.dynamic_output_shape in func.tags or func._schema.name in RESHAPES:
            return
        if returned is None and func._schema.is_mutable:
            self._kept[key] = None
        elif isinstance(returned, FakeTensor):
            same = [place for place, arg in enumerate(args) if arg is returned]
            found: Any = same[0] if same else None
            if found is None and not func._schema.is_mutable:
                found = _View.of(returned, args) or _New.of(returned, args)
            if found is not None:
                self._kept[key] = found
        elif isinstance(returned, tuple) and not func._schema.is_mutable:
            parts = [_New.of(part, args) if isinstance(part, FakeTensor) else None for part in returned]
            if all(parts):
                self._kept[key] = tuple(parts)

    def _made(self, new: _New) -> torch.Tensor:
        if new.whole is None:
            made = torch.empty_strided(new.shape, new.stride, dtype=new.dtype, device="meta")
        else:
            made = torch.empty(new.whole, dtype=new.dtype, device="meta").as_strided(new.shape, new.stride)
        return self._fake(made)

    def _fake(self, made: torch.Tensor) -> torch.Tensor:
        """As ``FakeTensor(self._mode, made, CPU)``, in a third of the time: all have the attributes of the first."""
        if not self._attributes:
            first: torch.Tensor = FakeTensor(self._mode, made, CPU)
            self._attributes.update(vars(first))
            return first
        fake: torch.Tensor = make_subclass(FakeTensor, made, False, dispatch_device=True, device_for_backend_keys=CPU)
        throw_on_data_ptr(fake)
        vars(fake).update(self._attributes)
        return fake

    def _viewed(self, view: _View, base: torch.Tensor) -> torch.Tensor:
        if torch.is_inference_mode_enabled() and not base.is_inference():
            with torch.inference_mode(False):  # a view is a tensor of the kind that its base is
                return self._viewed(view, base)
        storage = base.untyped_storage()
        with in_kernel_invocation_manager(self._mode):
            made = torch.empty(0, dtype=view.dtype, device="meta")
            made.set_(storage, view.offset, view.shape, view.stride)
        return self._fake(made)


class _View:
    """How a view of the first argument is made."""

    __slots__ = ("dtype", "offset", "shape", "stride")

    def __init__(self, tensor: torch.Tensor) -> None:
        self.shape, self.stride, self.dtype = tensor.shape, tensor.stride(), tensor.dtype
        self.offset = int(tensor.storage_offset())

    @staticmethod
    def of(tensor: Any, args: Any) -> _View | None:
        base = args[0] if args else None
        if not isinstance(base, FakeTensor) or tensor.layout is not torch.strided or base.layout is not torch.strided:
            return None
        if tensor.constant is not None or tensor.is_conj() or tensor.is_neg():
            return None
        shared = tensor.untyped_storage()._cdata == base.untyped_storage()._cdata
        return _View(tensor) if shared and tensor.fake_device == CPU and not base.is_neg() else None


class _New:
    """How a new tensor is made.

    Attributes:
        whole: how many elements its storage has, where it is part of a larger one.
    """

    __slots__ = ("dtype", "shape", "stride", "whole")

    def __init__(self, tensor: Any, whole: int | None) -> None:
        self.shape, self.stride, self.dtype, self.whole = tensor.shape, tensor.stride(), tensor.dtype, whole

    @staticmethod
    def of(tensor: Any, args: Any) -> _New | None:
        if tensor.constant is not None or tensor.layout is not torch.strided or tensor.fake_device != CPU:
            return None
        reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        needed = reach * tensor.itemsize if tensor.numel() else 0
        storage = tensor.untyped_storage()
        if tensor.storage_offset() or storage.nbytes() < needed or tensor.is_conj() or tensor.is_neg():
            return None
        whole = storage.nbytes() // tensor.itemsize if storage.nbytes() > needed else None
        flat = [part for arg in args for part in (arg if isinstance(arg, list | tuple) else (arg,))]
        shared = any(isinstance(arg, torch.Tensor) and arg.untyped_storage()._cdata == storage._cdata for arg in flat)
        return None if shared else _New(tensor, whole)


def _shown(value: Any) -> Any:
    kind = type(value)
    if kind is FakeTensor:
        if (
            value.constant is not None
            or value.fake_device != CPU
            or value.dtype.is_complex
            or value.layout is not torch.strided
        ):
            raise Unusual
        return value.shape, value.stride(), value.dtype, value.storage_offset()
    if kind is tuple or kind is list:
        return tuple(map(_shown, value))
    if kind in PLAIN:
        return kind, value  # 1, 1.0 and True are the same key
    raise Unusual
