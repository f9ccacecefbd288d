"""Whose memory a pass is to be counted as, where its tensors have none: those on ``meta``, and fake ones."""

from __future__ import annotations

from itertools import chain
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import nn

from torchprof.errors import ArgumentError
from torchprof.record.nested import find_tensors
from torchprof.record.torch_private import is_fake_mode_active

__all__ = ["DEVICES", "Counted", "counted_as"]

DEVICES: Final = ("cuda", "cpu")
"""Devices whose kernels are known."""


class Counted(NamedTuple):
    """How a pass is run whose memory is counted.

    Attributes:
        device: whose kernels are counted: ``"cuda"`` or ``"cpu"``.
        inputs_on: where to put the inputs; None to leave them where they are.
        otherwise_on: the same, if the pass turns out not to run on fake tensors and is run as it is.
        tensors: what has no memory.
    """

    device: Literal["cuda", "cpu"]
    inputs_on: str | None
    otherwise_on: str | None
    tensors: Literal["meta", "fake"] = "meta"


def counted_as(model: nn.Module, input_data: Any, device: Any) -> Counted | None:
    """How a pass is run; None where it has memory of its own, which is measured.

    Args:
        model: on any device.
        input_data: the caller's own inputs, or None.
        device: what the caller asks for: a device whose kernels are known, ``meta``, or None for that of fake tensors, and CUDA
            otherwise.

    Raises:
        ArgumentError: nothing has memory, and the kernels of the device are not known.
    """
    try:
        named = torch.device(device).type if device is not None else None
    except (RuntimeError, TypeError, ValueError):
        return None  # torchprof.record.inputs says so
    own = next(chain(model.parameters(), model.buffers()), None)
    given = list(find_tensors(input_data))
    fake = next((tensor for tensor in (own, *given) if type(tensor).__name__ == "FakeTensor"), None)
    is_fake = fake is not None or is_fake_mode_active()
    if not is_fake and not _is_on_meta(model, own, given, named):
        return None
    default = fake.device.type if fake is not None else "cpu" if is_fake else "cuda"
    if named in (None, "meta"):
        named = default if default in DEVICES else "cuda"
    elif named not in DEVICES:
        raise ArgumentError(
            f"device={device!r}: nothing is allocated here, and what would be is known for {' and '.join(DEVICES)} only: name "
            "one of these"
        )
    left = input_data is not None and (is_fake or all(tensor.is_meta for tensor in given))
    inputs_on = None if left else "meta"
    made_there = own is not None and own.is_meta and input_data is None  # where the model is
    otherwise_on = None if is_fake or made_there else inputs_on
    return Counted("cpu" if named == "cpu" else "cuda", inputs_on, otherwise_on, "fake" if is_fake else "meta")


def _is_on_meta(model: nn.Module, own: torch.Tensor | None, given: list[torch.Tensor], named: str | None) -> bool:
    if named == "meta" or (given and all(tensor.is_meta for tensor in given)):
        return True
    if own is None:
        return not given and named is None and torch.get_default_device().type == "meta"
    # Inputs that are real are left to the model: it may be one whose parameters are loaded as they are needed.
    return own.is_meta and all(parameter.is_meta for parameter in model.parameters()) and (not given or named is not None)
