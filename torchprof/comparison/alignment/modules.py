"""Modules by their place in the tree.

A module is the one with the same name below the same parent. Wrappers (``torch.compile``, DDP, FSDP, checkpointing) are seen
through. In a list of modules (names are numbers) of which some were inserted or taken out, the longest runs of layers with the
same class, parameters and content belong together; a layer in the same place between others, with the same class, parameters
and content under another name is renamed. Whatever is less alike was removed, and the other one added.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from difflib import SequenceMatcher
from typing import Final

from torchprof.comparison.alignment.pair import How, Pair
from torchprof.comparison.side import Row

__all__ = ["align_modules"]

WRAPPED: Final = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Names under which wrappers keep what they wrap."""
WRAPPERS: Final = frozenset({"DistributedDataParallel", "DataParallel", "FullyShardedDataParallel"})
"""Classes that keep it as ``module``, a name that others use too."""


class _Node:
    """A module in the tree."""

    __slots__ = ("children", "content", "key", "row", "type")

    def __init__(self, row: Row, key: str) -> None:
        self.row, self.key = row, key
        self.type = str(row.record["type"])
        self.children: list[_Node] = []
        self.content = -1


def align_modules(rows_a: list[Row], rows_b: list[Row]) -> list[Pair]:
    """Which modules are which. Rows have ``depth``, and parents come first."""
    numbers: dict[Hashable, int] = {}
    matching = _Matching()
    matching.among(_tree(rows_a, numbers), _tree(rows_b, numbers))
    return matching.pairs


def _tree(rows: list[Row], numbers: dict[Hashable, int]) -> list[_Node]:
    """The roots. What is in modules gets a number, the same for the same content."""
    roots: list[_Node] = []
    above: list[_Node] = []
    nodes: list[_Node] = []
    for row in rows:
        record, depth = row.record, row.record["depth"]
        is_model = not record["path"] and record["type"]
        node = _Node(row, "" if is_model else str(record["path"] or record["name"]).rpartition(".")[2])
        del above[depth:]
        (above[-1].children if above else roots).append(node)
        above.append(node)
        nodes.append(node)
    for node in reversed(nodes):
        content = (node.type, node.row.record.get("params"), tuple(child.content for child in node.children))
        node.content = numbers.setdefault(content, len(numbers))
    return roots


class _Matching:
    """Collects the pairs."""

    def __init__(self) -> None:
        self.pairs: list[Pair] = []

    def among(self, nodes_a: list[_Node], nodes_b: list[_Node]) -> None:
        """Match the children of two modules that belong together, or the roots."""
        of_wrappers: list[tuple[list[_Node], list[_Node]]] = []
        inner_a, inner_b = [_unwrapped(node) for node in nodes_a], [_unwrapped(node) for node in nodes_b]
        found = self._same_place([each[0] for each in inner_a], [each[0] for each in inner_b])
        wrappers_a = {id(node): wrappers for node, wrappers in inner_a}
        wrappers_b = {id(node): wrappers for node, wrappers in inner_b}
        for a, b, how in found:
            of_wrappers.append((wrappers_a.get(id(a), []), wrappers_b.get(id(b), [])))
            if a is not None and b is not None:
                self.pairs.append(Pair(a.row, b.row, how))
                self.among(a.children, b.children)
            else:
                self._alone([a] if a is not None else [], [b] if b is not None else [])
        for mine, others in of_wrappers:
            self._wrappers(mine, others)

    def _alone(self, nodes_a: Iterable[_Node], nodes_b: Iterable[_Node]) -> None:
        for node in nodes_a:
            self.pairs.append(Pair(node.row, None, "removed"))
            self._alone(node.children, ())
        for node in nodes_b:
            self.pairs.append(Pair(None, node.row, "added"))
            self._alone((), node.children)

    def _wrappers(self, nodes_a: list[_Node], nodes_b: list[_Node]) -> None:
        """Of wrappers around the same module, those of the same class belong together."""
        left = list(nodes_b)
        for a in nodes_a:
            b = next((node for node in left if node.type == a.type), None)
            if b is not None:
                left.remove(b)
            self.pairs.append(Pair(a.row, b.row if b is not None else None, "same" if b is not None else "removed"))
        self.pairs.extend(Pair(None, node.row, "added") for node in left)

    @staticmethod
    def _same_place(nodes_a: list[_Node], nodes_b: list[_Node]) -> list[tuple[_Node | None, _Node | None, How]]:
        """Which of these are which, in the order of B, what only A has last."""
        partner: dict[int, int] = {}  # of nodes of b
        if _is_list(nodes_a) and _is_list(nodes_b) and _differ(nodes_a, nodes_b):
            _runs(nodes_a, nodes_b, partner)
        _same(nodes_a, nodes_b, partner, lambda node: node.key)
        _renamed(nodes_a, nodes_b, partner)
        found: list[tuple[_Node | None, _Node | None, How]] = []
        for at, b in enumerate(nodes_b):
            if at not in partner:
                found.append((None, b, "added"))
                continue
            a = nodes_a[partner[at]]
            found.append((a, b, "same" if a.key == b.key else "renamed"))
        taken = set(partner.values())
        return found + [(a, None, "removed") for at, a in enumerate(nodes_a) if at not in taken]


def _unwrapped(node: _Node) -> tuple[_Node, list[_Node]]:
    """The module inside all wrappers, with the key that the outermost has; and the wrappers."""
    wrappers: list[_Node] = []
    key = node.key
    while len(node.children) == 1:
        (inner,) = node.children
        if inner.key not in WRAPPED and not (inner.key == "module" and node.type in WRAPPERS):
            break
        wrappers.append(node)
        node.children = []
        node = inner
    node.key = key
    return node, wrappers


def _is_list(nodes: list[_Node]) -> bool:
    return bool(nodes) and all(node.key.isdecimal() for node in nodes)


def _differ(nodes_a: list[_Node], nodes_b: list[_Node]) -> bool:
    """Whether some were inserted, taken out or exchanged."""
    return [(node.key, node.content) for node in nodes_a] != [(node.key, node.content) for node in nodes_b]


def _runs(nodes_a: list[_Node], nodes_b: list[_Node], partner: dict[int, int]) -> None:
    matcher = SequenceMatcher(None, [node.content for node in nodes_a], [node.content for node in nodes_b], autojunk=False)
    for block in matcher.get_matching_blocks():
        partner.update((block.b + at, block.a + at) for at in range(block.size))


def _same(nodes_a: list[_Node], nodes_b: list[_Node], partner: dict[int, int], key: Callable[[_Node], Hashable]) -> None:
    """Match those with the same key, the first with the first, where both are left."""
    taken = set(partner.values())
    free: dict[Hashable, list[int]] = {}
    for at, node in enumerate(nodes_a):
        if at not in taken:
            free.setdefault(key(node), []).append(at)
    for at, node in enumerate(nodes_b):
        if at not in partner and (left := free.get(key(node))):
            partner[at] = left.pop(0)


def _renamed(nodes_a: list[_Node], nodes_b: list[_Node], partner: dict[int, int]) -> None:
    """Match what has the same content in the same place: so many after the same neighbor."""
    of_a = {a: b for b, a in partner.items()}
    places: dict[Hashable, int] = {}
    before, after = -1, 0
    for at, node in enumerate(nodes_a):
        if at in of_a:
            before, after = of_a[at], 0
        else:
            places[before, after, node.content] = at
            after += 1
    before, after = -1, 0
    for at, node in enumerate(nodes_b):
        if at in partner:
            before, after = at, 0
            continue
        if (found := places.get((before, after, node.content))) is not None and node.type:
            partner[at] = found
        after += 1
