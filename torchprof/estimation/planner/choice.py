"""One configuration of a training: how many GPUs, which batch, and a value of everything that is tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import torch

from torchprof.analysis.records import Record
from torchprof.wording import shown

__all__ = ["MESH", "SAME_SAMPLES", "Choice", "in_short"]

MESH: Final = ("replicate", "fsdp", "tp", "cp", "pp")
"""Names of dimensions of a mesh: values that are ints are how many ranks there are along each."""
SAME_SAMPLES: Final = ("tp", "cp", "pp")
"""The dimensions along which ranks work on the same samples."""
LONGEST: Final = 30


@dataclass(frozen=True)
class Choice(Mapping[str, Any]):
    """One configuration, as `torchprof.plan` hands it to your functions: ``choice.tp``, or ``choice["tp"]``.

    Attributes:
        gpus: how many ranks train together.
        batch: samples that a rank runs through the model at once.
        sequence: tokens of a sample; None where none were given.
        accumulation: how often that is done, and gradients are added up, before the optimizer's step.
        over: the value of each name in ``over=``. Each is also an attribute of the choice.
    """

    gpus: int
    batch: int
    sequence: int | None
    accumulation: int
    over: Mapping[str, Any]

    @property
    def mesh(self) -> dict[str, int]:
        """How many ranks there are along each dimension of the mesh that is named."""
        return {name: self.over[name] for name in MESH if is_size(self.over.get(name))}

    @property
    def data_ranks(self) -> int:
        """How many ranks, or groups of ranks, have samples of their own: all but those along ``tp``, ``cp`` and ``pp``."""
        return self.gpus // prod(self.mesh.get(name, 1) for name in SAME_SAMPLES)

    @property
    def samples(self) -> int:
        """Samples of a step of the optimizer, of all ranks."""
        return self.batch * self.data_ranks * self.accumulation

    @property
    def tokens(self) -> int | None:
        """Tokens of a step of the optimizer, of all ranks; None where no ``sequence`` was given."""
        return None if self.sequence is None else self.samples * self.sequence

    def to_dict(self) -> Record:
        """The same as plain data."""
        return {name: plain(value) for name, value in self.items()}

    def __getitem__(self, name: str) -> Any:
        if name in FIELDS:
            return getattr(self, name)
        return self.over[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*FIELDS, *self.over))

    def __len__(self) -> int:
        return len(FIELDS) + len(self.over)

    def __getattr__(self, name: str) -> Any:
        over = self.__dict__.get("over", {})  # it is looked up before there is one where a choice is copied
        if name in over:
            return over[name]
        raise AttributeError(f"the choice has no {name!r}: it has {', '.join((*FIELDS, *over))}")

    def __hash__(self) -> int:
        return hash((self.gpus, self.batch, self.sequence, self.accumulation))

    def __str__(self) -> str:
        """Example: ``64 GPUs, fsdp 16, tp 4, full, batch 1 x 4``."""
        of_over = [f"{name} {in_short(value)}" if not isinstance(value, str) else value for name, value in self.over.items()]
        batch = f"batch {self.batch}" + (f" x {self.accumulation}" if self.accumulation > 1 else "")
        return ", ".join((f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}", *of_over, batch))


FIELDS: Final = ("gpus", "batch", "sequence", "accumulation")


def is_size(value: Any) -> bool:
    """Whether a value of a dimension of the mesh is a number of ranks, and not a flag of the program's own."""
    return isinstance(value, int) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """A value as it can be written to JSON."""
    return value if value is None or isinstance(value, bool | int | float | str) else in_short(value)


def in_short(value: Any) -> str:
    """A value in a table."""
    if isinstance(value, str):
        return value
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    name = getattr(value, "__name__", None)
    return name if isinstance(name, str) else shown(value, LONGEST)
