"""Which process group a collective ran in, as far as the groups of a rank tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchprof.trace.ranks import listed

__all__ = ["group_of", "members_of", "size_of_all"]


def size_of_all(facts: Mapping[str, Any]) -> int | None:
    """How many ranks every process group of this rank has; None where they differ, or are not known."""
    sizes = {len(group["ranks"]) for group in facts.get("process_groups", ())}
    return sizes.pop() if len(sizes) == 1 else None


def group_of(facts: Mapping[str, Any], size: int | None) -> str | None:
    """The only process group of so many ranks: its description, or its ranks where several have the same; None: not known.

    Example:
        >>> both = {"name": "0", "description": "default_pg", "backend": "gloo", "ranks": [0, 1]}
        >>> group_of({"process_groups": [both]}, 2), group_of({"process_groups": [both]}, 4)
        ('default_pg', None)
    """
    groups = [group for group in facts.get("process_groups", ()) if size is None or len(group["ranks"]) == size]
    if len({tuple(group["ranks"]) for group in groups}) != 1:
        return None
    if len(groups) == 1:
        return str(groups[0]["description"] or groups[0]["name"])
    return f"ranks {listed(groups[0]['ranks'])}"


def members_of(facts: Mapping[str, Any], group: str | None, size: int | None, world_size: int) -> tuple[int, ...] | None:
    """The ranks of the process group that is called so, as `group_of` calls it, and has so many; None: not known.

    Example:
        >>> members_of({}, None, 2, 2), members_of({}, None, 2, 4)
        ((0, 1), None)
    """
    known = [
        tuple(each["ranks"])
        for each in facts.get("process_groups", ())
        if (size is None or len(each["ranks"]) == size)
        and group in (each["description"], each["name"], f"ranks {listed(each['ranks'])}")
    ]
    if len(set(known)) == 1:
        return tuple(sorted(known[0]))
    return tuple(range(world_size)) if size == world_size else None
