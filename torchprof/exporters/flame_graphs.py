"""Flame graphs: where the time of host or devices, FLOPs or bytes went, as stacks with a value each.

There are two formats: the folded stacks of ``flamegraph.pl``, and the profiles of speedscope.
"""

from __future__ import annotations

import json
import os

from torchprof._version import __version__
from torchprof.exporters.stacks import UNITS, Stacks
from torchprof.terminal import printable
from torchprof.trace.trace import Trace

__all__ = ["export_folded", "export_speedscope"]


def export_folded(trace: Trace, path: str | os.PathLike[str], by: str = "time", *, functions: bool = False) -> None:
    """Write folded stacks, for Brendan Gregg's ``flamegraph.pl`` and similar tools: ``forward;Net;fc (Linear);aten::mm 12``.

    A stack is a phase; the chain of module calls that an op ran in or, in a backward pass or an optimizer, is attributed to;
    and the chain of ops inside the innermost of these calls. Equal stacks are one line. In names, ``;``, which has a meaning in
    the format, is replaced by ``,``, and line breaks and what else is not printable are escaped.

    Args:
        trace: what `torchprof.profile` recorded.
        path: the file to write.
        by: what to add up. ``"time"``: nanoseconds of host time of ops and module calls, each without what ran inside it, so
            that all lines add up to the time recorded. ``"device"``: nanoseconds of device time of kernels, which are frames
            below the op that launched them. ``"flops"``. ``"bytes"``: read and written, counted for the op that does the work
            and not again for the ops around it.
        functions: stacks of Python take the place of phases and module calls: the functions that an op ran in, from the
            outermost, and the ops inside the innermost. What ran without one, as on threads of autograd, is below its phase. A
            trace has them if it was read from a file of ``torch.profiler`` that was recorded with ``with_stack=True``.

    Raises:
        ArgumentError: ``by`` is none of these, the trace holds sums only, or it has no kernels for ``by="device"`` or no stacks
            for ``functions=True``.
        OSError: the file cannot be written.

    Example:
        >>> export_folded(prof.trace, "step.folded", by="flops")
    """
    stacks = Stacks(trace, by, functions)
    clean = [printable(frame.replace(";", ",")) for frame in stacks.frames]
    with open(path, "w", encoding="utf-8") as file:
        for stack, value in stacks:
            file.write(f"{';'.join([clean[frame] for frame in stack])} {value}\n")


def export_speedscope(trace: Trace, path: str | os.PathLike[str], by: str = "time", *, functions: bool = False) -> None:
    """Write a profile for https://www.speedscope.app: one sample for each stack, in the order of first occurrence.

    Args:
        trace, path, by, functions: as for `export_folded`; the stacks are the same.

    Raises:
        ArgumentError, OSError: as `export_folded`.

    Example:
        >>> export_speedscope(prof.trace, "step.speedscope.json")
    """
    stacks = Stacks(trace, by, functions)
    samples, weights = [], []
    for stack, value in stacks:
        samples.append(stack)
        weights.append(value)
    document = {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "exporter": f"torchprof@{__version__}",
        "name": f"{by} by function and op" if functions else f"{by} by phase, module and op",
        "activeProfileIndex": 0,
        "shared": {"frames": [{"name": frame} for frame in stacks.frames]},
        "profiles": [
            {
                "type": "sampled",
                "name": by,
                "unit": UNITS[by],
                "startValue": 0,
                "endValue": sum(weights),
                "samples": samples,
                "weights": weights,
            }
        ],
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document, file)
