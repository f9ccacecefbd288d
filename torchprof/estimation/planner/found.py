"""What an estimate says of one configuration, as plain data: what is kept in the cache and sent between processes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torchprof.analysis.records import Record

__all__ = ["Found", "Limit"]


@dataclass(frozen=True, slots=True)
class Limit:
    """A lower bound of the time of a step, in seconds, as `Estimate.bound` gives it; None is not known.

    Attributes:
        compute, communication, step: of these alone, and of the step.
        mfu: the part of the peak that the model's own FLOPs are at that bound.
        unknown: what was not counted.
    """

    compute: float | None
    communication: float | None
    step: float | None
    mfu: float | None
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of one configuration.

    Attributes:
        needed: bytes that have to be free on each GPU; None where the estimate raised.
        fits: whether it does; None where that is not known. The allocator frees what it has cached before it raises out of
            memory, so less than ``needed`` can be enough.
        by_category: bytes at the peak, by category.
        alloc_retries: how often it does, where less is there and is enough, in the steps that were estimated.
        is_least: whether ``needed`` is only a lower bound, of what is there in any step: the step was not estimated.
        passes: forward and backward passes of the step that was estimated: at most two, as further ones are like the second.
        sent: of that step, bytes by collective and dimension of the mesh, as `Estimate.communication` has them.
        flops, flops_unknown: of that step, and the ops whose FLOPs nobody knows.
        flops_recomputed: those of ``flops`` that checkpointing computes again.
        limit: a lower bound of its time; None where there is none.
        unmeasured: bytes that may be missing.
        error: why there is no estimate.
        notes: what is not in it.
        assumed: what was assumed of values, in words, as of routers of experts.
        seconds: that it took.
    """

    needed: int | None = None
    fits: bool | None = None
    by_category: dict[str, int] = field(default_factory=dict)
    alloc_retries: int = 0
    is_least: bool = False
    passes: int = 1
    sent: tuple[Record, ...] = ()
    flops: int | None = None
    flops_unknown: tuple[str, ...] = ()
    flops_recomputed: int | None = None
    limit: Limit | None = None
    unmeasured: int = 0
    error: str = ""
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    seconds: float = 0.0

    def to_dict(self) -> Record:
        """The same as plain data."""
        return asdict(self)

    @classmethod
    def of(cls, record: Any) -> Found:
        """What `to_dict` made, also through JSON.

        Raises:
            TypeError, KeyError, ValueError: it is something else.
        """
        limit = record["limit"]
        if limit is not None:
            limit = Limit(**{**limit, "unknown": tuple(limit["unknown"])})
        lists = {name: tuple(record[name]) for name in ("sent", "flops_unknown", "notes", "assumed")}
        made = cls(**{**record, **lists, "limit": limit})
        if not isinstance(made.by_category, dict) or not isinstance(made.needed, int | None) or not isinstance(made.error, str):
            raise ValueError("it is nothing that was found")
        return made
