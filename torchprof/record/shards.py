"""Whether a tensor is split between ranks."""

from __future__ import annotations

import sys

import torch

from torchprof.trace.schema import Use

__all__ = ["sharded"]


def sharded(tensor: torch.Tensor) -> Use:
    """``Use.SHARDED`` for a DTensor that is split between ranks and for a flat parameter of FSDP, otherwise none.

    A program that has not imported these has no such tensors, and they are not imported for it.
    """
    distributed = sys.modules.get("torch.distributed.tensor")
    if distributed is not None and isinstance(tensor, distributed.DTensor):
        return Use.SHARDED if any(placement.is_shard() for placement in tensor.placements) else Use(0)
    flat = sys.modules.get("torch.distributed.fsdp._flat_param")
    return Use.SHARDED if flat is not None and isinstance(tensor, flat.FlatParameter) else Use(0)
