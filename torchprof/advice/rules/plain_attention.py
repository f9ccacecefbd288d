"""Attention that is written as products and a softmax."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import numpy as np

from torchprof.advice.device_loop import device_loop_of
from torchprof.advice.finding import Finding
from torchprof.advice.loop import loop_of
from torchprof.advice.op_sums import lines_of, modules_of, of_names, op_sums, sum_tensors
from torchprof.advice.registry import rule
from torchprof.advice.rules.attention_fallback import MATH, MOST_GAIN
from torchprof.analysis.lines.where import most_first
from torchprof.analysis.model.kinds import kind_of
from torchprof.rendering.units import format_ns
from torchprof.trace.schema import Phase, Rows
from torchprof.trace.shapes import Shape
from torchprof.trace.trace import Trace

__all__ = ["plain_attention"]

Scores = tuple[int, Shape]
"""The module, and the last two sizes of the scores: of the queries and of the keys."""
FORWARD: Final = (Phase.FORWARD, Phase.OTHER)


@rule("attention written as products and a softmax")
def plain_attention(trace: Trace) -> Iterator[Finding]:
    """In a module, a softmax of ``[..., queries, keys]`` between a product that has such a result and one that takes it.

    That of ``scaled_dot_product_attention`` itself is none: see `attention_fallback`. With dropout on a CPU there is no faster
    way. The time is that of forward.
    """
    sums = op_sums(trace)
    in_forward = np.isin(sums["phase"], FORWARD) & (sums["merged"] == 0)
    softmax = _in(trace, "aten::_softmax", in_forward)
    if not len(softmax):
        return
    of_math = set(of_names(trace, MATH)["module"].tolist())
    products = _in(trace, "aten::bmm", in_forward)
    takes, makes = _scores(trace, products, 0), _results(trace, products)
    dropped = set(_scores(trace, _in(trace, "aten::bernoulli_", in_forward), 0))  # aten::dropout runs where p is 0, too
    wanted = set(_scores(trace, softmax, 0)) & set(takes) & set(makes)
    wanted = {scores for scores in wanted if scores[1] and scores[0] not in of_math}
    if not softmax["device_time"].any():
        wanted -= dropped
    rows = np.concatenate(
        [
            softmax[[scores in wanted for scores in _scores(trace, softmax, 0)]],
            products[[a in wanted or b in wanted for a, b in zip(takes, makes, strict=True)]],
        ]
    )
    if not len(rows):
        return
    on_device = bool(rows["device_time"].any())
    loop, column = (device_loop_of(trace), "device_time") if on_device else (loop_of(trace), "time")
    time = int(rows[column].sum()) / loop.steps
    if loop.is_small(MOST_GAIN * time):
        return
    by_kind: dict[str, int] = defaultdict(int)
    modules = modules_of(trace, rows)
    for module, used in zip(modules, rows[column].tolist(), strict=True):
        by_kind[kind_of(module) or "the model"] += used
    yield Finding(
        "plain_attention",
        f"Attention is written as products and a softmax, which take {format_ns(round(time))} of a step in forward",
        "Use torch.nn.functional.scaled_dot_product_attention, which needs no memory for the scores: in models of transformers "
        'attn_implementation="sdpa", of nn.MultiheadAttention need_weights=False. A bias can be its mask.',
        "https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html",
        loop.worth(
            MOST_GAIN * time, "fused kernels are up to 3 times as fast, and no faster for short sequences", measured=False
        ),
        module=modules[0] if len(set(modules)) == 1 else "",
        lines=tuple(most_first(zip(lines_of(trace, rows), rows[column].tolist(), strict=True))),
        details=tuple(
            f"{kind}: {format_ns(by_kind[kind] // loop.steps)}" for kind in sorted(by_kind, key=lambda kind: -by_kind[kind])
        ),
    )


def _in(trace: Trace, name: str, mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Rows:
    """The sums of ops with this name that are in the mask over all sums."""
    named = np.array([each == name for each in trace.strings], dtype=np.bool_)
    sums = op_sums(trace)
    found: Rows = sums[mask & named[trace.signatures["name"][sums["signature"]]]] if named.any() else sums[:0]
    return found


def _shapes(trace: Trace, sums: Rows, place: int) -> list[Shape]:
    shapes = np.append(trace.tensors["shape"].astype(np.int64), -1)[sum_tensors(trace, sums, place)]
    return [trace.shape(shape) if shape >= 0 else () for shape in shapes.tolist()]


def _scores(trace: Trace, sums: Rows, place: int) -> list[Scores]:
    """The last two sizes of an input of several dimensions, with the module."""
    return [
        (module, shape[-2:] if len(shape) >= 3 else ())
        for module, shape in zip(sums["module"].tolist(), _shapes(trace, sums, place), strict=True)
    ]


def _results(trace: Trace, products: Rows) -> list[Scores]:
    """The last two sizes of what these products make, with the module."""
    return [
        (module, (a[-2], b[-1]) if len(a) == len(b) == 3 else ())
        for module, a, b in zip(
            products["module"].tolist(), _shapes(trace, products, 0), _shapes(trace, products, 1), strict=True
        )
    ]
