"""Which process group a collective ran in: the one that its op was given, or as far as the groups of a rank tell."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from torchprof.trace.ranks import listed
from torchprof.trace.schema import NO_ARGUMENTS
from torchprof.trace.trace import Trace

__all__ = [
    "NOT_DESCRIBED",
    "Given",
    "Group",
    "group_of",
    "group_of_wrapper",
    "members_of",
    "named_group",
    "size_of_all",
    "told_group",
    "what_was_given",
]

BETWEEN_TWO: Final = ("c10d::send", "c10d::recv_")
"""Ops whose first numbers are the place of the other rank in the group, and a tag."""

NOT_DESCRIBED: Final = ("", "undefined")
"""The description of a group whose maker gave none."""


@dataclass(frozen=True, slots=True)
class Group:
    """A process group, as far as it is known.

    Attributes:
        label: its description, where that tells it from the others of the rank; else its ranks, or its name.
        name: PyTorch's for it.
        members: its ranks; None where they are not known, as of a group that was made and destroyed between two steps.
    """

    label: str
    name: str
    members: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Given:
    """What an op was given: the name of the process group, and whole numbers, such as the other rank of a message."""

    group: str | None = None
    numbers: tuple[int, ...] = ()

    def other_rank(self, name: str, group: Group | None) -> int | None:
        """To whom an op of this name sends, or from whom it receives; None: not known, or it does neither."""
        if name not in BETWEEN_TWO or not self.numbers or group is None or group.members is None:
            return None
        place = self.numbers[0]  # in the group
        return group.members[place] if 0 <= place < len(group.members) else None

    def tag(self, name: str) -> int | None:
        """That of a message."""
        return self.numbers[1] if name in BETWEEN_TWO and len(self.numbers) > 1 else None


def what_was_given(trace: Trace, rows: npt.NDArray[np.int64]) -> list[Given]:
    """What these ops were given, as the recorder kept it; nothing where it did not."""
    kept = trace.signatures["arguments"][trace.ops["signature"][rows]].tolist()
    found = {text: _given_in(trace.strings[text]) for text in set(kept) if text != NO_ARGUMENTS}
    return [found.get(text, Given()) for text in kept]


def _given_in(arguments: str) -> Given:
    """Of arguments of other ops, and of files of other tools, which are lists: nothing."""
    if not arguments.startswith("{"):
        return Given()
    try:
        told = json.loads(arguments)
    except ValueError:
        return Given()
    group, numbers = told.get("group"), told.get("numbers")
    are_whole = isinstance(numbers, list) and all(type(each) is int for each in numbers)
    return Given(group if isinstance(group, str) and group else None, tuple(numbers) if are_whole else ())


def named_group(
    facts: Mapping[str, Any], name: str, size: int | None = None, *, description: str = "", ranks: Sequence[int] = ()
) -> Group:
    """The process group with this name.

    Args:
        size: how many ranks it has, where that is known: a group that was destroyed may have left its name to another.
        description, ranks: what else is said of it; used where the rank does not list the group.

    Example:
        >>> rows = {"name": "3", "description": "mesh_rows", "backend": "gloo", "ranks": [0, 1]}
        >>> named_group({"process_groups": [rows]}, "3"), named_group({}, "4").members
        (Group(label='mesh_rows', name='3', members=(0, 1)), None)
    """
    listed_groups = facts.get("process_groups", ())
    called_so = [each for each in listed_groups if each["name"] == name and size in (None, len(each["ranks"]))]
    known = {tuple(sorted(each["ranks"])) for each in called_so} or ({tuple(sorted(ranks))} if ranks else set())
    members = known.pop() if len(known) == 1 else None
    descriptions = {str(each["description"]) for each in called_so} or {description}
    told = descriptions.pop() if len(descriptions) == 1 else ""
    if told not in NOT_DESCRIBED:
        described_so = {tuple(sorted(each["ranks"])) for each in listed_groups if each["description"] == told}
        if len(described_so) <= 1:
            return Group(told, name, members)
    return Group(f"ranks {listed(members)}" if members is not None else name, name, members)


def told_group(facts: Mapping[str, Any], given: str | None, told: Mapping[str, Any], size: int | None) -> Group | None:
    """The process group that an op was given, or that a file of torch.profiler tells; None: neither names it.

    Args:
        given: its name, see `what_was_given`.
        told: what the file says of the collective.
        size: how many ranks took part; None: not known.
    """
    description = _text(told.get("group_description"))
    name = given or _text(told.get("group")) or description
    if name is None:
        return None
    return named_group(facts, name, size, description=description or "", ranks=_ranks(told.get("ranks"), size))


def _ranks(told: Any, size: int | None) -> list[int]:
    """The ranks of which a file says ``"[0, 1]"``; none where it leaves out some, as it does of many."""
    try:
        found = json.loads(told) if isinstance(told, str) else told
    except ValueError:
        return []
    is_whole = isinstance(found, list) and len(found) == size and all(type(each) is int for each in found)
    return found if is_whole else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


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
        return named_group(facts, str(groups[0]["name"])).label
    return f"ranks {listed(groups[0]['ranks'])}"


def group_of_wrapper(facts: Mapping[str, Any], by: str, kind: str, module: str) -> Group | None:
    """The process group in which a wrapper asks for collectives of a kind; None: not known.

    Args:
        by: ``"FSDP"`` or ``"DDP"``.
        module: that it asks for, which matters where it uses several groups.

    Example:
        >>> both = {"name": "7", "description": "mesh_shard", "backend": "gloo", "ranks": [0, 1]}
        >>> sends = {"by": "FSDP", "kinds": ["all-gather"], "group": "7", "modules": []}
        >>> group_of_wrapper({"process_groups": [both], "groups_of_wrappers": [sends]}, "FSDP", "all-gather", "0")
        Group(label='mesh_shard', name='7', members=(0, 1))
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
    return named_group(facts, known[0]["name"])


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
