"""Keeps results of fake kernels: an op called again with arguments of the same shapes runs no fake kernel.

FakeTensorMode has such a cache too. This one is in front of it: it covers fewer cases, and is several times as fast. It keeps
how results are made anew (`torchprof.estimation.fake.recipes`). Tensors with known values, and what is not plain strided, go to
FakeTensorMode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import torch

from torchprof.estimation.fake.equal_elements import BY_ELEMENT, Kinds, kinds_of, lists_of
from torchprof.estimation.fake.recipes import CPU, META, Fakes, Recipe, Same, Several, recipe_of
from torchprof.estimation.torch_private import ESTIMATE

__all__ = ["FakeOpCache"]

FakeTensor = ESTIMATE.FakeTensor
OpOverload = ESTIMATE.OpOverload

PLAIN: Final = frozenset(
    {int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size}
)
COMPLEX: Final = frozenset({torch.complex32, torch.complex64, torch.complex128})
REAL: Final = frozenset({torch.Tensor, torch.nn.Parameter})
RESHAPES: Final = frozenset({"aten::resize_", "aten::resize_as_", "aten::set_", "aten::_resize_output_"})

KNOWN: Final = "known"
"""Shown of a tensor of known values that has none: no result depends on them, and an op that writes to it makes it unknown."""

Run = Callable[[Any, Any], Any]
"""What the fake kernel of an op returns for these arguments and keyword arguments."""


class Unusual(Exception):
    """An argument of which its shape does not say everything."""


class FakeOpCache:
    """The results that one mode keeps.

    Attributes:
        takes_meta: whether real tensors on ``meta`` are arguments like others, by their shapes.
    """

    def __init__(self, mode: Any) -> None:
        self.takes_meta = False
        self._fakes = Fakes(mode)
        self._kept: dict[Any, Recipe] = {}
        self._by_element: dict[Any, bool] = {}

    def returned(self, func: Any, args: Any, kwargs: Any, run: Run) -> Any:
        """What an op returns: made as it was before, or by its fake kernel, and then it is kept how."""
        kinds = self._kinds(func, args, kwargs)
        if kinds is not None:
            return self._of_kinds(kinds, func, args, kwargs, run)
        key = self.key(func, args, kwargs)
        if key is None:
            return run(args, kwargs)
        recipe = self._kept.get(key)
        if recipe is not None:
            return recipe.made(self._fakes, args)
        returned = run(args, kwargs)
        self._keep(key, func, args, kwargs, returned)
        return returned

    def recipe(self, func: Any, args: Any, kwargs: Any) -> Recipe | None:
        """How what an op returns is made; None where it was not run yet for such arguments."""
        key = self.key(func, args, kwargs)
        return None if key is None else self._kept.get(key)

    def made(self, recipe: Recipe, args: Any) -> Any:
        """What an op returns for these arguments."""
        return recipe.made(self._fakes, args)

    def _of_kinds(self, kinds: Kinds, func: Any, args: Any, kwargs: Any, run: Run) -> Any:
        """What an op on lists returns, whose fake kernel is run for the elements that are unlike each other."""
        lists = lists_of(args, kwargs.values())
        short = [kinds.shortened(arg) if place in lists else arg for place, arg in enumerate(args)]
        key = self.key(func, short, kwargs)
        if key is None:
            return run(args, kwargs)
        if key not in self._kept:
            self._keep(key, func, short, kwargs, run(short, kwargs))
        recipe = self._kept.get(key)
        if isinstance(recipe, Several):
            return [each.made(self._fakes, args) for each in kinds.lengthened(recipe.parts)]
        return recipe.made(self._fakes, args) if isinstance(recipe, Same) else run(args, kwargs)

    def key(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What the result depends on; None where that is more than shapes and plain values."""
        shown = [func, torch.get_default_dtype()]
        try:
            self._show(args, shown)
            if kwargs:
                self._show(kwargs, shown)
                self._show(kwargs.values(), shown)
        except Unusual:
            return None
        return tuple(shown)

    def _keep(self, key: Any, func: Any, args: Any, kwargs: Any, returned: Any) -> None:
        """Keep how what an op returned is made, if it can be made anew."""
        if not isinstance(func, OpOverload) or torch.Tag.inplace_view in func.tags:
            return
        if torch.Tag.dynamic_output_shape in func.tags or func._schema.name in RESHAPES:
            return
        changes = func._schema.is_mutable
        recipe = recipe_of(returned, args, kwargs, changes=changes)
        if recipe is not None and not (changes and KNOWN in key):
            self._kept[key] = recipe

    def is_by_element(self, func: Any) -> bool:
        """Whether an op works on each element of its lists alone."""
        found = self._by_element.get(func)
        if found is None:
            found = self._by_element[func] = func.name().startswith(BY_ELEMENT)
        return found

    def _kinds(self, func: Any, args: Any, kwargs: Any) -> Kinds | None:
        """Which elements of the lists that an op works on are equal; None where none are, or where it does something else."""
        if not self.is_by_element(func):
            return None
        try:
            return kinds_of(lists_of(args, kwargs.values()).values(), self._shown)
        except Unusual:
            return None

    def _shown(self, value: Any) -> tuple[Any, ...]:
        shown: list[Any] = []
        self._show((value,), shown)
        return tuple(shown)

    def _show(self, values: Iterable[Any], shown: list[Any]) -> None:
        """Add to a list what is equal for values that an op does the same with."""
        for value in values:
            kind = type(value)
            if kind is FakeTensor:
                dtype = value.dtype
                if dtype in COMPLEX or value.layout is not torch.strided or value.fake_device != CPU:
                    raise Unusual
                shown += (kind, value.shape, value.stride(), dtype, value.storage_offset())
                if value.constant is not None:
                    if value.numel():
                        raise Unusual
                    shown.append(KNOWN)
            elif kind in PLAIN:
                shown += (kind, value)  # 1, 1.0 and True are the same key
            elif kind is tuple or kind is list:
                shown += (list, len(value))
                self._show(value, shown)
            elif self.takes_meta and kind in REAL and value.is_meta and value.layout is torch.strided:
                shown += (META, value.shape, value.stride(), value.dtype, value.storage_offset())
            else:
                raise Unusual
