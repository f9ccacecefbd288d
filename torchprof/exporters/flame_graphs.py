"""Flame graphs: where the time of host or devices, FLOPs, bytes or memory went, as stacks with a value each.

There are two formats: the folded stacks of ``flamegraph.pl``, and the profiles of speedscope.
"""

from __future__ import annotations

import json
import os
from typing import Any

from torchprof._version import __version__
from torchprof.exporters.python_stacks import Frame
from torchprof.exporters.stack_values import UNITS
from torchprof.exporters.stacks import Stacks
from torchprof.terminal import printable
from torchprof.trace.trace import Trace

__all__ = ["export_folded", "export_speedscope"]


def export_folded(
    trace: Trace,
    path: str | os.PathLike[str],
    by: str = "time",
    *,
    functions: bool = False,
    libraries: bool = False,
    backward_at_call: bool = False,
    device: str | None = None,
) -> None:
    """Write folded stacks, for Brendan Gregg's ``flamegraph.pl`` and similar tools: ``forward;Net;fc (Linear);aten::mm 12``.

    A stack is a phase; the chain of module calls that an op ran in or, in a backward pass or an optimizer, is attributed to;
    and the chain of ops inside the innermost of these calls. Or it is the lines of Python that an op ran in, from the
    outermost, and the ops inside the innermost: ``main (train.py:31);Net.forward (net.py:12);aten::mm 12``. Equal stacks are
    one line. In names, ``;``, which has a meaning in the format, is replaced by ``,``, and line breaks and what else is not
    printable are escaped.

    Args:
        trace: what `torchprof.profile` recorded.
        path: the file to write.
        by: what to add up. ``"time"``: nanoseconds of host time of ops and module calls, each without what ran inside it, so
            that all lines add up to the time recorded. ``"device"``: nanoseconds of device time of kernels, which are frames
            below the op that launched them. ``"flops"``. ``"bytes"``: read and written, counted for the op that does the work
            and not again for the ops around it. ``"allocated"``: bytes of memory that were allocated, freed since or not.
            ``"peak"``: bytes that were held when the most was; what was there before the recording is below a frame that says
            so, by category.
        functions: lines of Python take the place of phases and module calls; where a trace does not know them, functions and
            where these begin. What ran without any, as on threads of autograd, is below its phase. A trace has them that was
            recorded with ``torchprof.profile(stacks=True)``, or read from a file of ``torch.profiler`` that was recorded with
            ``with_stack=True``. The sums are the same as those by module.
        libraries: with ``functions``, also those of libraries, such as PyTorch's own. Without, what these do is below the line
            of your code that called them.
        backward_at_call: with ``functions``, backward is below the line that called it, and not below the line of forward that
            it differentiates.
        device: whose memory it is, for ``"allocated"`` and ``"peak"``: as for `torchprof.memory`.

    Raises:
        ArgumentError: ``by`` is none of these, the trace holds sums only, or it has no kernels for ``by="device"``, no memory
            for ``by="peak"`` or no stacks for ``functions=True``.
        OSError: the file cannot be written.

    Example:
        >>> export_folded(prof.trace, "step.folded", by="flops")
        >>> export_folded(prof.trace, "lines.folded", by="peak", functions=True)
    """
    stacks = Stacks(trace, by, functions=functions, libraries=libraries, backward_at_call=backward_at_call, device=device)
    clean = [printable(frame.text.replace(";", ",")) for frame in stacks.frames]
    with open(path, "w", encoding="utf-8") as file:
        for stack, value in stacks:
            file.write(f"{';'.join([clean[frame] for frame in stack])} {value}\n")


def export_speedscope(
    trace: Trace,
    path: str | os.PathLike[str],
    by: str = "time",
    *,
    functions: bool = False,
    libraries: bool = False,
    backward_at_call: bool = False,
    device: str | None = None,
) -> None:
    """Write a profile for https://www.speedscope.app: one sample for each stack, in the order of first occurrence.

    Functions of Python have their file and line, which speedscope shows.

    Args:
        trace, path, by, functions, libraries, backward_at_call, device: as for `export_folded`; the stacks are the same.

    Raises:
        ArgumentError, OSError: as `export_folded`.

    Example:
        >>> export_speedscope(prof.trace, "step.speedscope.json")
    """
    stacks = Stacks(trace, by, functions=functions, libraries=libraries, backward_at_call=backward_at_call, device=device)
    samples, weights = [], []
    for stack, value in stacks:
        samples.append(stack)
        weights.append(value)
    document = {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "exporter": f"torchprof@{__version__}",
        "name": f"{by} by line and op" if functions else f"{by} by phase, module and op",
        "activeProfileIndex": 0,
        "shared": {"frames": [_frame(frame) for frame in stacks.frames]},
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


def _frame(frame: Frame) -> dict[str, Any]:
    """A frame of speedscope: what is not known is left out."""
    known = {"name": frame.name, "file": frame.file, "line": frame.line}
    return {name: value for name, value in known.items() if value is not None}
