"""How ops on lists of sharded tensors shard them, found once for equal ones: a model of equal layers has hundreds of each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any

from torchprof.estimation.fake.callers import replaced
from torchprof.estimation.fake.equal_elements import BY_ELEMENT, Kinds, kinds_of, lists_of
from torchprof.estimation.torch_private import SHARDING

__all__ = ["equal_layouts_found_once"]


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
        kinds: which elements are equal.

    Attributes:
        shortened: the same with the elements that are unlike each other.
    """

    def __init__(self, schema: Any, lists: Collection[int], kinds: Kinds) -> None:
        self._lists, self._kinds = lists, kinds
        args = tuple(kinds.shortened(arg) if place in lists else arg for place, arg in enumerate(schema.args_schema))
        self.shortened = SHARDING.OpSchema(schema.op, args, schema.kwargs_schema, schema_info=schema.schema_info)

    @classmethod
    def of(cls, schema: Any) -> Equal | None:
        """Those of an op; None where no elements are equal."""
        lists = lists_of(schema.args_schema, schema.kwargs_schema.values())
        kinds = kinds_of(lists.values(), lambda part: (type(part), part))
        return cls(schema, lists.keys(), kinds) if kinds is not None else None

    def for_all(self, found: Any) -> Any:
        """What was found of the shortened lists, for the whole ones."""
        lengthened = self._kinds.lengthened
        wanted = found.redistribute_schema
        if wanted is not None:
            args = tuple(lengthened(arg) if place in self._lists else arg for place, arg in enumerate(wanted.args_schema))
            wanted = SHARDING.OpSchema(wanted.op, args, wanted.kwargs_schema)
        spec = found.output_spec
        spec = tuple(lengthened(spec)) if isinstance(spec, list | tuple) else spec
        return replace(found, output_spec=spec, redistribute_schema=wanted)
