"""Runs an op for real, on stand-ins, to see what PyTorch allocates meanwhile."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch

from torchprof import _native
from torchprof.estimation.fake.real_ops import UnmeasuredError, stand_in
from torchprof.estimation.fake.sparse import with_strides
from torchprof.estimation.torch_private import ESTIMATE
from torchprof.record.nested import find_tensors

__all__ = ["RealRun", "run_for_real"]


class RealRun(NamedTuple):
    """What was seen of a run.

    Attributes:
        peak: the most that was allocated, in bytes.
        made: bytes of what it returned, without what it was given.
        shapes: of what it returned.
    """

    peak: int
    made: int
    shapes: list[torch.Size]


def run_for_real(op: Any, args: Any, kwargs: Any) -> RealRun:
    """Run an op on stand-ins for these arguments.

    Raises:
        UnmeasuredError: it does not work on stand-ins.
    """
    refused: list[str] = []  # not the errors, which would keep the tensors of their frames
    for integers in (0, 1):  # such as pivots, which count from 1
        make = partial(stand_in, integers=integers)
        try:
            with ESTIMATE.disable_modes(), torch.enable_grad():
                real_args, real_kwargs = ESTIMATE.tree_map_only(torch.Tensor, make, (args, kwargs))
                given = _storages((real_args, real_kwargs))
                _native.real_peak()  # forgets what making the arguments took
                returned = op(*real_args, **real_kwargs)
                peak: int = _native.real_peak()
                made = sum(size for pointer, size in _storages(returned).items() if pointer not in given)
                return RealRun(peak, made, [tensor.shape for tensor in with_strides(find_tensors(returned))])
        except Exception as error:
            refused.append(f"{type(error).__name__}: {error}")
    reason = f"it was run on tensors of ones to see what it needs beside its results, and failed ({refused[0]})"
    raise UnmeasuredError(op, reason)


def _storages(values: Any) -> dict[int, int]:
    """Bytes of storages, by what they are known by."""
    storages = [tensor.untyped_storage() for tensor in with_strides(find_tensors(values))]
    return {storage._cdata: storage.nbytes() for storage in storages}
