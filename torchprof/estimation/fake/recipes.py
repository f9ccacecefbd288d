"""How what an op returned is made anew: new tensors, views of an argument, an argument itself, and lists of these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import torch

from torchprof.estimation.torch_private import ESTIMATE

__all__ = ["CPU", "META", "Fakes", "Recipe", "Same", "Several", "empty_strided", "recipe_of"]

FakeTensor = ESTIMATE.FakeTensor
DisableTorchDispatch = ESTIMATE.DisableTorchDispatch
make_subclass = ESTIMATE.make_subclass
throw_on_data_ptr = ESTIMATE.throw_on_data_ptr
empty, empty_strided = torch.empty, torch.empty_strided  # as they are where no estimate has others in their place

CPU: Final = torch.device("cpu")
META: Final = torch.device("meta")
SAME: Final = frozenset({type(None), int, float, bool})
"""What an op returns beside tensors, and returns again."""


class Fakes:
    """Makes fake tensors of one mode, which say that they are on the CPU."""

    def __init__(self, mode: Any) -> None:
        self._mode = mode
        self._attributes: dict[str, Any] = {}

    def of(self, made: torch.Tensor) -> torch.Tensor:
        """As ``FakeTensor(self._mode, made, CPU)``, in a third of the time: all have the attributes of the first."""
        if not self._attributes:
            first: torch.Tensor = FakeTensor(self._mode, made, CPU)
            self._attributes.update(vars(first))
            return first
        fake: torch.Tensor = make_subclass(FakeTensor, made, False, dispatch_device=True, device_for_backend_keys=CPU)
        throw_on_data_ptr(fake)
        fake.__dict__ = self._attributes.copy()
        return fake


class Recipe(Protocol):
    """How one result is made, or all of an op are."""

    def made(self, fakes: Fakes, args: Sequence[Any]) -> Any:
        """The result of the op for these arguments."""


def recipe_of(returned: Any, args: Sequence[Any], kwargs: Any, *, changes: bool) -> Recipe | None:
    """How what an op returned for these arguments is made; None where that cannot be said.

    Args:
        changes: whether the op writes to an argument, which is then the only thing that it may return.
    """
    if returned is None:
        return Same(None) if changes else None
    if not isinstance(returned, list | tuple):
        return _recipe_of(returned, args, kwargs, changes)
    if changes or type(returned) not in (list, tuple):
        return None
    parts = [Same(part) if type(part) in SAME else _recipe_of(part, args, kwargs, changes) for part in returned]
    new = [part.untyped_storage()._cdata for part, recipe in zip(returned, parts, strict=True) if isinstance(recipe, New)]
    known = all(parts) and len(new) == len(set(new))
    return Several(type(returned), parts) if known else None  # type: ignore[arg-type]


def _recipe_of(returned: Any, args: Sequence[Any], kwargs: Any, changes: bool) -> Recipe | None:
    if not isinstance(returned, FakeTensor):
        return None
    same = [place for place, arg in enumerate(args) if arg is returned]
    if same:
        return Argument(same[0])
    if changes or returned.constant is not None or returned.layout is not torch.strided or returned.fake_device != CPU:
        return None
    if returned.is_conj() or returned.is_neg():
        return None
    storage = returned.untyped_storage()._cdata
    given = [(place, arg) for place, arg in enumerate(args)]
    given += [(-1, part) for arg in (*args, *kwargs.values()) if isinstance(arg, list | tuple) for part in arg]
    given += [(-1, arg) for arg in kwargs.values()]
    strided = [(place, arg) for place, arg in given if isinstance(arg, torch.Tensor) and arg.layout is torch.strided]
    shared = [(place, arg) for place, arg in strided if arg.untyped_storage()._cdata == storage]
    if not shared:
        return New.of(returned)
    place, base = shared[0]
    return View(place, returned) if len(shared) == 1 and place >= 0 and not base.is_neg() else None


class Same:
    """Not a tensor: what is returned is always this."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def made(self, fakes: Fakes, args: Sequence[Any]) -> Any:
        return self.value


class Argument:
    """An argument, by its place."""

    __slots__ = ("place",)

    def __init__(self, place: int) -> None:
        self.place = place

    def made(self, fakes: Fakes, args: Sequence[Any]) -> Any:
        return args[self.place]


class View:
    """A view of an argument."""

    __slots__ = ("dtype", "offset", "place", "shape", "stride")

    def __init__(self, place: int, tensor: torch.Tensor) -> None:
        self.place = place
        self.shape, self.stride, self.dtype = tensor.shape, tensor.stride(), tensor.dtype
        self.offset = int(tensor.storage_offset())

    def made(self, fakes: Fakes, args: Sequence[Any]) -> torch.Tensor:
        base = args[self.place]
        if torch.is_inference_mode_enabled() and not base.is_inference():
            with torch.inference_mode(False):  # a view is a tensor of the kind that its base is
                return self.made(fakes, args)
        storage = base.untyped_storage()
        no_modes = DisableTorchDispatch()
        try:
            made = empty(0, dtype=self.dtype, device=META)
            made.set_(storage, self.offset, self.shape, self.stride)
        finally:
            del no_modes
        return fakes.of(made)


class New:
    """A new tensor.

    Attributes:
        whole: how many elements its storage has, where it is part of a larger one.
    """

    __slots__ = ("dtype", "shape", "stride", "whole")

    def __init__(self, tensor: torch.Tensor, whole: int | None) -> None:
        self.shape, self.stride, self.dtype, self.whole = tensor.shape, tensor.stride(), tensor.dtype, whole

    @staticmethod
    def of(tensor: torch.Tensor) -> New | None:
        reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        needed = reach * tensor.itemsize if tensor.numel() else 0
        storage = tensor.untyped_storage()
        if tensor.storage_offset() or storage.nbytes() < needed:
            return None
        return New(tensor, storage.nbytes() // tensor.itemsize if storage.nbytes() > needed else None)

    def made(self, fakes: Fakes, args: Sequence[Any]) -> torch.Tensor:
        if self.whole is None:
            return fakes.of(empty_strided(self.shape, self.stride, dtype=self.dtype, device=META))
        return fakes.of(empty(self.whole, dtype=self.dtype, device=META).as_strided(self.shape, self.stride))


class Several:
    """A list or tuple of results."""

    __slots__ = ("kind", "parts")

    def __init__(self, kind: type, parts: Sequence[Recipe]) -> None:
        self.kind, self.parts = kind, parts

    def made(self, fakes: Fakes, args: Sequence[Any]) -> Any:
        return self.kind([part.made(fakes, args) for part in self.parts])
