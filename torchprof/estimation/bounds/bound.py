"""A lower bound of the time of a step."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torchprof.rendering.grid import Parts
from torchprof.rendering.printed import Printed
from torchprof.rendering.units import format_flops, format_ns
from torchprof.tables.table import Table

__all__ = ["Bound", "OverLink"]


@dataclass(frozen=True, slots=True)
class OverLink:
    """What is sent along one dimension of the mesh, and the least time that takes.

    Attributes:
        dimension: of the mesh, by its name.
        ranks: how many there are along it.
        bytes: of the wholes, as in `Estimate.communication`.
        link: what it goes over, by its name; of a bandwidth of your own, the bandwidth; None: no link is known.
        seconds: the least time; None: no link is known.
    """

    dimension: str
    ranks: int
    bytes: int
    link: str | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Bound(Printed):
    """A lower bound of a step's time: nothing runs faster, most runs slower. ``str()`` is the printed text.

    Attributes:
        compute: seconds: the counted FLOPs, each at the peak of the dtype that it is computed in; None: unknown.
        communication: seconds: the counted bytes over the links of the mesh; None: unknown, as where a dimension has no link.
        step: seconds: the longer of the two, as they may overlap entirely; ``bubble`` is computing's. None: either is unknown.
        mfu: the share of the peak that the model's FLOPs are in a step of that time: no step has a larger one. What is
            recomputed, and what the optimizer computes, is none of the model's. None: unknown.
        unknown: what was not counted, in words.
        dimensions: what is sent, by dimension of the mesh.
        assumed: what was assumed, in words.
        peaks: whose peaks were taken; None: of no GPU.
        flops: of a step, by the dtype that they are computed in, with what is recomputed; ``"tf32"``: in float32, or in tf32.
        recomputed: how many of these are computed once more, by activation checkpointing.
        bubble: seconds in which the rank waits for others of its pipeline while they compute, at least, as the schedule has it;
            None: there is no pipeline, or not all of its stages are known.
    """

    compute: float | None
    communication: float | None
    step: float | None
    mfu: float | None
    unknown: tuple[str, ...]
    dimensions: tuple[OverLink, ...] = ()
    assumed: tuple[str, ...] = ()
    peaks: str | None = None
    flops: dict[str, int] = field(default_factory=dict)
    recomputed: int = 0
    bubble: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The bound as plain data, in seconds and bytes; None is not known."""
        return asdict(self)

    def sentence(self) -> str | None:
        """The bound in a sentence; None where it is not known.

        Example:
            >>> print(Bound(12.3e-3, 8.1e-3, 12.3e-3, 0.812, ()).sentence())
            Bound: no step is faster than 12.3 ms (computing 12.3 ms, sending 8.10 ms): MFU at most 81.2%
        """
        if self.step is None or self.compute is None or self.communication is None:
            return None
        sending = f"sending {_time(self.communication)}" if self.communication else "sending nothing"
        waiting = (
            f", a bubble of {_time(self.bubble)}: {self.bubble / self.compute:.1%} of it"
            if self.bubble and self.compute
            else ""
        )
        of = f"computing {_time(self.compute)}{waiting}, {sending}"
        mfu = f": MFU at most {self.mfu:.1%}" if self.mfu is not None else ""
        return f"Bound: no step is faster than {_time(self.step)} ({of}){mfu}"

    def basis(self) -> str:
        """Whose peaks and which links the bound is of, in a line."""
        over = [f"{each.dimension} over {each.link}" for each in self.dimensions if each.link is not None]
        return f"Bound: peaks of {self.peaks or 'no GPU'}{'; ' if over else ''}{', '.join(over)}; bound() says what is assumed"

    def __repr__(self) -> str:
        return f"<Bound: {'unknown' if self.step is None else 'at least ' + _time(self.step)}>"

    def parts(self) -> Parts:
        yield self.sentence() or self._halves()
        by_dtype = ", ".join(f"{format_flops(count)} in {name}" for name, count in sorted(self.flops.items()))
        recomputed = f", of which {format_flops(self.recomputed)} are recomputed" if self.recomputed else ""
        yield f"FLOPs of a step: {by_dtype or ('unknown' if self.unknown else '0')}{recomputed}"
        if self.peaks is not None:
            yield f"Peaks: of {self.peaks}"
        if self.dimensions:
            rows = [
                {
                    "name": each.dimension,
                    "group_size": each.ranks,
                    "bytes": each.bytes,
                    "link": each.link,
                    "least_time": None if each.seconds is None else each.seconds * 1e9,
                }
                for each in self.dimensions
            ]
            columns = ("group_size", "bytes", "link", "least_time")
            yield from Table("Dimension", rows, columns, headers={"group_size": "Ranks"}, unknown="?").parts()
        for each in self.assumed:
            yield f"Assumed: {each}"
        for each in self.unknown:
            yield f"Not counted: {each}"

    def _halves(self) -> str:
        """What is known of a bound that is not."""
        known = {"computing": self.compute, "sending": self.communication}
        told = [f"{name} takes at least {_time(seconds)}" for name, seconds in known.items() if seconds]
        return f"Bound: unknown{'; ' if told else ''}{', '.join(told)}"


def _time(seconds: float) -> str:
    return format_ns(round(seconds * 1e9))
