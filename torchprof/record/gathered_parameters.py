"""Puts FSDP2 back to where it was before a pass that nothing differentiates.

In training, backward does this: it lets go of the parameters that the root keeps after forward, and forgets the order in
which forward met the groups. Without it, the next forward would take the root's for gathered while modules have shards.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from torch import nn

from torchprof.record import torch_private

__all__ = ["gathered_as_before"]


@contextmanager
def gathered_as_before(model: nn.Module) -> Iterator[None]:
    """What was sharded when the block was entered is sharded again when it is left, also where it raises."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    restore: list[Callable[[], None]] = []
    if fsdp is not None:
        for module in model.modules():
            if isinstance(module, fsdp.FSDPModule):
                with suppress(AttributeError):  # PyTorch has other names: then what it keeps is as after any forward
                    restore.append(torch_private.reset_of_fsdp(module))
    try:
        yield
    finally:
        for put_back in restore:
            put_back()
