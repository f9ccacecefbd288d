"""How ops on lists of sharded tensors shard them, found once for equal ones: a model of equal layers has hundreds of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any, Final

from torchprof.estimation.fake.callers import replaced
from torchprof.estimation.torch_private import SHARDING

__all__ = ["equal_layouts_found_once"]

BY_ELEMENT: Final = ("aten::_foreach_", "aten::_amp_foreach_", "aten::_fused_")
"""What the names of ops begin with that work on each element of their lists alone, as DTensor tells them too."""


@contextmanager
def equal_layouts_found_once() -> Iterator[None]:
    """DTensor looks at the first of equal elements of a list, and takes the others to be as that one, until the block ends."""
    propagator, name = SHARDING.ShardingPropagator, "propagate_op_sharding_non_cached"
    with replaced(propagator, name, _once(getattr(propagator, name))):
        yield


def _once(propagate: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(propagate)
    def propagated(self: Any, schema: Any) -> Any:
        found = Equal.of(schema) if schema.op.name().startswith(BY_ELEMENT) else None
        if found is None:
            return propagate(self, schema)
        return found.for_all(propagate(self, found.shortened))

    return propagated


class Equal:
    """The arguments of an op on lists, some of whose elements are equal.

    Args:
        schema: the op and its arguments, as DTensor describes them.
        lists: which arguments are lists of one element for each.
        firsts: the places of elements that are unlike those before them.
        kinds: for each place, which of ``firsts`` its element is equal to.

    Attributes:
        shortened: the same with the elements that are unlike each other.
    """

    def __init__(self, schema: Any, lists: frozenset[int], firsts: Sequence[int], kinds: Sequence[int]) -> None:
        self._schema, self._lists, self._kinds = schema, lists, kinds
        args = (
            type(arg)(arg[first] for first in firsts) if place in lists else arg for place, arg in enumerate(schema.args_schema)
        )
        self.shortened = SHARDING.OpSchema(schema.op, tuple(args), schema.kwargs_schema, schema_info=schema.schema_info)

    @classmethod
    def of(cls, schema: Any) -> Equal | None:
        """Those of an op; None where no elements are equal."""
        args = schema.args_schema
        lists = {place: arg for place, arg in enumerate(args) if isinstance(arg, list | tuple) and arg}
        lengths = {len(arg) for arg in lists.values()}
        if len(lengths) != 1 or any(isinstance(arg, list | tuple) for arg in schema.kwargs_schema.values()):
            return None
        places: dict[Any, int] = {}  # by element, its number among those that are unlike each other
        kinds: list[int] = []
        firsts: list[int] = []
        for place, element in enumerate(zip(*lists.values(), strict=True)):
            kind = places.setdefault(tuple((type(part), part) for part in element), len(firsts))
            if kind == len(firsts):
                firsts.append(place)
            kinds.append(kind)
        return cls(schema, frozenset(lists), firsts, kinds) if len(firsts) < len(kinds) else None

    def for_all(self, found: Any) -> Any:
        """What was found of the shortened lists, for the whole ones."""
        wanted = found.redistribute_schema
        if wanted is not None:
            args = tuple(self._lengthened(arg) if place in self._lists else arg for place, arg in enumerate(wanted.args_schema))
            wanted = SHARDING.OpSchema(wanted.op, args, wanted.kwargs_schema)
        spec = found.output_spec
        spec = tuple(self._lengthened(spec)) if isinstance(spec, list | tuple) else spec
        return replace(found, output_spec=spec, redistribute_schema=wanted)

    def _lengthened(self, values: Sequence[Any]) -> list[Any]:
        return [values[kind] for kind in self._kinds]
