"""After a model raised an exception: a call with almost the same inputs that works, found by trying it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from math import prod
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from torchprof.errors import TorchprofError
from torchprof.record.inputs import Inputs, make_inputs
from torchprof.record.preserve import preserved_random_states
from torchprof.record.single_pass import record_single_pass

__all__ = ["Sizes", "names_working_call"]

BATCH: Final = 2
"""What is tried: a single sample is too few for BatchNorm."""

MOST_INPUTS: Final = 4
"""With more, it is not tried which of them lack the batch."""

LARGEST: Final = 2**28
"""Elements of the largest inputs that are tried: nobody asked for these runs."""

WANT_INTEGERS: Final = ("Long", "indices", "index tensor")
"""What exceptions say where integers are needed."""


class Sizes(NamedTuple):
    """What inputs are made from: the arguments of `torchprof.summary`."""

    input_size: Any
    batch_size: int | None = None
    dtypes: Any = None
    device: Any = None

    def call(self) -> str:
        """As it is written in a program."""
        given = [f"{name}={value!r}" for name, value in zip(self._fields[1:], self[1:], strict=True) if value is not None]
        return f"torchprof.summary({', '.join(['model', repr(self.input_size), *given])})"


@contextmanager
def names_working_call(
    model: nn.Module, sizes: Sizes, input_data: Any = None, write: Callable[[Sizes], str] = Sizes.call
) -> Iterator[None]:
    """Add to an exception of the model a note that names a call that works, if one is found.

    Every attempt is a run of the model that leaves it as it was, and whose exceptions are caught.

    Args:
        model: the model that runs inside the block.
        sizes: what its inputs are made from.
        input_data: or the caller's own.
        write: writes a call.
    """
    try:
        yield
    except (TorchprofError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        attempts = _other_sizes(model, error, sizes, write) if sizes.input_size is not None else _other_data(input_data)
        for why, call, attempt in attempts:
            if _runs(model, attempt):
                error.add_note(f"torchprof.summary: {why}. This works: {call}")
                break
        raise


MISSING: Final = "a batch dimension seems to be missing"


def _other_sizes(
    model: nn.Module, error: Exception, sizes: Sizes, write: Callable[[Sizes], str]
) -> Iterator[tuple[str, str, Inputs]]:
    others = [(MISSING, sizes._replace(batch_size=BATCH))]
    if sizes.batch_size is not None:
        others = [("the batch dimension seems to be given twice", sizes._replace(batch_size=None))]
    elif isinstance(sizes.input_size[0], Sequence):
        others += [(f"{MISSING} in some inputs", sizes._replace(input_size=mixed)) for mixed in _some_batched(sizes.input_size)]
    if sizes.dtypes is None and any(word in str(error) for word in WANT_INTEGERS):
        integers = "the model seems to take integers"
        whys = [(integers, sizes), *((f"{why}, and {integers}", other) for why, other in others)]
        others += [(why, other._replace(dtypes=torch.long)) for why, other in whys]
    for why, other in others:
        one = [other.input_size] if not isinstance(other.input_size[0], Sequence) else other.input_size
        if sum(map(prod, one)) * BATCH <= LARGEST:
            with preserved_random_states():
                made = make_inputs(
                    model,
                    other.input_size,
                    batch_size=other.batch_size,
                    input_data=None,
                    dtypes=other.dtypes,
                    device=other.device,
                )
            assert made is not None
            yield why, write(other), made


def _some_batched(input_size: Sequence[Sequence[int]]) -> Iterator[list[tuple[int, ...]]]:
    """The sizes with a batch put before some of them: the one that the others begin with."""
    count = len(input_size)
    for missing in range(1, count if count <= MOST_INPUTS else 0):
        for rows in combinations(range(count), missing):
            batches = {tuple(size[:1]) for row, size in enumerate(input_size) if row not in rows}
            if len(batches) == 1 and (batch := batches.pop()):
                yield [(*batch, *size) if row in rows else tuple(size) for row, size in enumerate(input_size)]


def _other_data(data: Any) -> Iterator[tuple[str, str, Inputs]]:
    """A tensor of the caller's as a batch of one, or twice as a batch of two."""
    if isinstance(data, torch.Tensor) and data.numel() * BATCH <= LARGEST:
        yield MISSING, "torchprof.summary(model, input_data=data[None])", Inputs((data[None],))
        yield MISSING, "torchprof.summary(model, input_data=torch.stack([data, data]))", Inputs((torch.stack([data, data]),))


def _runs(model: nn.Module, inputs: Inputs) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            record_single_pass(model, inputs)
    except Exception:
        return False
    return True
