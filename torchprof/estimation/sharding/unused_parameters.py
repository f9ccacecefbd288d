"""``find_unused_parameters=True`` of DistributedDataParallel: what forward does not use is reduced, and has no gradient.

PyTorch's reducer reads which parameters all ranks used, and here nothing has values. So it is made without, and told what this
rank's graph does not reach, in the order in which it would find that out. Other ranks are taken to use the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd import Variable

__all__ = ["FindsUnused"]


class FindsUnused:
    """Finds what the graph of a forward does not reach.

    Args:
        reducer: of DistributedDataParallel, made without ``find_unused_parameters``.
        parameters: those that it reduces, in its order.
        group: the process group.
        on_cpu: whether the device is the CPU, on which what this rank and what any rank used are both kept.
    """

    def __init__(self, reducer: Any, parameters: Sequence[nn.Parameter], group: Any, *, on_cpu: bool) -> None:
        self._reducer, self._parameters, self._group = reducer, parameters, group
        self._used = torch.zeros(len(parameters), dtype=torch.int32, device="cpu")
        self._of_this_rank = torch.zeros_like(self._used) if on_cpu else None

    def search(self, outputs: Sequence[torch.Tensor]) -> None:
        """Have what these outputs of forward do not need be reduced once backward begins."""
        reached = _reached(outputs)
        unused = [place for place, parameter in enumerate(self._parameters) if id(parameter) not in reached]
        without = [self._parameters[place] for place in unused if self._parameters[place].grad is None]
        begun: list[bool] = []

        def begin(gradient: torch.Tensor) -> None:
            if begun:
                return
            begun.append(True)
            for place in unused:
                self._reducer._autograd_hook(place)
            dist.all_reduce(self._used, group=self._group)
            # The reducer ends in a callback of its own, which it queues later than this one.
            at_end(lambda: at_end(forget))

        def forget() -> None:
            for parameter in without:
                parameter.grad = None

        at_end = Variable._execution_engine.queue_callback
        for output in outputs:
            if output.requires_grad:
                output.register_hook(begin)  # type: ignore[no-untyped-call]


def _reached(outputs: Sequence[torch.Tensor]) -> set[int]:
    """The parameters to which gradients of these come, by ``id``."""
    found: set[int] = set()
    seen: set[Any] = set()
    left = [output.grad_fn for output in outputs if output.grad_fn is not None]
    while left:
        node: Any = left.pop()
        if node in seen:
            continue
        seen.add(node)
        if (parameter := getattr(node, "variable", None)) is not None:
            found.add(id(parameter))
        left += [following for following, _ in node.next_functions if following is not None]
    return found
