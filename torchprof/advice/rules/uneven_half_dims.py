"""Products of half precision whose sizes are no multiple of 8."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.advice.device_loop import device_loop_of
from torchprof.advice.finding import Finding
from torchprof.advice.op_sums import lines_of, modules_of, of_names, sum_tensors
from torchprof.advice.registry import NotTold, rule
from torchprof.analysis.lines.where import most_first
from torchprof.rendering.units import format_ns
from torchprof.trace.schema import Phase, Rows
from torchprof.trace.trace import Trace

__all__ = ["uneven_half_dims"]

MULTIPLE: Final = 8
"""Elements of 2 bytes that tensor cores load at once: 16 bytes. An A100 is best with 64 (NVIDIA, as below)."""
PADDED: Final = 64
MOST_GAIN: Final = 0.5
"""At most so much of the time of such products is saved. Padding nanoGPT's vocabulary of 50,257 to 50,304 made the whole step
about a quarter faster, in which the products with it took less than a half."""

Ints = npt.NDArray[np.int64]
FIRST: Final = {"aten::mm": 0, "aten::bmm": 0, "aten::addmm": 1, "aten::baddbmm": 1, "aten::_addmm_activation": 1}
"""Ops that multiply two matrices, and the place of the first of them."""


@rule("sizes of half-precision products that are no multiple of 8")
def uneven_half_dims(trace: Trace) -> Iterator[Finding]:
    """Products ``[m, k] x [k, n]`` of forward with an uneven ``k`` or ``n``, in which operands and results are contiguous.

    Of backward those count that have the same size in the same module. An uneven ``m``, the number of rows or tokens, costs
    nothing: no row begins elsewhere for it.
    """
    loop = device_loop_of(trace)
    sums, uneven = _uneven(trace)
    if not len(sums):
        return
    modules, lines = modules_of(trace, sums), lines_of(trace, sums)
    times: dict[tuple[str, int], int] = defaultdict(int)
    for module, size, time in zip(modules, uneven.tolist(), sums["device_time"].tolist(), strict=True):
        times[module, size] += time
    total = int(sums["device_time"].sum()) // loop.steps
    if loop.is_small(MOST_GAIN * total):
        return
    found = sorted((place for place in times if times[place]), key=lambda place: -times[place])
    sizes = list(dict.fromkeys(size for _, size in found))
    yield Finding(
        "uneven_half_dims",
        f"Products of half precision with sizes that are no multiple of {MULTIPLE} ({', '.join(map(str, sizes[:3]))}"
        f"{', ...' if len(sizes) > 3 else ''}) take {format_ns(total)} of the {format_ns(loop.busy)} in which the device is "
        "busy in a step",
        f"Pad such a size, as of a vocabulary or a number of classes, to a multiple of {PADDED}, at least of {MULTIPLE}: "
        "tensor cores then load 16 bytes at once. Of a sequence length, use attention that is fused.",
        "https://docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication/index.html",
        loop.worth(
            MOST_GAIN * total,
            f"at most {MOST_GAIN:.0%} of the device time of these products, which was measured",
            measured=False,
        ),
        module=found[0][0] if len({module for module, _ in found}) == 1 else "",
        lines=tuple(most_first(zip(lines, sums["device_time"].tolist(), strict=True))),
        details=tuple(
            f"{module or 'no module'}: {size}, {format_ns(times[module, size] // loop.steps)}; {_padded(size)} would fit"
            for module, size in found
        ),
    )


def _padded(size: int) -> int:
    step = PADDED if size > PADDED else MULTIPLE
    return -(-size // step) * step


def _uneven(trace: Trace) -> tuple[Rows, Ints]:
    """The sums of products with an uneven size, and that size."""
    sums = of_names(trace, *FIRST)
    sums = sums[(sums["device_time"] > 0) & (sums["merged"] == 0)]
    if not len(sums):
        return sums, np.zeros(0, dtype=np.int64)
    if trace.facts.get("shapes") is False:
        raise NotTold("shapes of tensors were not recorded")
    place = np.array([FIRST.get(name, 0) for name in trace.strings], dtype=np.int64)
    first = place[trace.signatures["name"][sums["signature"]]]
    a = np.where(first == 0, sum_tensors(trace, sums, 0), sum_tensors(trace, sums, 1))
    b = np.where(first == 0, sum_tensors(trace, sums, 1), sum_tensors(trace, sums, 2))
    half = np.array([dtype for dtype, about in trace.dtypes.items() if about.name in ("float16", "bfloat16")])
    known = (a >= 0) & (b >= 0) & np.isin(np.append(trace.tensors["dtype"], -1)[a], half)
    sums, a, b = sums[known], a[known], b[known]
    sizes = np.array([_sizes(trace, *pair) for pair in zip(a.tolist(), b.tolist(), strict=True)], dtype=np.int64).reshape(-1, 3)
    is_uneven = sizes % MULTIPLE != 0
    in_backward = sums["phase"] == Phase.BACKWARD
    uneven = np.where(is_uneven[:, 2], sizes[:, 2], np.where(is_uneven[:, 1], sizes[:, 1], 0))
    of_forward: dict[int, set[int]] = defaultdict(set)
    for module, size in zip(sums["module"][~in_backward].tolist(), uneven[~in_backward].tolist(), strict=True):
        if size:
            of_forward[module].add(size)
    for row in np.flatnonzero(in_backward).tolist():
        uneven[row] = next((size for size in sizes[row].tolist() if size in of_forward[int(sums["module"][row])]), 0)
    return sums[uneven > 0], uneven[uneven > 0]


def _sizes(trace: Trace, a: int, b: int) -> tuple[int, int, int]:
    """``m, k, n`` of a product; 0, which is even, for what is not known."""
    left, right = (trace.shape(int(trace.tensors["shape"][row])) for row in (a, b))
    if len(left) < 2 or len(right) < 2:
        return 0, 0, 0
    m, k, n = (size if isinstance(size, int) else 0 for size in (left[-2], left[-1], right[-1]))
    return m, k, n
