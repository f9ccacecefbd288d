"""Scaled dot product attention, in one kernel.

    forward    scores = q @ k.T            2 b h s_q s_k d
               out = scores @ v            2 b h s_q s_k d_v
    backward   scores, again; the gradients of scores, v, q and k: five products

This is the count of ``FlopCounterMode``: the softmax does not count, and neither masks nor causality make it less. With fewer
heads of keys than of queries (grouped queries), every query head has its products.
"""

from __future__ import annotations

from math import prod
from typing import Any

from torchprof.flops.formulas.formula import Shape, Sizes, formula

__all__: list[str] = []


def _scores(q: Sizes, k: Sizes, v: Sizes) -> int:
    """How many there are."""
    assert (q[-1], k[-2]) == (k[-1], v[-2]), f"{q}, {k} and {v} are no queries, keys and values"
    return prod(q[:-1]) * k[-2]


def _forward(q: Sizes, k: Sizes, v: Sizes) -> int:
    """Of ``[..., heads, sequence, dimension]``."""
    return 2 * _scores(q, k, v) * (q[-1] + v[-1])


def _backward(q: Sizes, k: Sizes, v: Sizes) -> int:
    """Three products over the dimension of the queries, two over that of the values."""
    return 2 * _scores(q, k, v) * (3 * q[-1] + 2 * v[-1])


@formula(
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_fused_attention_overrideable",
    "aten::_scaled_dot_product_attention_math_for_mps",
    "aten::_triton_scaled_dot_attention",
    tensors=3,
)
def attention(q: Shape, k: Shape, v: Shape) -> int:
    """``q, k, v``: ``[batch, heads, sequence, dimension]``."""
    return _forward(q, k, v)


@formula(
    "aten::_scaled_dot_product_flash_attention_backward",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
    "aten::_scaled_dot_product_efficient_attention_backward",
    "aten::_scaled_dot_product_cudnn_attention_backward",
    "aten::_scaled_dot_product_fused_attention_overrideable_backward",
    tensors=4,
)
def attention_backward(grad: Shape, q: Shape, k: Shape, v: Shape) -> int:
    """``grad, q, k, v``: ``[batch, heads, sequence, dimension]``."""
    return _backward(q, k, v)


def _sequences(
    q: Shape, k: Shape, v: Shape, lengths: Shape | None, longest_q: int | None, longest_k: int | None, *, heads: int
) -> tuple[Sizes, Sizes, Sizes] | None:
    """The same with heads before sequences; ``heads`` is the place of heads in the shapes.

    Sequences of several lengths stand one after the other, ``[tokens, heads, dimension]``, and a tensor has the places where
    they begin. Shapes do not have that, so the count is known only where all have the greatest length.
    """
    if lengths is None:
        return tuple([*(x[:-3]), x[-2], x[-3], x[-1]] for x in (q, k, v))  # type: ignore[return-value]
    batch = lengths[0] - 1
    if longest_q is None or longest_k is None or (q[heads - 1], k[heads - 1]) != (batch * longest_q, batch * longest_k):
        return None
    return [batch, q[-2], longest_q, q[-1]], [batch, k[-2], longest_k, k[-1]], [batch, v[-2], longest_k, v[-1]]


def _of(found: tuple[Sizes, Sizes, Sizes] | None, *, backward: bool = False) -> int | None:
    if found is None:
        return None
    return _backward(*found) if backward else _forward(*found)


@formula("aten::_flash_attention_forward", "torch_attn::_varlen_attn")
def flash_attention_forward(
    q: Shape, k: Shape, v: Shape, starts: Any, _: Any, longest_q: Any, longest_k: Any, *__: Any
) -> int | None:
    """``q, k, v``: ``[batch, sequence, heads, dimension]``, or ``[tokens, heads, dimension]``."""
    return _of(_sequences(q, k, v, starts, longest_q, longest_k, heads=1))


@formula("aten::_flash_attention_forward_no_dropout_inplace", "torch_attn::_varlen_attn_out")
def flash_attention_forward_into(out: Shape, *arguments: Any) -> int | None:
    """The same, with the output first."""
    return flash_attention_forward(*arguments)


@formula("aten::_efficient_attention_forward")
def efficient_attention_forward(
    q: Shape, k: Shape, v: Shape, _: Any, starts: Any, __: Any, longest_q: Any, longest_k: Any, *___: Any
) -> int | None:
    """``q, k, v``: ``[batch, sequence, heads, dimension]``; of several lengths, ``[1, tokens, heads, dimension]``."""
    return _of(_sequences(q, k, v, starts, longest_q, longest_k, heads=2))


@formula("aten::_flash_attention_backward", "torch_attn::_varlen_attn_backward")
def flash_attention_backward(*arguments: Any) -> int | None:
    """As in forward."""
    return _backward_of(arguments, heads=1)


@formula("aten::_efficient_attention_backward")
def efficient_attention_backward(*arguments: Any) -> int | None:
    """As in forward."""
    return _backward_of(arguments, heads=2)


def _backward_of(arguments: tuple[Any, ...], heads: int) -> int | None:
    _, q, k, v, _, _, starts, _, longest_q, longest_k, *_ = arguments
    if heads == 1 and len(q) != 3:
        starts = None
    return _of(_sequences(q, k, v, starts, longest_q, longest_k, heads=heads), backward=True)


@formula("aten::_cudnn_attention_forward")
def cudnn_attention_forward(q: Shape, k: Shape, v: Shape, _: Any, starts: Shape | None, *__: Any) -> int | None:
    """``q, k, v``: ``[batch, heads, sequence, dimension]``; several lengths are unknown."""
    return _forward(q, k, v) if starts is None and len(q) == 4 else None


@formula("aten::_cudnn_attention_backward")
def cudnn_attention_backward(grad: Shape, q: Shape, k: Shape, v: Shape, *_: Any) -> int | None:
    """The same."""
    return _backward(q, k, v) if len(q) == 4 else None
