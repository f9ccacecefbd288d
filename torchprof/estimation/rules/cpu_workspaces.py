"""What the CPU's kernels need beside their results, measured: each is run for real, once for each distinct set of arguments.

So nothing has to be known of how a library such as oneDNN chooses its layouts, or LAPACK its workspaces. The arguments are
stand-ins (`torchprof.estimation.fake.real_ops`), what PyTorch allocates while the kernel runs is counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import product
from typing import Any, Final

import torch

from torchprof.estimation.fake.real_ops import UnmeasuredError
from torchprof.estimation.fake.sparse import has_sparse, is_sparse, parts_of, returns_known, with_strides
from torchprof.estimation.rules.blas_operands import PRODUCTS, suits_blas
from torchprof.estimation.rules.partial_calls import Part, parts_of_call
from torchprof.estimation.rules.real_runs import run_for_real
from torchprof.estimation.rules.registry import Kind, Workspaces, rule
from torchprof.estimation.target import Target
from torchprof.estimation.torch_private import ESTIMATE
from torchprof.record.nested import find_tensors
from torchprof.rendering.units import format_bytes

aten = torch.ops.aten

NO_WORKSPACE: Final = frozenset(
    """mm addmm bmm baddbmm mv dot sum mean clone copy_ _to_copy fill_ zero_ cat stack embedding arange scalar_tensor lift_fresh
    empty empty_like empty_strided new_empty new_empty_strided zeros zeros_like new_zeros ones ones_like new_ones full full_like
    new_full bernoulli bernoulli_ normal_ uniform_ rand randn randint randperm _local_scalar_dense item equal nonzero set_
    resize_ native_layer_norm native_batch_norm _softmax _log_softmax _softmax_backward_data
    _log_softmax_backward_data""".split()
)
"""Ops that need nothing, or next to it; besides them views, and what works element by element."""
IN_FLOAT32_ONLY: Final = frozenset("mm addmm bmm baddbmm mv dot mean".split())
"""Of these, those that make copies in float32 or in a layout of oneDNN's in 16 bits."""
IN_ORDER: Final = frozenset("native_layer_norm _softmax _log_softmax _softmax_backward_data _log_softmax_backward_data".split())
"""Ops that copy what is not contiguous."""
HALF: Final = frozenset({torch.float16, torch.bfloat16})
ATTENTION: Final = frozenset(
    {
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
    }
)
SMALL: Final = 2**24
"""Bytes of inputs and results above which attention is run for one head only; and up to which others are, in part."""
LARGEST: Final = 2**28
"""Bytes of inputs and results above which an op is not run for real, but in part: it would take too long."""


@rule(
    Kind.WORKSPACE,
    on="cpu",
    when="every op but those of NO_WORKSPACE, views and pointwise ops of one dtype; attention of more than 16 MiB for one head",
    source="measured: the kernel is run on stand-ins, and what PyTorch's CPU allocator reports meanwhile is counted",
)
class cpu_workspaces(Workspaces):
    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._known: dict[Any, int] = {}
        self._too_large: dict[str, int] = {}  # by op, bytes of the largest call

    def bytes(self, op: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int:
        if op in ATTENTION:
            # The workspace is per thread, whatever the batch and the heads: where running it takes long, one is enough.
            if _size(args, results) > SMALL:
                args, kwargs = ESTIMATE.tree_map(_one_head, (args, kwargs))
                results = [_one_head(result) for result in results]
        elif _needs_nothing(op, args):
            return 0
        elif op.namespace != "aten" and not _is_pointwise(op):
            return 0  # a custom op: running it could do anything
        key = (op, _shown(args), _shown(tuple(kwargs.items())))
        if key not in self._known:
            self._known[key] = self._measure(op, args, kwargs, results)
        return self._known[key]

    def notes(self) -> Iterable[str]:
        if self._too_large:
            largest = ", ".join(f"{name} ({format_bytes(size)})" for name, size in sorted(self._too_large.items()))
            yield (
                f"workspaces of ops whose tensors take more than {format_bytes(LARGEST)}, too large to be run for real, and "
                f"which cannot be run in part: {largest}; each may need as much again while it runs, at most "
                f"{format_bytes(self.unknown)}"
            )

    @property
    def unknown(self) -> int:
        return max(self._too_large.values(), default=0)  # one op runs at a time

    def _measure(self, op: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int:
        given = {tensor.untyped_storage()._cdata for tensor in with_strides(find_tensors((args, kwargs)))}
        made = [result for result in results if result.untyped_storage()._cdata not in given]
        size = _size(args, made)
        if size > LARGEST:
            in_part = _measured_in_part(op, args, kwargs, results, size)
            if in_part is None:
                name = op._schema.name
                self._too_large[name] = max(size, self._too_large.get(name, 0))
            return in_part or 0
        return max(0, run_for_real(op, args, kwargs).peak - _size((), made))


def _measured_in_part(op: Any, args: Any, kwargs: Any, results: list[torch.Tensor], size: int) -> int | None:
    """What a call needs, by what it needs for part of its tensors; None where that cannot be told."""
    for part, largest in product(parts_of_call(op, args), (SMALL, LARGEST)):

        def needed(count: int, part: Part = part) -> int:
            run = run_for_real(op, part.cut(args, count), {name: part.cut(value, count) for name, value in kwargs.items()})
            if run.shapes != [part.cut(result, count).shape for result in results]:
                raise UnmeasuredError(op, "part of its tensors give no part of its results")
            return max(0, run.peak - run.made)

        try:
            found = part.extrapolated(largest / size, needed)
        except UnmeasuredError:
            continue
        if found is not None:
            return found
    return None


def _needs_nothing(op: Any, args: Any) -> bool:
    """Whether a call needs nothing, or next to it, beside its results."""
    if _is_known_in_float32_only(op) and any(isinstance(arg, torch.Tensor) and arg.dtype in HALF for arg in args):
        return False
    if not _are_read_as_they_lie(op, args):
        return False
    if _is_known_to_need_nothing(op) and (not _is_pointwise(op) or _are_of_one_kind(args)):
        return True
    return has_sparse(args) and (returns_known(op) or _replaces_sparse(op, args))


def _are_read_as_they_lie(op: Any, args: Any) -> bool:
    """Whether the kernel makes no copies of its arguments."""
    name = op._schema.name.removeprefix("aten::")
    if name in PRODUCTS:
        return all(suits_blas(args[place]) for place in PRODUCTS[name] if place < len(args))
    if name in IN_ORDER:
        return all(arg.is_contiguous() for arg in args if isinstance(arg, torch.Tensor) and not is_sparse(arg))
    return not _is_pointwise(op) or not any(map(_is_expanded, args))


def _is_expanded(value: Any) -> bool:
    if not isinstance(value, torch.Tensor) or is_sparse(value):
        return False
    return any(size > 1 and stride == 0 for size, stride in zip(value.shape, value.stride(), strict=True))


@cache
def _is_known_to_need_nothing(op: Any) -> bool:
    name = op._schema.name.removeprefix("aten::")
    return name in NO_WORKSPACE or name.startswith("_foreach") or op.is_view or _is_pointwise(op)


@cache
def _is_known_in_float32_only(op: Any) -> bool:
    return op._schema.name.removeprefix("aten::") in IN_FLOAT32_ONLY


@cache
def _is_pointwise(op: Any) -> bool:
    return torch.Tag.pointwise in op.tags


def _are_of_one_kind(args: Any) -> bool:
    """Whether all are of one dtype, of which the kernel else makes copies, and dense. What has no dimensions is a number."""
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor) and arg.dim()]
    return len({(tensor.dtype, is_sparse(tensor)) for tensor in tensors}) < 2 and not (tensors and is_sparse(tensors[0]))


def _replaces_sparse(op: Any, args: Any) -> bool:
    """Whether it writes to a sparse tensor or copies it, which needs nothing but the new indices and values."""
    return (op._schema.is_mutable or op is aten.clone.default) and is_sparse(args[0])


def _one_head(value: Any) -> Any:
    return value[:1, :1] if isinstance(value, torch.Tensor) and value.dim() >= 3 else value


def _size(args: Any, results: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in [*with_strides(find_tensors(args)), *results])


def _shown(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        if is_sparse(value):
            return tuple(value.shape), value.layout, tuple(map(_shown, parts_of(value)))
        return tuple(value.shape), value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple(map(_shown, value))
    return value
