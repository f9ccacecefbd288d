"""Numbers that a program makes tensors of, and reads again: what FakeTensorMode does with one of them, in a tenth of the time.

Optimizers count the steps of each parameter so.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from torchprof.estimation.fake.recipes import CPU, META, empty_strided
from torchprof.estimation.torch_private import ESTIMATE

__all__ = ["OF_NUMBERS", "UNKNOWN", "of_number"]

FakeTensor = ESTIMATE.FakeTensor
DisableTorchDispatch = ESTIMATE.DisableTorchDispatch
LIFT: Final = torch.ops.aten.lift_fresh.default
ITEM: Final = torch.ops.aten._local_scalar_dense.default

OF_NUMBERS: Final = frozenset({LIFT, ITEM})
"""The ops that make a tensor of a number and that read one."""
UNKNOWN: Final = object()
"""In place of what an op returns: it is given something else."""


def of_number(mode: Any, func: Any, given: Any) -> Any:
    """What an op of `OF_NUMBERS` returns for this argument; `UNKNOWN` where it is no known number."""
    if func is LIFT:
        is_number = type(given) is torch.Tensor and given.numel() <= 1 and given.device == CPU and not given.requires_grad
        return _lifted(mode, given) if is_number and given.layout is torch.strided else UNKNOWN
    if type(given) is not FakeTensor or given.constant is None:
        return UNKNOWN
    no_modes = DisableTorchDispatch()
    try:
        return ITEM(given.constant)
    finally:
        del no_modes


def _lifted(mode: Any, number: torch.Tensor) -> torch.Tensor:
    """As ``mode.fake_tensor_converter.from_real_tensor(mode, number.clone(), make_constant=True)``."""
    no_modes = DisableTorchDispatch()
    try:
        constant = number.clone()
        made = empty_strided(constant.shape, constant.stride(), dtype=constant.dtype, device=META)
        fake: torch.Tensor = FakeTensor(mode, made, CPU, constant=constant)
    finally:
        del no_modes
    # What is written to the number, and views of it, are found by these.
    converter = mode.fake_tensor_converter
    converter.set_tensor_memo(constant, fake)
    of_storages = converter.meta_converter
    of_storages.storage_memo[of_storages.describer.get_storage_id(constant.untyped_storage())] = fake.untyped_storage()
    converter.add_constant_storage_mapping(fake)
    return fake
