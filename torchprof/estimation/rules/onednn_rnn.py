"""An LSTM on the CPU keeps a reserve for its backward, in a layout of oneDNN's. PyTorch's fake kernel leaves it empty."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch

from torchprof.estimation.fake.real_ops import UnmeasuredError
from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.torch_private import ESTIMATE

RESERVE = 3
"""Which of its results is kept."""


class Layout(NamedTuple):
    """What of a tensor decides the size of the reserve."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def filled(self) -> torch.Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype).fill_(1)


@rule(
    Kind.RESULT,
    "aten::mkldnn_rnn_layer",
    on="cpu",
    when="training",
    source="measured: the layer is run for real, once for each distinct set of arguments; mkldnn_rnn_layer in "
    "aten/src/ATen/native/mkldnn/RNN.cpp asks oneDNN for the size of its workspace",
)
def onednn_rnn_reserve(op: Any, args: Any, kwargs: Any, returned: Any) -> Any:
    if returned[RESERVE].numel():
        return returned
    size = _size_of_reserve(op, tuple(_layout(arg) for arg in args))
    return (*returned[:RESERVE], torch.empty(size, dtype=returned[RESERVE].dtype))


def _layout(arg: Any) -> Any:
    if isinstance(arg, torch.Tensor):
        return Layout(tuple(arg.shape), arg.stride(), arg.dtype)
    return tuple(arg) if isinstance(arg, list) else arg


@lru_cache(maxsize=256)
def _size_of_reserve(op: Any, layouts: tuple[Any, ...]) -> int:
    try:
        with ESTIMATE.disable_modes(), torch.enable_grad():
            kept = op(*(arg.filled() if isinstance(arg, Layout) else arg for arg in layouts))[RESERVE]
    except Exception as error:
        raise UnmeasuredError(op, f"it was run on tensors of ones to see what it keeps, and failed ({error})") from error
    return kept.numel() if kept is not None else 0
