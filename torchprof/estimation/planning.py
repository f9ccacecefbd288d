"""Questions that estimates answer: the largest batch that fits, and which of several variants needs least."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import nn

from torchprof.allocator.gpus import capacity_of
from torchprof.arguments import check_int
from torchprof.errors import ArgumentError, ModuleTypeError
from torchprof.estimation.estimate import estimate
from torchprof.estimation.estimated import Estimate
from torchprof.rendering.units import format_bytes
from torchprof.tables.table import Table
from torchprof.terminal import is_terminal

__all__ = ["compare", "max_batch_size"]

LARGEST: Final = 2**40
"""Where a search without an end is given up: no device has memory for it."""

REFUSES_ONE: Final = "Expected more than 1 value per channel"
"""What ``torch.nn.functional.batch_norm`` says of a batch of one that it is to be trained with."""


def max_batch_size(
    model: nn.Module | Callable[[], nn.Module],
    inputs: Callable[[int], Any],
    capacity: int | str,
    *,
    at_least: int = 1,
    at_most: int | None = None,
    progress: Callable[[int, Estimate, bool | None], object] | None = None,
    **options: Any,
) -> int:
    """The largest batch with which a training step fits, found by estimating it for one batch size after the other.

    Args:
        model: as for `estimate`.
        inputs: makes the inputs of a batch, given its size: sizes, or tensors, on ``meta`` best, where they take no memory.
        capacity: bytes, memory such as ``"40GiB"``, or the name of a GPU of ``torchprof.GPUS``.
        at_least: the smallest batch to consider. Where that is 1, and a BatchNorm refuses a batch of one, it is 2.
        at_most: the largest batch to consider; None: as large as fits.
        progress: called after each estimate with the batch size, the estimate, and what its ``fits`` says; by default a line is
            printed to standard error where that is a terminal.
        options: further arguments of `estimate`.

    Returns:
        The batch size; 0 when not even ``at_least`` fits. Where it is not known whether a batch fits, it is taken not to.

    Raises:
        ArgumentError, ModuleTypeError, EstimateError: as for `estimate`; or ``at_least`` and ``at_most`` are no batch sizes;
            or without ``at_most``, every batch fits.

    Example:
        >>> torchprof.max_batch_size(model, lambda n: (n, 3, 224, 224), "A100-40GB", optimizer=torch.optim.SGD)
    """
    limit = capacity_of(capacity, options.get("device", "cuda"))
    for name, value in (("inputs", inputs), ("progress", progress)):
        if not callable(value) and (name == "inputs" or value is not None):
            raise ModuleTypeError(f"{name} must be a function, such as lambda batch: (batch, 3, 224, 224), not {value!r:.80}")
    check_int("at_least", at_least, 1)
    if at_most is not None:
        check_int("at_most", at_most, 1)
    if at_most is not None and at_most < at_least:
        raise ArgumentError(f"at_most={at_most} is less than at_least={at_least}: there is no batch size between them")
    if progress is None and is_terminal(sys.stderr):
        progress = _print_progress

    @functools.cache
    def fits(batch: int) -> bool:
        found = estimate(model, inputs(batch), capacity=capacity, **options)
        verdict = found.fits(limit)
        if progress is not None:
            progress(batch, found, verdict)
        return bool(verdict)

    last = at_most if at_most is not None else max(LARGEST, at_least)
    good, bad = 0, at_least
    if bad == 1 < last:
        try:
            fits(bad)
        except ValueError as error:
            if REFUSES_ONE not in str(error):
                raise
            bad = 2
    while bad <= last and fits(bad):
        good, bad = bad, bad * 2
    if bad > last and at_most is None:
        raise ArgumentError(
            f"inputs={inputs!r:.80} of a batch of {good} fit in {format_bytes(limit)}: does their size depend on the batch? "
            "Give at_most= if it is to end there"
        )
    bad = min(bad, last + 1)
    while good and bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def _print_progress(batch: int, found: Estimate, fits: bool | None) -> None:
    verdict = "may not fit" if fits is None else "fits" if fits else "does not fit"
    print(f"batch {batch}: {format_bytes(found.device_memory)}, {verdict}", file=sys.stderr)


def compare(variants: Mapping[str, Estimate]) -> Table:
    """Estimates side by side, one row each.

    Args:
        variants: estimates by name.

    Raises:
        ModuleTypeError: they are not.

    Example:
        >>> torchprof.compare({
        ...     "float32": torchprof.estimate(model, sizes, optimizer=torch.optim.AdamW),
        ...     "bfloat16": torchprof.estimate(model, sizes, optimizer=torch.optim.AdamW, amp=torch.bfloat16),
        ... })
    """
    if not isinstance(variants, Mapping):
        raise ModuleTypeError(f"variants must be a dict of estimates by name, not {type(variants).__name__}")
    for name, found in variants.items():
        if not isinstance(found, Estimate):
            raise ModuleTypeError(f"variants[{name!r}] must be what torchprof.estimate returned, not {found!r:.80}")
    rows = []
    for name, found in variants.items():
        held = found.memory.by_category
        rows.append(
            {
                "name": name,
                "needed": found.device_memory,
                "max_allocated": found.max_allocated,
                "max_reserved": found.max_reserved,
                "flops": found.flops,
                "flops_unknown": list(found.flops_unknown),
                **{f"peak_{category.replace(' ', '_')}": count for category, count in held.items()},
            }
        )
    shown = [f"peak_{name}" for name in ("parameters", "gradients", "optimizer_state", "activations", "temporaries")]
    return Table("Variant", rows, ("needed", "max_allocated", "max_reserved", *shown, "flops"))
