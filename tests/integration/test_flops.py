"""FLOPs of whole programs, forward and backward, to the last one.

The oracle is ``torch.utils.flop_counter.FlopCounterMode``, with the formulas that it lacks or has wrong written out here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import log2, prod
from typing import Any

import networks
import pytest
import torch
from architectures import ALL, Case, loss_of, mixtral
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

import torchprof


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


def counted(run: Callable[[], object]) -> tuple[int, dict[str, int]]:
    """FLOPs that PyTorch's own counter sees, in all and by op."""
    with FlopCounterMode(display=False, custom_mapping=MENDED) as counter:
        run()
    by_op = {str(op).replace(".", "::"): count for op, count in counter.get_flop_counts().get("Global", {}).items()}
    return counter.get_total_flops(), by_op


def recorded(run: Callable[[], object], model: nn.Module | None = None, **options: Any) -> tuple[int, dict[str, int]]:
    """The same, of a recording."""
    with torchprof.profile(model, **options) as prof:
        run()
    by_op = {row["name"]: int(row["flops"]) for row in torchprof.by_op(prof.trace).rows if row["flops"]}
    return sum(by_op.values()), by_op


def grouped_mm_flops(a: Any, b: Any, *args: Any, **kwargs: Any) -> int:
    """Rows of ``a`` times as many columns as ``b`` has, whatever group they are in."""
    return int(2 * prod(a) * b[-1])


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore")
def test_flops_of_real_architectures_are_those_of_flop_counter_mode(
    make: Callable[[], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    if make is mixtral:
        monkeypatch.setitem(MENDED, aten._grouped_mm, grouped_mm_flops)
    model, data = make()
    model.eval()  # dropout is drawn

    def forward() -> object:
        return model(**data)

    def train() -> None:
        loss_of(forward()).backward()

    total, _ = counted(train)
    assert total > 0
    assert recorded(train, model) == counted(train)
    with torch.no_grad():
        assert recorded(forward, model) == counted(forward)


@pytest.mark.parametrize("name", networks.FOR_TORCHSUMMARY)
def test_flops_of_plain_networks_are_those_of_flop_counter_mode(name: str) -> None:
    make, size = networks.FOR_TORCHSUMMARY[name]
    model = make().eval()
    inputs = [torch.rand(2, *each) for each in (size if isinstance(size, list) else [size])]

    def train() -> None:
        loss_of(model(*inputs)).backward()

    assert recorded(train, model) == counted(train)


def test_flops_of_checkpointing_and_of_transforms_are_those_of_flop_counter_mode() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    x, weight = torch.rand(4, 6, requires_grad=True), torch.rand(6, 6)

    def reentrant() -> None:
        checkpoint(model, x, use_reentrant=True).sum().backward()

    def saved() -> None:
        checkpoint(model, x, use_reentrant=False).sum().backward()

    def twice() -> None:
        (grad,) = torch.autograd.grad((x @ weight).tanh().sum(), x, create_graph=True)
        grad.square().sum().backward()

    def transformed() -> None:
        torch.func.vmap(torch.func.grad(lambda one: (one @ weight).tanh().sum()))(x.detach())

    def mixed() -> None:
        with torch.amp.autocast("cpu", dtype=torch.bfloat16):
            model(x).sum().backward()

    for run in (reentrant, saved, twice, mixed, transformed):
        assert counted(run)[0] > 0
        assert recorded(run) == counted(run), run.__name__


def test_an_op_that_raises_counts_nothing() -> None:
    def run() -> None:
        with pytest.raises(RuntimeError):
            torch.ones(2, 3) @ torch.ones(2, 3)
        torch.ones(2, 3) @ torch.ones(3, 4)

    assert recorded(run) == counted(run) == (48, {"aten::mm": 48})


def test_flops_are_means_over_steps_and_add_up_by_module() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    def step() -> None:
        model(torch.rand(4, 6)).sum().backward()

    with torchprof.profile(model) as prof:
        for _ in range(3):
            step()
            prof.step()
    rows = {row["path"]: row for row in torchprof.by_module(prof.trace).rows if row["type"]}
    assert rows[""]["flops"] == counted(step)[0]
    assert rows["0"]["flops_forward"] == 2 * 4 * 6 * 8
    assert rows["0"]["flops_backward"] == 2 * 4 * 6 * 8  # its input needs no gradient
    assert rows["2"]["flops_backward"] == 2 * 2 * 4 * 8 * 3
    assert rows[""]["macs"] == rows[""]["flops"] / 2


@pytest.fixture
def squares() -> Iterator[Any]:
    """An op of the user's own, with a backward and a formula for each."""

    @torch.library.custom_op("torchprof_tests::squares", mutates_args=())
    def squares(x: Tensor, power: int) -> Tensor:
        return x @ x.T + power

    @torch.library.custom_op("torchprof_tests::squares_backward", mutates_args=())
    def squares_backward(grad: Tensor, x: Tensor) -> Tensor:
        return (grad + grad.T) @ x

    def setup(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return torch.ops.torchprof_tests.squares_backward(grad, *ctx.saved_tensors), None

    squares.register_autograd(backward, setup_context=setup)
    packets = torch.ops.torchprof_tests.squares, torch.ops.torchprof_tests.squares_backward
    register_flop_formula(packets[0])(lambda x, power, *args, **kwargs: power * x[0] * x[0] * x[1])
    register_flop_formula(packets[1])(lambda grad, x, *args, out_shape=None, **kwargs: 7 * out_shape[0])
    yield squares
    for packet in packets:
        del flop_registry[packet]


def test_formulas_of_the_users_own_are_used(squares: Any) -> None:
    x = torch.rand(3, 5, requires_grad=True)

    def run() -> None:
        squares(x, 11).sum().backward()

    expected = (495 + 21, {"torchprof_tests::squares": 11 * 3 * 3 * 5, "torchprof_tests::squares_backward": 7 * 3})
    assert counted(run) == expected
    assert recorded(run) == expected
    assert recorded(run, aggregate=True) == expected


def test_a_formula_that_fails_is_named_and_its_ops_are_unknown(squares: Any) -> None:
    def fails(*args: Any, **kwargs: Any) -> int:
        raise ZeroDivisionError("of the user's own")

    flop_registry[torch.ops.torchprof_tests.squares] = fails
    with (
        pytest.warns(RuntimeWarning, match=r"squares failed \(ZeroDivisionError: of the user's own\)"),
        torchprof.profile() as prof,
    ):
        squares(torch.rand(3, 5), 2)
    (row,) = (row for row in torchprof.by_op(prof.trace).rows if row["name"] == "torchprof_tests::squares")
    assert (row["flops"], row["flops_unknown"]) == (None, ["torchprof_tests::squares"])
    assert "squares failed (ZeroDivisionError" in prof.trace.facts["flops_note"]
