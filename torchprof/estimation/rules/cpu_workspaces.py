"""What the CPU's kernels need beside their results, measured: each is run for real, once for each distinct set of arguments.

So nothing has to be known of how a library such as oneDNN chooses its layouts, or LAPACK its workspaces. The arguments are
stand-ins (`torchprof.estimation.fake.real_ops`), what PyTorch allocates while the kernel runs is counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, partial
from typing import Any, Final

import torch

from torchprof import _native
from torchprof.estimation.fake.real_ops import UnmeasuredError, stand_in
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
ATTENTION: Final = frozenset(
    {
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
    }
)
SMALL: Final = 2**24
"""Bytes of inputs and results above which attention is run for one head only."""
LARGEST: Final = 2**28
"""Bytes of inputs and results above which an op is not run for real: it would take too long."""


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
        elif _needs_nothing(op) and not (_is_pointwise(op) and _mixes_dtypes(args)):
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
                f"workspaces of ops whose tensors take more than {format_bytes(LARGEST)}, too large to be run for real: "
                f"{largest}; each may need as much again while it runs"
            )

    def _measure(self, op: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int:
        size = _size(args, results)
        if size > LARGEST:
            name = op._schema.name
            self._too_large[name] = max(size, self._too_large.get(name, 0))
            return 0
        given = {tensor.untyped_storage()._cdata for tensor in find_tensors((args, list(kwargs.values())))}
        made = [result for result in results if result.untyped_storage()._cdata not in given]
        return max(0, _peak_of(op, args, kwargs) - _size((), made))


def _peak_of(op: Any, args: Any, kwargs: Any) -> int:
    """The most that PyTorch allocates while an op runs.

    Raises:
        UnmeasuredError: it does not work on stand-ins.
    """
    refused: list[str] = []  # not the errors, which would keep the tensors of their frames
    for integers in (0, 1):  # such as pivots, which count from 1
        make = partial(stand_in, integers=integers)
        try:
            with ESTIMATE.disable_modes(), torch.enable_grad():
                real_args, real_kwargs = ESTIMATE.tree_map_only(torch.Tensor, make, (args, kwargs))
                _native.real_peak()  # forgets what making the arguments took
                returned = op(*real_args, **real_kwargs)
                peak: int = _native.real_peak()
        except Exception as error:
            refused.append(f"{type(error).__name__}: {error}")
        else:
            del returned
            return peak
    reason = f"it was run on tensors of ones to see what it needs beside its results, and failed ({refused[0]})"
    raise UnmeasuredError(op, reason)


@cache
def _needs_nothing(op: Any) -> bool:
    name = op._schema.name.removeprefix("aten::")
    return name in NO_WORKSPACE or name.startswith("_foreach") or op.is_view or _is_pointwise(op)


@cache
def _is_pointwise(op: Any) -> bool:
    return torch.Tag.pointwise in op.tags


def _mixes_dtypes(args: Any) -> bool:
    """Whether the kernel first makes copies of one dtype. A tensor without dimensions is read as a number."""
    dtypes = {arg.dtype for arg in args if isinstance(arg, torch.Tensor) and arg.dim()}
    return len(dtypes) > 1


def _one_head(value: Any) -> Any:
    return value[:1, :1] if isinstance(value, torch.Tensor) and value.dim() >= 3 else value


def _size(args: Any, results: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in [*find_tensors(args), *results])


def _shown(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple(map(_shown, value))
    return value
