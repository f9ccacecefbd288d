"""The tensors that a model holds, for the recorder: it tells their memory from that of activations."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from torchprof import _native
from torchprof.record.modules import has_no_shape
from torchprof.record.packed import is_packing, packed_parameters
from torchprof.record.shards import sharded

__all__ = ["held_by"]


def held_by(places: _native.Places, *, at_end: bool, follow: bool = True) -> _native.HeldByModel:
    """The parameters, gradients and buffers that the modules at these places hold now; each once.

    Args:
        at_end: whether the recording has ended, and not begins.
        follow: whether the recording that begins shall see when these are freed.
    """
    return _native.held(
        places,
        at_end=at_end,
        follow=follow and not at_end,
        parameter=nn.Parameter,
        is_packing=is_packing,
        packed=_packed,
        has_no_shape=has_no_shape,
        sharded=sharded,
    )


def _packed(module: Any) -> list[torch.Tensor]:
    """The tensors packed in a module, without copies that were made of them."""
    return [tensor for _, tensor in packed_parameters(module) or () if _native.use_counts(tensor)[1] > 1]
