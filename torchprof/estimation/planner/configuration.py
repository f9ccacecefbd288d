"""One configuration and what is known of it: a row of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from torchprof.analysis.records import Record
from torchprof.estimation.planner.choice import Choice
from torchprof.estimation.planner.found import Found, Limit
from torchprof.rendering.units import format_bytes

__all__ = ["Configuration", "Status"]

Status = Literal["fits", "does not fit", "unknown", "failed", "not estimated"]
LARGEST_SHOWN: Final = 2


@dataclass(frozen=True, slots=True)
class Configuration:
    """One configuration and what it needs, of each GPU, in a step of the optimizer.

    Attributes:
        choice: what it is.
        capacity: bytes that each GPU has.
        found: what is known of it; None where it was not estimated.
    """

    choice: Choice
    capacity: int
    found: Found | None

    @property
    def status(self) -> Status:
        """Whether it fits: ``"fits"``, ``"does not fit"``, ``"unknown"``, where what cannot be measured decides, ``"failed"``,
        where the estimate raised, or ``"not estimated"``."""
        if self.found is None:
            return "not estimated"
        if self.found.error:
            return "failed"
        return "unknown" if self.found.fits is None else "fits" if self.found.fits else "does not fit"

    @property
    def needed(self) -> int | None:
        """Bytes that each GPU would give with room, as `Estimate.device_memory`; a lower bound where ``found.is_least``."""
        return self.found.needed if self.found is not None else None

    @property
    def headroom(self) -> int | None:
        """Bytes that are left; negative where it does not fit, and where it fits only just."""
        return None if self.needed is None else self.capacity - self.needed

    @property
    def only_just(self) -> bool:
        """Whether it fits with less than ``needed``: the allocator frees what it has cached to make room, which takes time."""
        return self.status == "fits" and self.headroom is not None and self.headroom < 0

    @property
    def alloc_retries(self) -> int | None:
        """How often it does, in the steps that were estimated, as ``num_alloc_retries`` counts; None where it does not fit."""
        return self.found.alloc_retries if self.found is not None and self.status == "fits" else None

    @property
    def sent(self) -> int | None:
        """Bytes of all collectives of a rank in a step, as `Estimate.communication` counts them: of the wholes."""
        if self.found is None or self.found.error or self.found.is_least:
            return None
        return round(sum(int(each["bytes"]) for each in self.found.sent) * self._times)

    @property
    def sent_by_dimension(self) -> dict[str, int]:
        """The same bytes, by dimension of the mesh."""
        sums: dict[str, int] = {}
        for each in self.found.sent if self.found is not None else ():
            sums[each["dimension"]] = sums.get(each["dimension"], 0) + each["bytes"]
        return {name: round(count * self._times) for name, count in sums.items()}

    @property
    def flops(self) -> int | None:
        """FLOPs of a rank in a step; a lower bound where ``found.flops_unknown`` names ops."""
        return None if self.found is None or self.found.flops is None else round(self.found.flops * self._times)

    @property
    def flops_recomputed(self) -> int | None:
        """Those of ``flops`` that checkpointing computes again."""
        recomputed = self.found.flops_recomputed if self.found is not None else None
        return None if recomputed is None else round(recomputed * self._times)

    @property
    def recomputed(self) -> float | None:
        """``flops_recomputed`` for each FLOP that is not: 0 to about 0.33, where all of forward is computed again."""
        if not self.flops or self.flops_recomputed is None:
            return None
        once = self.flops - self.flops_recomputed
        return self.flops_recomputed / once if once else None

    @property
    def limit(self) -> Limit | None:
        """The lower bound of the time of what was estimated: ``found.passes`` passes of the step."""
        return self.found.limit if self.found is not None else None

    @property
    def bound(self) -> float | None:
        """Seconds of a step, at least: a roofline bound. None: unknown."""
        return None if self.limit is None or self.limit.step is None else self.limit.step * self._times

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens of all GPUs per second, at most: at ``bound``; samples where no ``sequence`` was given. None: unknown."""
        if not self.bound:
            return None
        return (self.choice.tokens if self.choice.tokens is not None else self.choice.samples) / self.bound

    @property
    def mfu(self) -> float | None:
        """Part of the GPU's peak that the model's own FLOPs are at ``bound``, at most."""
        return self.limit.mfu if self.limit is not None else None

    @property
    def verdict(self) -> str:
        """Whether it fits, in words: ``fits, 12.3 GiB are left``."""
        if self.found is None or self.found.error or self.needed is None:
            return self.why
        if self.status == "fits":
            size = format_bytes(self.needed)
            return f"fits only just: {size} with room" if self.only_just else f"fits in {size}"
        return f"{self.status}: {self.why}"

    @property
    def why(self) -> str:
        """Why it does not fit, or is not known to; empty where it fits."""
        found = self.found
        if found is None:
            return "not estimated: interrupted"
        if found.error:
            return found.error
        if found.fits:
            return ""
        largest = sorted(found.by_category.items(), key=lambda item: -item[1])
        if found.is_least:
            return f"{_and([name for name, _ in found.by_category.items()])} alone are more"
        told = ", ".join(f"{name} {format_bytes(count)}" for name, count in largest[:LARGEST_SHOWN])
        more = f"; up to {format_bytes(found.unmeasured)} more are not known" if found.fits is None else ""
        return f"at the peak: {told}{more}"

    @property
    def _times(self) -> float:
        """How often what was estimated is in a step."""
        return self.choice.accumulation / self.found.passes if self.found is not None else 1.0

    def to_dict(self) -> Record:
        """The same as plain data: bytes, seconds, fractions; None is not known."""
        found = self.found
        return {
            **self.choice.to_dict(),
            "samples": self.choice.samples,
            "tokens": self.choice.tokens,
            "status": self.status,
            "why": self.why,
            "capacity": self.capacity,
            "needed": self.needed,
            "is_least": found is not None and found.is_least,
            "headroom": self.headroom,
            "alloc_retries": self.alloc_retries,
            "by_category": dict(found.by_category) if found is not None else {},
            "sent": self.sent,
            "sent_by_dimension": self.sent_by_dimension,
            "flops": self.flops,
            "flops_unknown": list(found.flops_unknown) if found is not None else [],
            "flops_recomputed": self.flops_recomputed,
            "recomputed": self.recomputed,
            "bound": self.bound,
            "bound_unknown": list(self.limit.unknown) if self.limit is not None else [],
            "tokens_per_second": self.tokens_per_second,
            "mfu": self.mfu,
            "assumed": list(found.assumed) if found is not None else [],
        }


def _and(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
