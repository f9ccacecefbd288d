"""Running a program without memory or arithmetic: on fake tensors whose storages are counted as the real ones would be.

A fake tensor has a shape, a dtype and a device, and no data; PyTorch's own rules say what each op would return. Their
storages are on ``meta``, where the recorder counts them. Some things differ from a real run and are put right here:

- a rule may allocate on the way to its result what the kernel does not: only results are counted;
- a kernel may need a workspace that the rule does not know: see ``torchprof.estimation.rules.workspaces``;
- a rule may say other strides than the kernel's, and what follows may copy where it would not;
- autograd adds up gradients in place where nobody else holds them, and so do formulas with zeros they have just made, but
  neither does so with fake tensors.
"""

from __future__ import annotations

import copy
import gc
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._meta_registrations import _create_grouped_mm_output_tensor
from torch._prims_common import is_non_overlapping_and_dense_or_false
from torch._subclasses.fake_tensor import FakeTensorMode

from torchprof import _native
from torchprof.errors import ArgumentError, ModuleTypeError
from torchprof.estimation.fake.cache import MISS, FakeOpCache
from torchprof.estimation.fake.real_ops import RealOps, is_kept
from torchprof.estimation.rules import cudnn
from torchprof.estimation.rules.formulas import Formulas
from torchprof.estimation.rules.workspaces import Workspaces
from torchprof.record.modules import is_lazy, walk
from torchprof.record.nested import find_tensors

__all__ = ["EstimateMode", "Faking", "built", "fake_model", "matching_eager"]

aten = torch.ops.aten
DEVICE = torch.ops.prim.device.default

IN_PLACE = {
    aten.scatter_add.default: aten.scatter_add_.default,
    aten.scatter.src: aten.scatter_.src,
    aten.scatter.value: aten.scatter_.value,
    aten.index_add.default: aten.index_add_.default,
    aten.index_put.default: aten.index_put_.default,
}
"""What backward formulas do in place to zeros they have just made, and out of place where the tensor may be a subclass:
``isTensorSubclassLike`` in PyTorch's ``FunctionsManual.cpp``."""

CONTIGUOUS = frozenset({torch.ops.aten.native_layer_norm_backward.default})
"""Ops whose kernels return contiguous tensors where PyTorch's rule keeps the strides of the input."""


def _grouped_mm(mat_a: Any, mat_b: Any, offs: Any = None, bias: Any = None, out_dtype: Any = None) -> torch.Tensor:
    return _create_grouped_mm_output_tensor(mat_a, mat_b, offs, out_dtype)  # type: ignore[no-any-return, no-untyped-call]


OWN_RULES: dict[Any, Callable[..., Any]] = {aten._grouped_mm.default: _grouped_mm, **cudnn.RULES}
"""What ops return where PyTorch's rule refuses what the kernel takes: ``_grouped_mm`` of float32 and float16, whose kernels
(``_grouped_mm_fallback`` in PyTorch's ``GroupedMMUtils.h``) make the same tensor as that of bfloat16; and where it leaves out
what is kept."""

HELD_BY_ENGINE_ALONE = 2
"""Uses of the storage of a gradient that only autograd's engine holds: its own and that of the fake tensor around it."""


class EstimateMode(FakeTensorMode):  # type: ignore[no-untyped-call]
    """The mode that a program is run in. Everything made inside is fake; real tensors are taken as fake ones.

    Args:
        workspaces: what kernels need beside their results.
        real_ops: ops that may run for real on stand-ins.
    """

    def __init__(self, workspaces: Workspaces, real_ops: RealOps) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self._workspaces = workspaces
        self.real_ops = real_ops
        self.formulas = Formulas()
        self._known = FakeOpCache(self)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is DEVICE and getattr(args[0], "fake_mode", None) is self:  # half of all that is asked
            return args[0].fake_device
        if func is aten.detach.default:
            self.formulas.begin()
        if func.namespace == "profiler":  # record_function and its kin work on no tensors
            return func(*args, **kwargs)
        if func is aten.add.Tensor and _native.adds_gradients() and _may_be_overwritten(args[0]):
            func = aten.add_.Tensor
        elif func in IN_PLACE and torch._C._current_autograd_node() is not None and not torch.is_grad_enabled():
            func = IN_PLACE[func]
        results: list[torch.Tensor] = []
        workspace = 0
        try:
            _native.pause_recording()
            returned: Any = self._returned(func, types, args, kwargs)
            if func in CONTIGUOUS:
                returned = tuple(item if item is None else item.contiguous() for item in returned)
            if func in self._workspaces.amends:
                with self:
                    returned = self._workspaces.amended(func, args, kwargs, returned)
            results = list(find_tensors(returned))
            workspace = self._workspaces.bytes(func, args, kwargs, results)
            return returned
        finally:
            _native.resume_recording(results, workspace)

    def may_turn_const(self, t: torch.Tensor) -> bool:
        """Whether the values of a real tensor are kept beside the fake one: FakeTensorMode keeps only single numbers."""
        kept: bool = super().may_turn_const(t)
        return kept or (bool(self.real_ops) and type(t) is torch.Tensor and t.device.type == "cpu" and is_kept(t))

    def _returned(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func in OWN_RULES:
            with self:
                return OWN_RULES[func](*args, **kwargs)
        if not self.real_ops:
            key = self._known.key(func, args, kwargs)
            if key is None:
                return super().__torch_dispatch__(func, types, args, kwargs)
            answer = self._known.answer(key, args)
            if answer is MISS:
                answer = super().__torch_dispatch__(func, types, args, kwargs)
                self._known.learn(key, func, args, answer)
            return answer
        if self.real_ops.name(func):
            return self.real_ops.run(self, func, args, kwargs)
        try:
            returned: Any = super().__torch_dispatch__(func, types, args, kwargs)
        except Exception as error:
            if self.real_ops.allow(error):
                return self.real_ops.run(self, func, args, kwargs)
            raise
        self.real_ops.note_answer(func, args, kwargs, returned)
        return returned


def _may_be_overwritten(gradient: torch.Tensor) -> bool:
    """Whether autograd would add to this gradient in place: ``can_accumulate_inplace`` in PyTorch's ``input_buffer.cpp``."""
    return _native.use_counts(gradient)[1] <= HELD_BY_ENGINE_ALONE and is_non_overlapping_and_dense_or_false(gradient)


@contextmanager
def matching_eager(compiling: bool = False) -> Iterator[None]:
    """Libraries that do something else for fake tensors do what they would for real ones, until the block ends.

    transformers takes fake tensors for a compiler's, and then makes attention masks that it would leave out: whether several
    sequences are packed into one cannot be seen from them. They are not; under a compiler it makes those masks. And PyTorch's
    rules say nothing when they fail: their exceptions do.

    Python's garbage collector waits: tensors in reference cycles would go at a moment that depends on all the program did
    before, and the same step would need now more, now less. So they stay, which is the most it can need.
    """
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    masks: Any = sys.modules.get("transformers.masking_utils") if not compiling else None
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    looks_for_packed = getattr(masks, "find_packed_sequence_indices", None)
    logger.setLevel(logging.CRITICAL + 1)
    if looks_for_packed is not None:
        masks.find_packed_sequence_indices = lambda *args, **kwargs: None
    try:
        yield
    finally:
        if collects:
            gc.enable()
        logger.setLevel(level)
        if looks_for_packed is not None:
            masks.find_packed_sequence_indices = looks_for_packed


def built(model: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    """The model, or what a function builds on ``meta``: parameters without memory.

    Raises:
        ModuleTypeError: it is no module and builds none.
    """
    if isinstance(model, nn.Module):
        return model
    if not callable(model):
        raise ModuleTypeError(f"model must be a torch.nn.Module or a function that builds one, not {type(model).__name__}")
    with torch.device("meta"):
        made = model()
    if not isinstance(made, nn.Module):
        raise ModuleTypeError(f"model() must return a torch.nn.Module, not {type(made).__name__}: {made!r:.80}")
    return made


def fake_model(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """A copy of a model with fake parameters and buffers on the CPU, and other tensors that its modules keep.

    Raises:
        ArgumentError: the model is lazy: its parameters have no shape yet; or it cannot be copied.
    """
    if type(model).__name__ == "OptimizedModule":
        model = model._orig_mod  # type: ignore[assignment]  # a compiler would keep examples of its own
    places = walk(model)
    if is_lazy(places):
        raise ArgumentError(
            "model is lazy: its parameters have no shape before a first call. Run it once, on meta tensors for example"
        )
    faking = Faking(mode)
    kept = [value for place in places for value in vars(place.module).values() if isinstance(value, torch.Tensor)]
    memo: dict[int, Any] = {id(tensor): faking.tensor(tensor) for tensor in (*model.parameters(), *model.buffers(), *kept)}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise ArgumentError(
            f"model cannot be copied ({type(error).__name__}: {error}): pass a function that builds it instead"
        ) from error


class Faking:
    """Fake tensors on the CPU for real ones, or for those of any device. The same tensor gives the same, and tensors that
    share a storage share one."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self._mode = mode
        self._tensors: dict[int, torch.Tensor] = {}
        self._storages: dict[int, torch.Tensor] = {}

    def tensor(self, real: torch.Tensor) -> torch.Tensor:
        if id(real) not in self._tensors:
            with self._mode:
                fake = self._like(real)
                if isinstance(real, nn.Parameter):
                    fake = nn.Parameter(fake, requires_grad=real.requires_grad)
                else:
                    fake.requires_grad_(real.requires_grad)
            self._tensors[id(real)] = fake
        return self._tensors[id(real)]

    def values(self, value: Any) -> Any:
        """The same value with a fake tensor in place of every tensor in it."""
        if isinstance(value, torch.Tensor):
            return self.tensor(value)
        if isinstance(value, Mapping):
            return {name: self.values(item) for name, item in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self.values, value))
        if isinstance(value, list | tuple):
            return type(value)(map(self.values, value))
        return value

    def _like(self, real: torch.Tensor) -> torch.Tensor:
        shape, stride = real.shape, real.stride()
        storage = real.untyped_storage()
        if storage.nbytes() == real.numel() * real.itemsize and storage._cdata not in self._storages:
            self._storages[storage._cdata] = fake = torch.empty_strided(shape, stride, dtype=real.dtype, device="cpu")
            return fake
        base = self._storages.get(storage._cdata)
        if base is None or base.dtype != real.dtype:
            base = torch.empty(storage.nbytes() // real.itemsize, dtype=real.dtype, device="cpu")
            self._storages[storage._cdata] = base
        return base.detach().as_strided(shape, stride, real.storage_offset())
