"""Runs a backward pass that stores no gradient, whatever is in the graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.graph import GradientEdge

from torchprof.record import torch_private

__all__ = ["differentiate"]

REENTRANT = "CheckpointFunctionBackward"
HOOKS = "_post_accumulate_grad_hooks"


def differentiate(edges: Sequence[GradientEdge], leaves: Sequence[torch.Tensor], seeds: Sequence[torch.Tensor]) -> list[Any]:
    """The gradients of all leaves; None of those that nothing depends on.

    ``torch.autograd.grad`` finds them without storing any. ``checkpoint(use_reentrant=True)`` refuses it: there they are stored
    for a moment, beside those that the program has, and its hooks that wait for stored gradients do not run.
    """
    nodes = list(_nodes(edges))
    if not any(node.name() == REENTRANT for node in nodes):
        if any(seed.is_nested for seed in seeds):
            return list(torch_private.run_backward(edges, seeds, leaves))
        return list(torch.autograd.grad(edges, leaves, seeds, allow_unused=True))
    stored_in = {id(leaf): leaf for leaf in leaves}
    for node in nodes:
        if (variable := getattr(node, "variable", None)) is not None:
            stored_in.setdefault(id(variable), variable)
    with _without_gradients(list(stored_in.values())):
        torch.autograd.backward(list(edges), list(seeds))
        return [leaf.grad for leaf in leaves]


@contextmanager
def _without_gradients(leaves: Sequence[torch.Tensor]) -> Iterator[None]:
    """Inside the block the leaves have no gradients and no hooks that wait for them; afterwards those of before."""
    before = [(leaf, leaf.grad, getattr(leaf, HOOKS, None)) for leaf in leaves]
    try:
        for leaf, _, hooks in before:
            leaf.grad = None
            if hooks is not None:
                setattr(leaf, HOOKS, None)
        yield
    finally:
        for leaf, gradient, hooks in before:
            leaf.grad = gradient
            if hooks is not None:
                setattr(leaf, HOOKS, hooks)


def _nodes(edges: Sequence[GradientEdge]) -> Iterator[Any]:
    """Every node of the graph."""
    seen: set[Any] = set()
    waiting: list[Any] = [edge.node for edge in edges]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [below for below, _ in node.next_functions]
