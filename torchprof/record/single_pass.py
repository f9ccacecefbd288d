"""Runs a model once, recorded, and gives the trace. The model is as before afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from torchprof import _native
from torchprof._native import require_extension
from torchprof.errors import ArgumentError
from torchprof.record.backward import differentiate
from torchprof.record.inputs import Inputs
from torchprof.record.kept_results import names_of_kept, saved_bytes, take_kept
from torchprof.record.nested import tensor_bytes, tensor_sizes, tensors_in
from torchprof.record.preserve import preserved
from torchprof.record.profile import profile
from torchprof.record.seeds import seed_maker, storage_bytes
from torchprof.trace.shapes import shape_of
from torchprof.trace.trace import Trace

__all__ = ["bytes_of", "facts_of", "record_single_pass", "recording_of", "run_pass"]


def record_single_pass(
    model: nn.Module,
    inputs: Inputs,
    *,
    backward: bool = False,
    warmup: int = 0,
    on_error: Callable[[Exception, profile], None] = lambda error, recording: None,
    watch: Callable[[nn.Module], Callable[[Trace], None]] | None = None,
) -> Trace:
    """Record one forward pass, in the train/eval and grad mode that are set.

    The trace has marks, ``"forward"``, ``"forward done"``, ``"outputs released"``, ``"backward"``, ``"backward done"`` and
    ``"graph released"``, and the facts ``saved_input_bytes``, ``input_bytes`` (None where it is unknown), ``input_sizes``,
    ``inputs_on_meta`` and, where it is unknown what autograd keeps, ``saved_unknown_because``.

    Args:
        model: any module.
        inputs: what to call it with. What the model writes to them is put back as well.
        backward: also differentiate the sum of the outputs. No gradient is stored.
        warmup: passes to run before the one that is recorded.
        on_error: called with what the model raised and the recording, before the exception goes on.
        watch: called with the model before it runs; what it returns is called with the trace while the model is as forward
            left it.

    Raises:
        ArgumentError: there is nothing to differentiate.
        Exception: whatever the model raises.
    """
    require_extension()
    recording = profile(model, ops=False, shapes=False, stacks=False)
    with preserved(model, inputs.args, inputs.kwargs) as classes:
        try:
            for _ in range(warmup):  # recorded too: one of them may raise
                recording = profile(model, ops=False, shapes=False, stacks=False)
                with recording:
                    model(*inputs.args, **inputs.kwargs)
            recording = recording_of(model, backward, classes)
            finish = watch(model) if watch is not None else None
            with recording:
                saved = run_pass(model, inputs, backward, recording.mark)
            if finish is not None:
                finish(recording.trace)
        except Exception as error:
            on_error(error, recording)
            raise
    recording.trace.facts.update(facts_of(inputs, saved))
    return recording.trace


def recording_of(model: nn.Module, backward: bool, classes: Iterable[type[nn.Module]]) -> profile:
    """A recording of what a summary shows. ``classes``: those of the modules."""
    # All ops are needed to tie backward to modules. Without a backward, those are enough that FLOPs are counted of.
    recording = profile(model, ops=backward, shapes=backward, stacks=False)
    if not backward:
        recording._count_flops(outputs=any(map(_may_pack_weights, classes)))
    return recording


class Saved(NamedTuple):
    """What autograd keeps of the inputs, and why that and the rest of what it keeps is unknown, if it is."""

    input_bytes: int
    unknown_because: str = ""


def run_pass(model: nn.Module, inputs: Inputs, backward: bool, mark: Callable[[str], None]) -> Saved:
    """One forward and, if wanted, a backward.

    What autograd keeps is found by letting go of one thing after the other: first of the outputs while the graph lives on,
    then of the graph.
    """
    tensors = _distinct(inputs.tensors())
    graph = _native.GraphWatch()
    torch.clear_autocast_cache()  # so that it is this pass that casts
    mark("forward")
    outputs = model(*inputs.args, **inputs.kwargs)
    mark("forward done")
    torch.clear_autocast_cache()
    found = tensors_in(outputs)
    with torch._C.DisableTorchFunctionSubclass():  # a subclass may see that its attributes are read
        roots, others = (
            [tensor for tensor in tensors if tensor.requires_grad and not tensor.is_leaf]
            for tensors in (found.tensors[: found.in_containers], found.tensors[found.in_containers :])
        )
    if not roots:  # a result that is an object; beside other results, one such as a cache is nothing to differentiate
        roots, others = others, []
    graph.hold(roots + others)
    edges = [torch.autograd.graph.get_gradient_edge(root) for root in roots] if backward else []
    make_seeds = [seed_maker(root) for root in roots] if backward else []
    unread = found.unread
    del outputs, found, roots, others
    mark("outputs released")
    held = [_native.use_counts(tensor) for tensor in tensors]
    if backward:
        leaves: list[torch.Tensor] = [parameter for parameter in model.parameters() if parameter.requires_grad]
        leaves += [tensor for tensor in tensors if tensor.requires_grad and tensor.is_leaf]
        if not edges or not leaves:
            raise ArgumentError(
                "backward=True, but there is nothing to differentiate: no output depends on a parameter that requires a "
                "gradient (is this running under torch.no_grad()?)"
            )
        seeds = [make() for make in make_seeds]
        mark("backward")
        gradients = differentiate(edges, leaves, seeds)
        mark("backward done")
        del gradients, seeds
    del edges
    graph.let_go()
    taken = take_kept(model) if graph.lives_on() and not backward else []
    mark("graph released")
    del make_seeds  # some hold a seed, which is not what autograd keeps
    kept = [  # by the graph: what else holds one, such as the module, still does
        tensor
        for tensor, before in zip(tensors, held, strict=True)
        if any(now < then for now, then in zip(_native.use_counts(tensor), before, strict=True))
    ]
    sizes = [storage_bytes(tensor) for tensor in kept]
    sizes.append(saved_bytes(taken))
    reason = ""
    if unread and torch.is_grad_enabled():
        reason = f"the result has a {unread[0]} in it, which cannot be looked into"
    elif graph.is_alive():
        names = names_of_kept(model)
        reason = f"the model keeps a result in {', '.join(names[:3])}" if names else "something still refers to the result"
    elif None in sizes:
        reason = "the size of a tensor is unknown"
    return Saved(_sum(sizes) or 0, reason)


def facts_of(inputs: Inputs, saved: Saved) -> dict[str, Any]:
    """What the trace of a pass says of its inputs."""
    tensors = inputs.tensors()
    facts = {
        "saved_input_bytes": saved.input_bytes,
        "input_bytes": bytes_of(tensors) if not inputs.has_arrays() else None,
        "input_sizes": [list(shape_of(tensor_sizes(tensor))) for tensor in tensors],
        "inputs_on_meta": all(tensor.device.type == "meta" for tensor in tensors),
    }
    return {**facts, "saved_unknown_because": saved.unknown_because} if saved.unknown_because else facts


def bytes_of(tensors: list[torch.Tensor]) -> int | None:
    """Bytes of these tensors, each once; None where the bytes of one are unknown."""
    return _sum([tensor_bytes(tensor) for tensor in _distinct(tensors)])


def _sum(sizes: list[int | None]) -> int | None:
    """The sum, which is unknown where a size is."""
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _may_pack_weights(kind: type[nn.Module]) -> bool:
    """Whether weights may be kept in objects that are no tensors, so that only the output of an op tells their size."""
    return kind.__module__.startswith("torch.ao.") or issubclass(kind, torch.jit.ScriptModule)


def _distinct(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())
