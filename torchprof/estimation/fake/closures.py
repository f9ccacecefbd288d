"""Functions that a copied model keeps: ``copy.deepcopy`` leaves them as they are, so that they would run the original.

Such are a wrapper around ``forward``, a hook that knows a module, and ``module.forward = torch.compile(module.forward)``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from types import CellType, FunctionType, MethodType
from typing import Any, Final

from torch import nn

__all__ = ["rebind"]

MAPPINGS: Final = (dict,)  # OrderedDict is one
SEQUENCES: Final = (list, tuple)


def rebind(modules: Iterable[nn.Module], memo: dict[int, Any]) -> None:
    """Have functions among the attributes and hooks of copied modules use the copies.

    Args:
        modules: the copies.
        memo: of ``copy.deepcopy``: by id of the original, its copy.
    """
    rebinding = _Rebinding(memo)
    for module in modules:
        attributes = vars(module)
        for name, value in list(attributes.items()):
            attributes[name] = rebinding.inside(value)


class _Rebinding:
    def __init__(self, memo: dict[int, Any]) -> None:
        self._copies = memo
        self._made: dict[int, Any] = {}  # by id of a function: the new one, or itself

    def inside(self, value: Any) -> Any:
        """An attribute of a copy: a container in it is the copy's own, and changed in place."""
        items = enumerate(value) if type(value) is list else value.items() if isinstance(value, MAPPINGS) else None
        if items is None:
            return self._of(value)
        for key, item in list(items):
            if (new := self._of(item)) is not item:
                value[key] = new
        return value

    def _of(self, value: Any) -> Any:
        """A value, or what takes its place."""
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, MethodType):
            owner, function = self._known(value.__self__), self._of(value.__func__)
            changed = owner is not value.__self__ or function is not value.__func__
            return MethodType(function, owner) if changed else value
        if type(value) is functools.partial:
            parts = (value.func, value.args, value.keywords)
            new = tuple(map(self._held, parts))
            return functools.partial(new[0], *new[1], **new[2]) if any(map(_differ, parts, new)) else value
        return value

    def _function(self, function: FunctionType) -> Any:
        if id(function) in self._made:
            return self._made[id(function)]
        self._made[id(function)] = function  # as one that calls itself finds
        compiled = getattr(function, "_torchdynamo_orig_callable", None)
        if compiled is not None:
            new = self._of(compiled)
            self._made[id(function)] = function if new is compiled else new
            return self._made[id(function)]
        held = [cell.cell_contents if _is_filled(cell) else None for cell in function.__closure__ or ()]
        parts = (held, function.__defaults__, function.__kwdefaults__)
        new_held, defaults, keyword_defaults = new = tuple(map(self._held, parts))
        if not any(map(_differ, parts, new)):
            return function
        cells = tuple(
            CellType(item) if _is_filled(cell) else cell
            for cell, item in zip(function.__closure__ or (), new_held, strict=True)
        )
        made = FunctionType(function.__code__, function.__globals__, function.__name__, defaults, cells)
        made.__kwdefaults__, made.__qualname__ = keyword_defaults, function.__qualname__
        made.__dict__.update(function.__dict__)
        self._made[id(function)] = made
        return made

    def _held(self, value: Any) -> Any:
        """What a function holds: the copy of something that was copied, or a container with such in it."""
        known = self._known(value)
        if known is not value:
            return known
        if isinstance(value, MAPPINGS):
            new = {key: self._held(item) for key, item in value.items()}
            return new if any(_differ(value[key], new[key]) for key in value) else value
        if type(value) in SEQUENCES:
            items = [self._held(item) for item in value]
            return type(value)(items) if any(map(_differ, value, items)) else value
        return self._of(value)

    def _known(self, value: Any) -> Any:
        return self._copies.get(id(value), value)


def _differ(one: Any, other: Any) -> bool:
    return one is not other


def _is_filled(cell: CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
