"""The parameters of quantized modules, which are packed into objects that only PyTorch's kernels read.

A quantized module has one of

- ``_weight_bias()``, which gives ``(weight, bias)`` or, for recurrent ones,
  ``{"weight": {"weight_ih_l0": ...}, "bias": {"bias_ih_l0": ...}}``: linear, convolution, LSTM, GRU and their cells;
- packed objects among its attributes, or among those of a child whose class is named ``...PackedParams``;
- quantized tensors among its attributes: PReLU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import nn

__all__ = ["PACKED_ATTRIBUTES", "bytes_of_quantized", "is_packing", "packed_parameters"]

PACKED_ATTRIBUTES: Final = ("_packed_params", "_packed_weight", "_packed_weight_ih", "_all_weight_values")
"""Attributes of modules, also of the program's own, that hold packed parameters."""

PACKAGES: Final = ("torch.ao.nn.", "torch.nn.quantized.", "torch.nn.intrinsic.")

UNPACK: Final[dict[str, str]] = {
    "quantized.LinearPackedParamsBase": "quantized.linear_unpack",
    "quantized.Conv2dPackedParamsBase": "quantized.conv2d_unpack",
    "quantized.Conv3dPackedParamsBase": "quantized.conv3d_unpack",
    "quantized.EmbeddingPackedParamsBase": "quantized.embedding_bag_unpack",
    "sparse.LinearPackedParamsBase": "sparse.qlinear_unpack",
}
"""Classes of packed objects, and the op that gives their tensors."""

BITS: Final = {torch.quint4x2: 4, torch.quint2x4: 2}
"""Elements of these share bytes."""


def is_packing(kind: type[nn.Module]) -> bool:
    """Whether modules of this class may have packed parameters."""
    return hasattr(kind, "_weight_bias") or kind.__module__.startswith(PACKAGES)


def packed_parameters(module: nn.Module) -> list[tuple[str, torch.Tensor]] | None:
    """The packed parameters of a module, by name; None where they cannot be read. No kernel computes gradients of them."""
    if _is_package(module):  # its parent has what is in it
        return []
    try:
        with warnings.catch_warnings():  # PyTorch warns that such tensors are deprecated, and the program made none here
            warnings.simplefilter("ignore")
            return [(name, tensor.detach()) for name, tensor in _parameters(module) if tensor is not None]
    except Exception:  # whatever an object says that is of another kind than it seems
        return None


def bytes_of_quantized(tensor: torch.Tensor) -> int:
    """Bytes of its elements, and of the scales and zero points where they are tensors: one for each channel."""
    count = (tensor.numel() * BITS.get(tensor.dtype, 8 * tensor.itemsize) + 7) // 8
    if tensor.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric, torch.per_channel_affine_float_qparams):
        count += tensor.q_per_channel_scales().nbytes + tensor.q_per_channel_zero_points().nbytes
    return count


def _is_package(module: nn.Module) -> bool:
    return type(module).__name__.endswith(("PackedParams", "PackedParameter"))


def _parameters(module: nn.Module) -> Iterator[tuple[str, torch.Tensor | None]]:
    found: Any = module._weight_bias() if hasattr(type(module), "_weight_bias") else None  # type: ignore[operator]
    if isinstance(found, dict):
        named = [pair for tensors in found.values() for pair in tensors.items()]
    elif found is not None:
        named = list(zip(("weight", "bias"), found, strict=True))
    else:
        named = [*_in_objects(module), *_quantized_attributes(module)]
    for name, tensor in named:
        # Weights in half precision are given as float32.
        yield name, tensor.half() if "weight" in name and tensor.is_floating_point() and _is_half(module) else tensor


def _in_objects(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for holder in (module, *filter(_is_package, module.children())):
        for name, packed in vars(holder).items():
            if isinstance(packed, torch.ScriptObject):
                tensors = _unpack(packed)
                names = ("weight", "bias") if name in PACKED_ATTRIBUTES else (f"{name}.weight", f"{name}.bias")
                yield from zip(names, tensors, strict=False)


def _unpack(packed: Any) -> tuple[Any, ...]:
    kind = packed._type().qualified_name().removeprefix("__torch__.torch.classes.")
    package, _, op = UNPACK[kind].partition(".")
    unpack: Callable[[Any], Any] = getattr(getattr(torch.ops, package), op)
    tensors = unpack(packed)
    return tensors if isinstance(tensors, tuple) else (tensors,)


def _quantized_attributes(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in vars(module).items():
        if isinstance(value, torch.Tensor) and value.is_quantized:
            yield name, value


def _is_half(module: nn.Module) -> bool:
    said = [getattr(holder, name, None) for holder in (module, *module.children()) for name in ("dtype", "weight_dtype")]
    return torch.float16 in said
