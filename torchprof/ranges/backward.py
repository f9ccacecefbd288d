"""Finds which nodes of autograd were made in which call of a module.

The engine runs the nodes of a thread from the one that was made last to the first, as soon as each can run. So those made in a
call run one after another, and those of calls inside it in between: ranges of backward nest as those of forward do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import torch

from torchprof.ranges.call import Call
from torchprof.ranges.torch_private import LAST

__all__ = ["nodes_of"]

Node = Any


def nodes_of(call: Call, tensors: Iterable[torch.Tensor]) -> Iterator[tuple[Node, Call | None, bool]]:
    """The nodes before which it must be told whose they are, for an outermost call that returned these tensors.

    Each with the innermost call that it was made in, and whether it was made before the outermost call: the backward of that
    is over then.
    """
    outputs = list(_nodes(tensors))
    users: dict[Node, list[Node]] = {}
    own: list[tuple[int, Node]] = []
    earlier: list[Node] = []
    seen = set(outputs)
    waiting = list(seen)
    while waiting:
        node = waiting.pop()
        number = node._sequence_nr()
        if number >= LAST:
            continue
        if number < call.begin:
            earlier.append(node)
            continue
        own.append((number, node))
        for following, _ in node.next_functions:
            if following is not None:
                users.setdefault(following, []).append(node)
                if following not in seen:
                    seen.add(following)
                    waiting.append(following)
    own.sort(key=lambda each: -each[0])
    returned = set(outputs)
    before: Node = None
    owner_before: Call | None = None
    for number, node in own:
        owner = call.owner(number)
        # One that runs only where the node before it has run, and for the same call, need not be told of.
        if before is None or owner is not owner_before or node in returned or users.get(node) != [before]:
            yield node, owner, False
        before, owner_before = node, owner
    for node in earlier:
        yield node, None, True


def _nodes(tensors: Iterable[torch.Tensor]) -> Iterator[Node]:
    for tensor in tensors:
        node: Node = None
        with suppress(RuntimeError):  # views whose base was written to have none
            node = tensor.grad_fn
        if node is not None:
            yield node
