"""What kernels need beside their results while they run.

On the CPU it is measured: the few ops whose kernels are known to need much are run once for real for each distinct set of
arguments, on uninitialised data, and what PyTorch hands out meanwhile is counted. So nothing has to be known of how a library
such as oneDNN chooses its layouts.

On CUDA nothing can be measured without one: what is known by rule is in ``torchprof.estimation.cudnn``.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map

from torchprof.nested import find_tensors

__all__ = ["MeasuredOnCpu", "Workspaces"]

aten = torch.ops.aten

WHOLE: Final = frozenset(
    {
        aten.convolution.default,
        aten.convolution_backward.default,
        aten.mkldnn_rnn_layer.default,
        aten.mkldnn_rnn_layer_backward.default,
    }
)
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
    """What is known of kernels beside their results: nothing."""

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

    def __init__(self) -> None:
        self._known: dict[Any, int] = {}
        self.too_large: set[str] = set()

    def amended(self, func: Any, args: Any, kwargs: Any, returned: Any) -> Any:
        # The last result of a layer of an LSTM is what its backward needs, in a layout of oneDNN's.
        if func is not aten.mkldnn_rnn_layer.default or returned[3].numel():
            return returned
        key = (func, "kept", _shown(args))
        if key not in self._known:
            with _disable_current_modes(), torch.enable_grad():
                kept = func(*tree_map(_real, args))[3]
            self._known[key] = kept.numel() if kept is not None else 0
        return (*returned[:3], torch.empty(self._known[key], dtype=returned[3].dtype))

    def bytes(self, func: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int:
        if func in ATTENTION:
            # The workspace is per thread, whatever the batch and the heads: where running it takes long, one is enough.
            if _size(args, results) > SMALL:
                args, kwargs = tree_map(_one_head, (args, kwargs))
                results = [_one_head(result) for result in results]
        elif func not in WHOLE:
            return 0
        key = (func, _shown(args), _shown(tuple(kwargs.items())))
        if key not in self._known:
            self._known[key] = self._measure(func, args, kwargs, results)
        return self._known[key]

    def _measure(self, func: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int:
        from torchprof import _C

        if _size(args, results) > LARGEST:
            self.too_large.add(str(func))
            return 0
        with _disable_current_modes(), torch.enable_grad():
            real_args, real_kwargs = tree_map(_real, (args, kwargs))
            _C.real_peak()  # forgets what making the arguments took
            returned = func(*real_args, **real_kwargs)
            peak = _C.real_peak()
        del returned
        return max(0, peak - _size((), results))


def _one_head(value: Any) -> Any:
    return value[:1, :1] if isinstance(value, torch.Tensor) and value.dim() >= 3 else value


def _size(args: Any, results: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in [*find_tensors(args), *results])


def _real(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cpu")


def _shown(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple(map(_shown, value))
    return value
