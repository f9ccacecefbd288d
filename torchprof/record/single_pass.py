"""Runs a model once, recorded, and gives the trace. The model is as before afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from torchprof import _native
from torchprof._native import require_extension
from torchprof.errors import ArgumentError
from torchprof.record.inputs import Inputs
from torchprof.record.modules import is_lazy, walk
from torchprof.record.nested import find_tensors
from torchprof.record.preserve import preserved
from torchprof.record.profile import profile
from torchprof.trace.trace import Trace

__all__ = ["record_single_pass"]


def record_single_pass(
    model: nn.Module,
    inputs: Inputs,
    *,
    backward: bool = False,
    warmup: int = 0,
    on_error: Callable[[Exception, profile], None] = lambda error, recording: None,
) -> Trace:
    """Record one forward pass, in the train/eval and grad mode that are set.

    The trace has marks, ``"forward"``, ``"forward done"``, ``"outputs released"``, ``"backward"``, ``"backward done"`` and
    ``"graph released"``, and the facts ``saved_input_bytes``, ``input_bytes`` and ``inputs_on_meta``.

    Args:
        model: any module; one with lazy parameters is copied first, for running it would give it its parameters for good.
        inputs: what to call it with.
        backward: also differentiate the sum of the outputs. No gradient is stored.
        warmup: passes to run before the one that is recorded.
        on_error: called with what the model raised and the recording, before the exception goes on.

    Raises:
        ArgumentError: there is nothing to differentiate.
        Exception: whatever the model raises.
    """
    require_extension()
    places = walk(model)
    if is_lazy(places):
        model = copy.deepcopy(model)
        places = walk(model)
    recording = profile(model, ops=False, shapes=False)
    with preserved(model, places):
        try:
            for _ in range(warmup):  # recorded too: one of them may raise
                recording = profile(model, ops=False, shapes=False)
                with recording:
                    model(*inputs.args, **inputs.kwargs)
            # Ops are what ties backward to modules; without a backward, calls and allocations tell everything there is to show.
            recording = profile(model, ops=backward, shapes=False)
            with recording:
                saved_input_bytes = _pass(model, inputs, backward, recording.mark)
        except Exception as error:
            on_error(error, recording)
            raise
    tensors = inputs.tensors()
    recording.trace.facts.update(
        saved_input_bytes=saved_input_bytes,
        input_bytes=sum(tensor.numel() * tensor.element_size() for tensor in _distinct(tensors)),
        inputs_on_meta=all(tensor.device.type == "meta" for tensor in tensors),
    )
    return recording.trace


def _pass(model: nn.Module, inputs: Inputs, backward: bool, mark: Callable[[str], None]) -> int:
    """One forward and, if wanted, a backward. Returns the bytes of inputs that the autograd graph keeps.

    What autograd keeps is found by letting go of one thing after the other: first of the outputs while the graph lives on,
    then of the graph.
    """
    tensors = _distinct(inputs.tensors())
    held = [_native.use_counts(tensor) for tensor in tensors]
    mark("forward")
    outputs = model(*inputs.args, **inputs.kwargs)
    mark("forward done")
    roots = [tensor for tensor in find_tensors(outputs) if tensor.requires_grad and tensor.grad_fn is not None]
    edges = [torch.autograd.graph.get_gradient_edge(root) for root in roots]
    shapes = [(root.shape, root.dtype, root.device) for root in roots]
    del outputs, roots
    mark("outputs released")
    saved = sum(
        tensor.untyped_storage().nbytes()
        for tensor, before in zip(tensors, held, strict=True)
        if _has_storage(tensor) and any(now > then for now, then in zip(_native.use_counts(tensor), before, strict=True))
    )
    if backward:
        leaves: list[torch.Tensor] = [parameter for parameter in model.parameters() if parameter.requires_grad]
        leaves += [tensor for tensor in tensors if tensor.requires_grad and tensor.is_leaf]
        if not edges or not leaves:
            raise ArgumentError(
                "backward=True, but there is nothing to differentiate: no output depends on a parameter that requires a "
                "gradient (is this running under torch.no_grad()?)"
            )
        seeds = [torch.ones(shape, dtype=dtype, device=device) for shape, dtype, device in shapes]
        mark("backward")
        gradients = torch.autograd.grad(edges, leaves, seeds, allow_unused=True)
        mark("backward done")
        del gradients, seeds
    del edges
    mark("graph released")
    return saved


def _distinct(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _has_storage(tensor: torch.Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_nested
