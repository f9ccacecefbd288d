"""Collectives of objects: what this rank gives itself it gets, and objects of other ranks are not there."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Final

import torch.distributed as dist

from torchprof.errors import EstimateError
from torchprof.estimation.fake.callers import called_instead

__all__ = ["objects_of_others_refused"]

OBJECTS: Final = (
    "the program calls torch.distributed.{}, which returns objects of other ranks, and these are not there: use what this "
    "rank knows itself, or leave it out"
)

Given = dict[str, Any]


@contextmanager
def objects_of_others_refused() -> Iterator[None]:
    """Raise EstimateError where the program asks other ranks for objects, until the block ends."""
    with ExitStack() as stack:
        for name, own in _OWN.items():
            function = getattr(dist, name)
            stack.enter_context(called_instead(function, _of_others(function, own)))
        yield


def _of_others(function: Callable[..., Any], own: Callable[[Given], bool]) -> Callable[..., Any]:
    signature = inspect.signature(function)

    @wraps(inspect.unwrap(function))
    def call(*args: Any, **options: Any) -> None:
        given = signature.bind(*args, **options)
        given.apply_defaults()
        if not own(given.arguments):
            raise EstimateError(OBJECTS.format(function.__name__))

    return call


def _is(given: Given, root: str) -> bool:
    """Whether this rank is the source, or the destination."""
    if given.get(f"group_{root}") is not None:
        return bool(given[f"group_{root}"] == dist.get_rank(given["group"]))
    return (given[root] or 0) == dist.get_rank()


def _broadcast(given: Given) -> bool:
    return _is(given, "src")


def _gathered_to_root(given: Given) -> bool:
    """What others than the destination give, they do not get."""
    return not _is(given, "dst") or _gathered(given)


def _gathered(given: Given) -> bool:
    """Put the object into the list of all, where there is only this rank."""
    if dist.get_world_size(given["group"]) > 1:
        return False
    listed = given["object_list"] if "object_list" in given else given["object_gather_list"]
    listed[0] = given["obj"]
    return True


def _scattered(given: Given) -> bool:
    """Put the object for this rank into its list, where it has those of all."""
    if not _is(given, "src"):
        return False
    given["scatter_object_output_list"][0] = given["scatter_object_input_list"][dist.get_rank(given["group"])]
    return True


def _received(given: Given) -> bool:
    """Objects of another rank are never there."""
    return False


_OWN: Final[dict[str, Callable[[Given], bool]]] = {
    "all_gather_object": _gathered,
    "gather_object": _gathered_to_root,
    "broadcast_object_list": _broadcast,
    "scatter_object_list": _scattered,
    "recv_object_list": _received,
}
"""Functions that return objects; each does what this rank can do alone, and tells whether it could."""
