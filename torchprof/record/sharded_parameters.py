"""What a rank has of the parameters of a model, where they are DTensors: those of FSDP2 and of tensor parallel.

Nothing is sent, and nothing is imported that the program has not imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from torchprof.record.nested import tensor_bytes

__all__ = ["sharded_parameters"]


def sharded_parameters(model: nn.Module) -> dict[str, Any]:
    """The fact ``sharded_parameters``, by path of the module and name of the parameter or buffer, if there are any.

    Of an FSDP2 model, they are read before it runs: while layers are gathered, a module has other parameters.
    """
    tensors = sys.modules.get("torch.distributed.tensor")
    if tensors is None:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for path, module in model.named_modules():
        own: Iterable[tuple[str, Any]] = (*module._parameters.items(), *module._buffers.items())
        told = {name: _told(tensor) for name, tensor in own if isinstance(tensor, tensors.DTensor)}
        if told:
            found[path] = told
    return {"sharded_parameters": found} if found else {}


def _told(tensor: Any) -> dict[str, Any]:
    with torch.no_grad():
        local = tensor.to_local()
    mesh = tensor.device_mesh
    size = tensor_bytes(local)
    names = mesh.mesh_dim_names or ("",) * mesh.ndim
    return {
        "shape": [int(size) for size in local.shape],
        "numel": local.numel(),
        "bytes": size if size is not None else local.numel() * local.element_size(),
        "whole_bytes": tensor.numel() * local.element_size(),
        "placements": [_placement(placement) for placement in tensor.placements],
        "mesh": [(str(name), int(count)) for name, count in zip(names, mesh.shape, strict=True)],
    }


def _placement(placement: Any) -> str:
    """As PyTorch's own, without what is the default: ``Shard(0)``, ``Replicate()``, ``Partial(sum)``."""
    name = type(placement).__name__.lstrip("_")
    if hasattr(placement, "dim"):
        return f"{name}({placement.dim})"
    return f"{name}({getattr(placement, 'reduce_op', '')})"
