"""After a model raised an exception: a call with almost the same inputs that works, found by trying it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import combinations
from math import prod
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from torchprof.errors import TorchprofError
from torchprof.record.inputs import Inputs, make_inputs
from torchprof.record.mismatch import is_of_inputs
from torchprof.record.opaque import opaque_because
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

    def each(self) -> list[tuple[int, ...]]:
        """The size of every input."""
        sizes = self.input_size if self.are_several() else [self.input_size]
        return [tuple(map(int, size)) for size in sizes]

    def are_several(self) -> bool:
        """Whether it is a list of sizes."""
        return bool(self.input_size) and isinstance(self.input_size[0], Sequence)

    def call(self) -> str:
        """As it is written in a program."""
        sizes = self.each()
        arguments = ["model", repr(sizes if self.are_several() else sizes[0])]
        arguments += [
            f"{name}={value!r}" for name, value in zip(("batch_size", "dtypes"), self[1:3], strict=True) if value is not None
        ]
        return f"torchprof.summary({', '.join(arguments)}{f', device={str(self.device)!r}' if self.device is not None else ''})"


Attempt = tuple[str, str, Callable[[], Inputs | None]]
"""Why it may work, the call as it is written, and what makes its inputs."""

MISSING: Final = "a batch dimension seems to be missing"


@contextmanager
def names_working_call(
    model: nn.Module, sizes: Sizes, input_data: Any = None, write: Callable[[Sizes], str] = Sizes.call
) -> Iterator[None]:
    """Add to an exception of the model a note that names a call that works, if one is found.

    It is looked for where the exception seems to be about the inputs. Every attempt is a run of the model that leaves it as it
    was, and whose exceptions are caught.

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
        with suppress(Exception):  # which must not hide that of the model
            attempts = _other_sizes(model, error, sizes, write) if sizes.input_size is not None else _other_data(input_data)
            fails_again: bool | None = None  # it may have failed for once, or in backward
            for why, call, make in attempts if is_of_inputs(error) and not _is_compiled(model) else ():
                if _runs(model, make):
                    if fails_again is None:
                        fails_again = not _runs(model, _inputs_of(model, sizes, input_data))
                    if fails_again:
                        error.add_note(f"torchprof.summary: {why}. This works: {call}")
                    break
        raise


def _other_sizes(model: nn.Module, error: Exception, sizes: Sizes, write: Callable[[Sizes], str]) -> Iterator[Attempt]:
    others = [(MISSING, sizes._replace(batch_size=BATCH))]
    if sizes.batch_size is not None:
        others = [("the batch dimension seems to be given twice", sizes._replace(batch_size=None))]
    elif sizes.are_several():
        others += [(f"{MISSING} in some inputs", sizes._replace(input_size=mixed)) for mixed in _some_batched(sizes.each())]
    for because, dtype in _other_dtypes(model, error) if sizes.dtypes is None else ():
        of_this = [(because, sizes), *((f"{why}, and {because}", other) for why, other in others if other.dtypes is None)]
        others += [(why, other._replace(dtypes=dtype)) for why, other in of_this]
    for why, other in others:
        if sum(map(prod, other.each())) * BATCH <= LARGEST:
            yield why, write(other), _inputs_of(model, other)


def _inputs_of(model: nn.Module, sizes: Sizes, data: Any = None) -> Callable[[], Inputs | None]:
    input_size, batch_size, dtypes, device = sizes
    return partial(make_inputs, model, input_size, batch_size=batch_size, input_data=data, dtypes=dtypes, device=device)


def _is_compiled(model: nn.Module) -> bool:
    """Whether to run it with other sizes would compile it again."""
    return any(opaque_because(module) == "compiled" for module in model.modules())


def _other_dtypes(model: nn.Module, error: Exception) -> Iterator[tuple[str, torch.dtype]]:
    """Dtypes that the inputs may need, and why."""
    if any(word in str(error) for word in WANT_INTEGERS):
        yield "the model seems to take integers", torch.long
    own = next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), None)
    if own not in (None, torch.get_default_dtype()):
        yield f"its parameters are {own}", own


def _some_batched(sizes: list[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """The sizes with a batch put before some of them: the one that the others begin with."""
    count = len(sizes)
    for missing in range(1, count if count <= MOST_INPUTS else 0):
        for rows in combinations(range(count), missing):
            batches = {size[:1] for row, size in enumerate(sizes) if row not in rows}
            if len(batches) == 1 and (batch := batches.pop()):
                yield [batch + size if row in rows else size for row, size in enumerate(sizes)]


def _other_data(data: Any) -> Iterator[Attempt]:
    """A tensor of the caller's as a batch of one, or twice as a batch of two."""
    if isinstance(data, torch.Tensor) and data.numel() * BATCH <= LARGEST:
        yield MISSING, "torchprof.summary(model, input_data=data[None])", lambda: Inputs((data[None],))
        twice = "torchprof.summary(model, input_data=torch.stack([data, data]))"
        yield MISSING, twice, lambda: Inputs((torch.stack([data, data]),))


def _runs(model: nn.Module, make: Callable[[], Inputs | None]) -> bool:
    try:
        with warnings.catch_warnings(), preserved_random_states():
            warnings.simplefilter("ignore")
            inputs = make()
            assert inputs is not None
            record_single_pass(model, inputs)
    except Exception:
        return False
    return True
