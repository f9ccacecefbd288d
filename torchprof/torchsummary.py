"""The functions of the torchsummary package, for programs that were written for it: only the import changes.

    from torchprof.torchsummary import summary

    summary(model, (3, 224, 224))

What is printed is the text of torchsummary 1.5.1 to the character. The package is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import nn

from torchprof.rendering.torchsummary import parameter_counts, render
from torchprof.summarize import summary as summary_of

__all__ = ["ParameterCounts", "summary", "summary_string"]


class ParameterCounts(NamedTuple):
    """The parameters that the table counts: elements of ``weight`` and ``bias``, once for each row.

    Attributes:
        total: of all rows.
        trainable: of the rows whose ``weight`` requires a gradient.
    """

    total: int
    trainable: int


def summary(
    model: nn.Module,
    input_size: Any,
    batch_size: int = -1,
    device: str | torch.device | None = None,
    dtypes: Sequence[Any] | None = None,
) -> ParameterCounts:
    """Print the layers of ``model`` as torchsummary does.

    Unlike that package, this leaves the model as it was, has a table for LSTMs, dicts as outputs and TorchScript too, and makes
    inputs where the model is, unless told otherwise.

    Args:
        model: the module to look at. It runs once, in the train/eval and grad mode that are set, and is not moved.
        input_size: size of the input without the batch dimension, or a list of sizes for several inputs.
        batch_size: what is shown as the batch dimension. The model runs with 2 whatever this is, as in that package.
        device: where to put the inputs; by default where the model is. "cuda" means that too where there is no CUDA.
        dtypes: one for each input, as ``torch.long`` or ``torch.LongTensor``; by default ``torch.get_default_dtype()``.

    Returns:
        Total and trainable parameters, as its version on GitHub; 1.5.1 returns nothing.

    Raises:
        ArgumentError, ModuleTypeError: an argument is wrong.
        Exception: whatever the model raises.

    Example:
        >>> from torchprof.torchsummary import summary
        >>> total, trainable = summary(model, (3, 112, 112))
    """
    text, counts = summary_string(model, input_size, batch_size, device, dtypes)
    with suppress(BrokenPipeError):  # as Printed.print
        print(text)
    return counts


def summary_string(
    model: nn.Module,
    input_size: Any,
    batch_size: int = -1,
    device: str | torch.device | None = None,
    dtypes: Sequence[Any] | None = None,
) -> tuple[str, ParameterCounts]:
    """The text that `summary` prints, and what it returns."""
    found = summary_of(
        model, input_size, batch_size=-1, dtypes=dtypes, device=_existing(device), style="torchsummary", verbose=0
    )
    found.trace.facts["batch_size"] = batch_size
    return render(found.trace), ParameterCounts(*parameter_counts(found.trace))


def _existing(device: Any) -> Any:
    """None, which is where the model is, for the CUDA device that is this package's default where there is none."""
    named = device.lower() if isinstance(device, str) else device
    return None if str(named).startswith("cuda") and not torch.cuda.is_available() else named
