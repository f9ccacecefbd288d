"""Nodes of the autograd graph that are counted as one kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from torchprof import _native
from torchprof.estimation.torch_private import ESTIMATE
from torchprof.record.nested import find_tensors

__all__ = ["BackwardNodes"]

current_autograd_node = ESTIMATE.current_autograd_node


class BackwardNodes:
    """Counts nodes as one kernel: from where a node takes what it saved to its end, only its results count.

    Args:
        needed: by name of the node, what its kernel needs beside its results.
    """

    def __init__(self, needed: Mapping[str, Callable[[Any], int]]) -> None:
        self._needed = needed
        self._node: Any = None
        self._handle: Any = None

    def begin(self) -> None:
        """To be called when a node takes what it saved: ``aten::detach`` in a backward pass."""
        node: Any = current_autograd_node()
        if node is None or self._node is not None or node.name() not in self._needed or torch.is_grad_enabled():
            return
        self._node = node
        needed = self._needed[node.name()](node)
        _native.pause_recording()
        self._handle = node.register_hook(lambda made, _: self._end(made, needed))

    def _end(self, made: Any, needed: int) -> None:
        self._handle.remove()
        self._node = None
        _native.resume_recording(list(find_tensors(made)), needed)

    def close(self) -> None:
        """To be called when the program is over: a node that failed did not end."""
        if self._node is not None:
            self._end((), 0)
