"""What the hooks of the torchsummary package read of a module: its attributes ``weight`` and ``bias``, whatever they are.

They are parameters most often. But they may be plain tensors that were computed from parameters (``weight_norm``, ``prune``),
properties that compute them each time they are read (``parametrize``), methods (quantized modules), or belong to another module
that ``__getattr__`` asks. Only reading them tells; and where reading calls modules, as a parametrization is one, the hooks of
these run as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import nn

from torchprof.record.modules import WalkedModule, walk
from torchprof.record.nested import find_tensors
from torchprof.trace.trace import Trace

__all__ = ["watch_weights_and_biases"]


def watch_weights_and_biases(model: nn.Module) -> Callable[[Trace], None]:
    """To be called before the model runs, as its hooks are registered then; what is returned, afterwards.

    It writes what was read into the fact ``weights_and_biases`` of the trace.
    """
    places = walk(model)

    def read(trace: Trace) -> None:
        trace.facts["weights_and_biases"] = _read_all(places, set(trace.modules["address"].tolist()))

    return read


def _read_all(places: Iterable[WalkedModule], called: Collection[int]) -> dict[str, dict[str, Any]]:
    """What a hook would read after a forward pass of every module that was called, by path, as plain data.

        {"0": {"type": "Linear", "weight": [12, True], "bias": [4, True], "weight_calls": [], "bias_calls": []}}

    Args:
        places: what ``walk(model)`` returned.
        called: ``id()`` of the modules that were called. The others are not read, for that may run code of the program.

    Returns:
        The name of the class, which lazy modules change; for both attributes elements and ``requires_grad``, or None where the
        attribute is no tensor; and the modules that reading it once called: path, output shapes, whether a sequence was
        returned.
    """
    modules = {place.path: place.module for place in places if place.same_as < 0}
    paths = {id(module): path for path, module in modules.items()}
    calls: list[tuple[str, list[list[int]], bool]] = []

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if id(module) in paths:
            shapes = [list(tensor.shape) for tensor in find_tensors(output)]
            calls.append((paths[id(module)], shapes, isinstance(output, list | tuple)))

    found: dict[str, dict[str, Any]] = {}
    hook = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        for path, module in modules.items():
            if id(module) in called:
                read = found.setdefault(path, {})
                read["type"] = str(type(module)).split(".")[-1].split("'")[0]
                for name in ("weight", "bias"):
                    calls.clear()
                    read[name] = _read(module, name)
                    read[f"{name}_calls"] = list(calls)
    finally:
        hook.remove()
    return found


def _read(module: nn.Module, name: str) -> list[Any] | None:
    try:
        value = getattr(module, name, None)
        return [value.numel(), value.requires_grad] if isinstance(value, torch.Tensor) else None
    except Exception:  # of a property of the program, or of a tensor that has no size yet
        return None
