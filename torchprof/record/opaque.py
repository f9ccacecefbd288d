"""Modules that run without calling their layers: compiled, exported and TorchScript ones."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn

__all__ = ["COMPILED_ATTRIBUTES", "is_opaque", "opaque_because"]

COMPILED_ATTRIBUTES: Final = ("_compiled_call_impl", "forward")
"""Attributes of a module itself by which ``m.compile()`` and ``m.forward = torch.compile(m.forward)`` are known."""


def is_opaque(kind: type[nn.Module]) -> bool:
    """Whether modules of this class never call their layers."""
    return _because(kind) != ""


def opaque_because(module: nn.Module) -> str:
    """``"TorchScript"``, ``"compiled"`` or ``"exported"``; empty where calls inside the module can be seen."""
    because = _because(type(module))
    own = vars(module)
    if not because and (own.get("_compiled_call_impl") is not None or _is_compiled(own.get("forward"))):
        because = "compiled"
    return because


def _because(kind: type[nn.Module]) -> str:
    if issubclass(kind, torch.jit.ScriptModule):
        return "TorchScript"
    if kind.__name__ == "OptimizedModule" or _is_compiled(kind.forward):
        return "compiled"
    return "exported" if any(base.__name__ == "_StatefulGraphModule" for base in kind.__mro__) else ""


def _is_compiled(function: Any) -> bool:
    """Whether a function is one that ``torch.compile`` returned."""
    return hasattr(function, "_torchdynamo_orig_callable") and not getattr(function, "_torchdynamo_disable", False)
