"""Which process group a collective ran in, as far as the groups of a rank tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchprof.trace.ranks import listed

__all__ = ["group_of", "group_of_wrapper", "members_of", "size_of_all"]


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


def group_of_wrapper(facts: Mapping[str, Any], by: str, kind: str, module: str) -> tuple[str, int] | None:
    """The process group in which a wrapper asks for collectives of a kind, and how many ranks it has; None: not known.

    Args:
        by: ``"FSDP"`` or ``"DDP"``.
        module: that it asks for, which matters where it uses several groups.

    Example:
        >>> both = {"name": "7", "description": "mesh_shard", "backend": "gloo", "ranks": [0, 1]}
        >>> sends = {"by": "FSDP", "kinds": ["all-gather"], "group": "7", "modules": []}
        >>> group_of_wrapper({"process_groups": [both], "groups_of_wrappers": [sends]}, "FSDP", "all-gather", "0")
        ('mesh_shard', 2)
    """
    used = {
        each["group"]
        for each in facts.get("groups_of_wrappers", ())
        if each["by"] == by and kind in each["kinds"] and (not each["modules"] or module in each["modules"])
    }
    groups = facts.get("process_groups", ())
    known = [group for group in groups if group["name"] in used]
    if len(used) != 1 or len(known) != 1:
        return None
    (group,) = known
    description = group["description"]
    called_so = {tuple(each["ranks"]) for each in groups if each["description"] == description}
    return str(description if description and len(called_so) == 1 else group["name"]), len(group["ranks"])


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
