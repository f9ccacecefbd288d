"""Running a program without memory or arithmetic: on fake tensors whose storages are counted as the real ones would be.

A fake tensor has a shape, a dtype and a device, and no data; PyTorch's own rules say what each op would return. Their
storages are on ``meta``, where the recorder counts them. Some things differ from a real run and are put right here:

- a rule may allocate on the way to its result what the kernel does not: only results are counted;
- a kernel may need a workspace that the rule does not know: see ``torchprof.estimation.workspaces``;
- a rule may say other strides than the kernel's, and what follows may copy where it would not;
- autograd adds up gradients in place where nobody else holds them, but never does so with fake tensors.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch._prims_common import is_non_overlapping_and_dense_or_false
from torch._subclasses.fake_tensor import FakeTensorMode

from torchprof.errors import ArgumentError, ModuleTypeError
from torchprof.modules import is_lazy, walk
from torchprof.nested import find_tensors

__all__ = ["Pretend", "Workspace", "fake_model", "fake_values"]

Workspace = Callable[..., int]
"""Given an op, its arguments and what it returned: the bytes that its kernel needs meanwhile."""

CONTIGUOUS = frozenset({torch.ops.aten.native_layer_norm_backward.default})
"""Ops whose kernels return contiguous tensors where PyTorch's rule keeps the strides of the input."""

HELD_BY_ENGINE_ALONE = 2
"""Uses of the storage of a gradient that only autograd's engine holds: its own and that of the fake tensor around it."""


class Pretend(FakeTensorMode):  # type: ignore[no-untyped-call]
    """The mode that a program is run in. Everything made inside is fake; real tensors are taken as fake ones.

    Args:
        workspace: what kernels need beside their results.
    """

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self._workspace = workspace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torchprof import _C

        kwargs = kwargs or {}
        if func.namespace == "profiler":  # record_function and its kin work on no tensors
            return func(*args, **kwargs)
        if func is torch.ops.aten.add.Tensor and _C.adds_gradients() and _may_be_overwritten(args[0]):
            func = torch.ops.aten.add_.Tensor
        _C.begin_kernel()
        results: list[torch.Tensor] = []
        workspace = 0
        try:
            returned: Any = super().__torch_dispatch__(func, types, args, kwargs)
            if func in CONTIGUOUS:
                returned = tuple(item if item is None else item.contiguous() for item in returned)
            results = list(find_tensors(returned))
            workspace = self._workspace(func, args, kwargs, results)
            return returned
        finally:
            _C.end_kernel(results, workspace)


def _may_be_overwritten(gradient: torch.Tensor) -> bool:
    """Whether autograd would add to this gradient in place: ``can_accumulate_inplace`` in PyTorch's ``input_buffer.cpp``."""
    from torchprof import _C

    return _C.use_counts(gradient)[1] <= HELD_BY_ENGINE_ALONE and is_non_overlapping_and_dense_or_false(gradient)


def fake_model(model: nn.Module | Callable[[], nn.Module], mode: FakeTensorMode) -> nn.Module:
    """A copy of a model, or what a function builds, with fake parameters and buffers on the CPU. Nothing is materialised.

    Raises:
        ModuleTypeError: it is no module and builds none.
        ArgumentError: the model is lazy: its parameters have no shape yet.
    """
    if isinstance(model, nn.Module):
        if is_lazy(walk(model)):
            raise ArgumentError(
                "model is lazy: its parameters have no shape before a first call. Run it once, on meta tensors for example"
            )
        memo: dict[int, Any] = {}
        for tensor in (*model.parameters(), *model.buffers()):
            if id(tensor) not in memo:
                memo[id(tensor)] = fake_values(tensor, mode)
        try:
            return copy.deepcopy(model, memo)
        except Exception as error:
            raise ArgumentError(
                f"model cannot be copied ({type(error).__name__}: {error}): pass a function that builds it instead"
            ) from error
    if not callable(model):
        raise ModuleTypeError(f"model must be a torch.nn.Module or a function that builds one, not {type(model).__name__}")
    with mode, torch.device("cpu"):
        built = model()
    if not isinstance(built, nn.Module):
        raise ModuleTypeError(f"model() must return a torch.nn.Module, not {type(built).__name__}: {built!r:.80}")
    return built


def fake_values(value: Any, mode: FakeTensorMode) -> Any:
    """The same value with a fake tensor on the CPU in place of every tensor in it."""
    if isinstance(value, torch.Tensor):
        with mode:
            fake = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cpu")
            if isinstance(value, nn.Parameter):
                return nn.Parameter(fake, requires_grad=value.requires_grad)
            return fake.requires_grad_(value.requires_grad)
    if isinstance(value, Mapping):
        return {name: fake_values(item, mode) for name, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(fake_values(item, mode) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(fake_values(item, mode) for item in value)
    return value
