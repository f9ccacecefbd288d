"""What kernels need beside their results while they run.

On the CPU it is measured: every op but those that are known to need nothing is run once for real for each distinct set of
arguments, and what PyTorch hands out meanwhile is counted. So nothing has to be known of how a library such as oneDNN chooses
its layouts, or LAPACK its workspaces.

On CUDA nothing can be measured without one: what is known by rule is in ``torchprof.estimation.rules.cudnn``.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import torch
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map, tree_map_only

from torchprof import _native
from torchprof.estimation.fake.real_ops import stand_in
from torchprof.record.nested import find_tensors

__all__ = ["MeasuredOnCpu", "Workspaces"]

aten = torch.ops.aten

LARGE: Final = frozenset(
    {
        aten.convolution.default,
        aten.convolution_backward.default,
        aten.mkldnn_rnn_layer.default,
        aten.mkldnn_rnn_layer_backward.default,
    }
)
"""Ops whose workspace may be as large as their tensors."""

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
LARGEST: Final = 2**28
"""Bytes of inputs and results above which an op is not run for real: it would take too long."""


class Workspaces:
    """What is known of kernels beside their results: nothing.

    Attributes:
        amends: ops whose results it amends.
    """

    amends: frozenset[Any] = frozenset()

    def bytes(self, func: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int:
        """What the kernel of an op needs while it runs."""
        return 0

    def amended(self, func: Any, args: Any, kwargs: Any, returned: Any) -> Any:
        """What an op returned, where PyTorch's rule does not know its size."""
        return returned


class MeasuredOnCpu(Workspaces):
    """Workspaces of the CPU's kernels, measured once for each op and set of arguments.

    Attributes:
        too_large: names of ops that were not run, because their tensors are larger than ``LARGEST``.
    """

    amends = frozenset({aten.mkldnn_rnn_layer.default})

    def __init__(self) -> None:
        self._known: dict[Any, int] = {}
        self.too_large: set[str] = set()

    def amended(self, func: Any, args: Any, kwargs: Any, returned: Any) -> Any:
        # The last result of a layer of an LSTM is what its backward needs, in a layout of oneDNN's.
        if returned[3].numel():
            return returned
        key = (func, "kept", _shown(args))
        if key not in self._known:
            with _disable_current_modes(), torch.enable_grad():
                kept = func(*tree_map_only(torch.Tensor, stand_in, args))[3]
            self._known[key] = kept.numel() if kept is not None else 0
        return (*returned[:3], torch.empty(self._known[key], dtype=returned[3].dtype))

    def bytes(self, func: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int:
        if func in ATTENTION:
            # The workspace is per thread, whatever the batch and the heads: where running it takes long, one is enough.
            if _size(args, results) > SMALL:
                args, kwargs = tree_map(_one_head, (args, kwargs))
                results = [_one_head(result) for result in results]
        elif _needs_nothing(func) and not (_is_pointwise(func) and _mixes_dtypes(args)):
            return 0
        key = (func, _shown(args), _shown(tuple(kwargs.items())))
        if key not in self._known:
            self._known[key] = self._measure(func, args, kwargs, results)
        return self._known[key]

    def _measure(self, func: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int:
        if _size(args, results) > LARGEST:
            if func in LARGE:
                self.too_large.add(str(func))
            return 0
        given = {tensor.untyped_storage()._cdata for tensor in find_tensors((args, list(kwargs.values())))}
        made = [result for result in results if result.untyped_storage()._cdata not in given]
        try:
            with _disable_current_modes(), torch.enable_grad():
                real_args, real_kwargs = tree_map_only(torch.Tensor, stand_in, (args, kwargs))
                _native.real_peak()  # forgets what making the arguments took
                returned = func(*real_args, **real_kwargs)
                peak = _native.real_peak()
        except Exception:  # it does not work on stand-ins
            return 0
        del returned
        return max(0, peak - _size((), made))


@cache
def _needs_nothing(func: Any) -> bool:
    name = func._schema.name.removeprefix("aten::")
    known = name in NO_WORKSPACE or name.startswith("_foreach") or func.is_view or _is_pointwise(func)
    return known or func.namespace != "aten"


@cache
def _is_pointwise(func: Any) -> bool:
    return torch.Tag.pointwise in func.tags


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
