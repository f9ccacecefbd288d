"""Attention that ran as plain products and a softmax, where a fused kernel would do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.advice.device_loop import device_loop_of
from torchprof.advice.finding import Finding
from torchprof.advice.loop import loop_of
from torchprof.advice.op_sums import lines_of, modules_of, of_names, sum_tensors
from torchprof.advice.registry import rule
from torchprof.analysis.lines.where import most_first
from torchprof.rendering.units import format_bytes, format_ns
from torchprof.trace.schema import Rows
from torchprof.trace.shapes import Shape, shape_text
from torchprof.trace.trace import Trace
from torchprof.wording import counted

__all__ = ["attention_fallback"]

MATH: Final = "aten::_scaled_dot_product_attention_math"
MOST_GAIN: Final = 2 / 3
"""Fused attention is up to 3 times as fast as plain products (Dao et al., "FlashAttention", 2022, section 4.3: sequences of 128
to 2,000); of short sequences it may be no faster."""
HALF: Final = ("float16", "bfloat16")
LARGEST_HEAD: Final = 256  # of flash attention
Flags = npt.NDArray[np.bool_]
Tensors = Sequence[tuple[str, Shape]]


@rule("attention that fell back to plain products")
def attention_fallback(trace: Trace) -> Iterator[Finding]:
    """``scaled_dot_product_attention`` that ran its ``math`` kernel, and what of its inputs forbids the fused ones.

    The conditions are those of ``sdp_utils.cpp`` in ATen. Dropout on a CPU, which only the ``math`` kernel has there, is no
    finding. The time is that of forward; the backward of plain products cannot be told from that of others.
    """
    sums = of_names(trace, MATH)
    sums = sums[~_has_dropout_on_cpu(trace, sums)] if len(sums) else sums
    if not len(sums):
        return
    on_device = bool(sums["device_time"].any())
    loop = device_loop_of(trace) if on_device else loop_of(trace)
    column = "device_time" if on_device else "time"
    time = int(sums[column].sum()) / loop.steps
    if loop.is_small(MOST_GAIN * time):
        return
    modules = most_first(zip(modules_of(trace, sums), sums[column].tolist(), strict=True))
    found: dict[str, int] = {}
    reasons: list[str] = []
    for row, used in enumerate(sums[column].tolist()):
        tensors = _tensors(trace, sums[row : row + 1])
        reason = "" if sums["merged"][row] else _why(tensors, _device(trace, sums[row : row + 1]))
        reasons.append(reason)
        detail = f"{_described(tensors)}: {reason or 'nothing in its inputs forbids a fused kernel'}"
        found[detail] = found.get(detail, 0) + used
    calls = round(int(sums["count"].sum()) / loop.steps)
    yield Finding(
        "attention_fallback",
        f"Attention ran as plain products and a softmax in {counted(calls, 'call')} a step, which took "
        f"{format_ns(round(time))}",
        "Let scaled_dot_product_attention take a fused kernel: "
        + ("lift what forbids it" if any(reasons) else "see what sdpa_kernel or torch.backends.cuda allow")
        + ". torch.nn.attention.sdpa_kernel(SDPBackend.FLASH_ATTENTION) makes it an error, with the reason, if it cannot.",
        "https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html",
        loop.worth(
            MOST_GAIN * time, "fused kernels are up to 3 times as fast, and no faster for short sequences", measured=False
        ),
        module=modules[0] if len(modules) == 1 else "",
        lines=tuple(most_first(zip(lines_of(trace, sums), sums[column].tolist(), strict=True))),
        details=tuple(sorted(found, key=lambda detail: -found[detail])),
    )


def _tensors(trace: Trace, sums: Rows) -> Tensors:
    """The dtype and the shape of query, key, value and, where there is one, the mask."""
    found = []
    for place in range(4):
        row = int(sum_tensors(trace, sums, place)[0])
        if row < 0:
            break
        dtype, shape = trace.tensors["dtype"][row], trace.tensors["shape"][row]
        found.append((trace.dtypes[int(dtype)].name, trace.shape(int(shape))))
    return found


def _device(trace: Trace, sums: Rows) -> str:
    row = int(sum_tensors(trace, sums, 0)[0])
    return trace.device_types[int(trace.tensors["device_type"][row])] if row >= 0 else ""


def _described(tensors: Tensors) -> str:
    if len(tensors) < 3:
        return "shapes that were not recorded"
    (dtype, query), (_, key), *_ = tensors
    text = f"{dtype} query {shape_text(query)}, key {shape_text(key)}" + (", a mask" if len(tensors) > 3 else "")
    sizes = (*query[:-1], key[-2]) if len(query) == len(key) >= 2 else ()
    itemsize = {"float16": 2, "bfloat16": 2, "float64": 8}.get(dtype, 4)
    scores = itemsize
    for size in sizes:
        scores = scores * size if isinstance(size, int) else 0
    return f"{text}, scores of {format_bytes(scores)}" if sizes and scores else text


def _why(tensors: Tensors, device: str) -> str:
    """What of the inputs forbids every fused kernel; empty where nothing does, or they are not known."""
    if len(tensors) < 3:
        return ""
    (dtype, query), *_ = parts = tensors[:3]
    has_mask = len(tensors) > 3
    if any(len(shape) != 4 for _, shape in parts):
        return "query, key and value need four dimensions: batch, heads, sequence and head"
    if len({each for each, _ in parts}) > 1:
        return f"query, key and value are of different dtypes, {', '.join(each for each, _ in parts)}"
    heads, sizes = [shape[1] for _, shape in parts], [shape[3] for _, shape in parts]
    if not all(isinstance(size, int) for size in (*heads, *sizes)):
        return ""
    if device == "cpu":
        return "" if len(set(sizes)) == 1 else "heads of query, key and value differ in size"
    if dtype not in (*HALF, "float32"):
        return f"{dtype}: they take float16, bfloat16 and, the memory-efficient one, float32"
    flash = _why_not_flash(dtype, sizes, has_mask)
    multiple = 8 if dtype in HALF else 4
    efficient = "heads are grouped" if len(set(heads)) > 1 else ""
    if any(int(size or 0) % multiple for size in sizes):
        efficient = f"heads of {query[3]} are no multiple of {multiple}"
    return f"flash: {flash}; memory-efficient: {efficient}" if flash and efficient else ""


def _why_not_flash(dtype: str, sizes: Sequence[object], has_mask: bool) -> str:
    if dtype not in HALF:
        return f"{dtype}"
    if has_mask:
        return "there is a mask"
    if len(set(sizes)) > 1 or int(str(sizes[0])) > LARGEST_HEAD:
        return f"heads of {sizes[0]}: equal ones up to {LARGEST_HEAD}"
    return ""


def _has_dropout_on_cpu(trace: Trace, sums: Rows) -> Flags:
    """Which of these sums are of calls on a CPU with dropout: their scores are dropped out in the same module."""
    dropped = of_names(trace, "aten::dropout", "aten::native_dropout")
    row_of_shape = np.append(trace.tensors["shape"].astype(np.int64), -1)
    dropped_out = {
        (module, trace.shape(shape) if shape >= 0 else ())
        for module, shape in zip(dropped["module"].tolist(), row_of_shape[sum_tensors(trace, dropped, 0)].tolist(), strict=True)
    }
    found = np.zeros(len(sums), dtype=np.bool_)
    for row in range(len(sums)):
        of_row = sums[row : row + 1]
        tensors = _tensors(trace, of_row)
        if _device(trace, of_row) == "cpu" and len(tensors) >= 3:
            (_, query), (_, key), *_ = tensors
            found[row] = (int(sums["module"][row]), (*query[:-1], *key[-2:-1])) in dropped_out
    return found
