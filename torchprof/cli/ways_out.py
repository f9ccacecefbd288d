"""An estimate as it is printed in a shell: what can be done about a verdict stands below it. Imported where one is printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torchprof
from torchprof.rendering.grid import Parts
from torchprof.rendering.printed import Printed

__all__ = ["WithWaysOut"]


@dataclass(frozen=True)
class WithWaysOut(Printed):
    """An estimate, and sentences that stand below its first line."""

    estimate: torchprof.Estimate
    ways_out: Sequence[str]

    def parts(self) -> Parts:
        first, *rest = self.estimate.parts()
        yield first
        yield from self.ways_out
        yield from rest
