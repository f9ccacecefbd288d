"""Formulas that ``torch.utils.flop_counter.FlopCounterMode`` lacks or has wrong: its ``custom_mapping``.

Written without torchprof's own, from what the ops compute.
"""

from __future__ import annotations

from math import log2, prod
from typing import Any

import torch


def attention_flops(q: Any, k: Any, v: Any, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    """``q @ k.T`` and ``scores @ v``."""
    scores = prod(q[:-1]) * k[-2]
    return int(2 * scores * q[-1] + 2 * scores * v[-1])


def attention_backward_flops(grad: Any, q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> int:
    """``q @ k.T`` again; ``scores.T @ grad``, ``grad @ v.T``; ``grad_scores @ k``, ``grad_scores.T @ q``."""
    scores = prod(q[:-1]) * k[-2]
    return int(2 * scores * (q[-1] + v[-1] + v[-1] + k[-1] + q[-1]))


def convolution_backward_flops(
    grad: Any,
    x: Any,
    weight: Any,
    _bias: Any,
    _stride: Any,
    _pad: Any,
    _dilation: Any,
    transposed: bool,
    *more: Any,
    **kwargs: Any,
) -> int:
    """Each product of forward is one in each of the gradients, whatever the groups."""
    return int((more[2][0] + more[2][1]) * 2 * x[0] * prod((x if transposed else grad)[2:]) * prod(weight))


aten = torch.ops.aten
MENDED: dict[Any, Any] = {
    aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flops,
    aten.convolution_backward: convolution_backward_flops,
    aten.addmv: lambda _, matrix, vector, **kwargs: 2 * prod(matrix),
    aten.mv: lambda matrix, vector, **kwargs: 2 * prod(matrix),
    aten.dot: lambda a, b, **kwargs: 2 * a[0],
    aten._fft_r2c: lambda x, dims, *args, **kwargs: round(2.5 * prod(x) * log2(prod(x[dim] for dim in dims))),
    aten._fft_c2r: lambda x, dims, _, last, **kwargs: round(
        2.5 * prod(x) // x[dims[-1]] * last * log2(prod([*(x[dim] for dim in dims[:-1]), last]))
    ),
    aten.mkldnn_rnn_layer: lambda x, w, u, *args, **kwargs: 2 * x[0] * x[1] * (prod(w) + prod(u)),
    aten.mkldnn_rnn_layer_backward: lambda x, w, u, *args, **kwargs: 4 * x[0] * x[1] * (prod(w) + prod(u)),
}
