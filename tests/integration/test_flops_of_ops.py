"""FLOPs of single ops, against the same arithmetic counted by hand: each product of a sum is two."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from math import log2
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

import torchprof

rand = torch.rand


def flops_of(run: Callable[[], object], **options: Any) -> int:
    """All FLOPs, none of which may be unknown."""
    with torchprof.profile(**options) as prof:
        run()
    rows = torchprof.by_op(prof.trace).rows
    assert [row["name"] for row in rows if row["flops_unknown"]] == []
    return int(sum(row["flops"] for row in rows))


def unknown_in(run: Callable[[], object]) -> list[str]:
    """The ops whose FLOPs are unknown."""
    with torchprof.profile() as prof:
        run()
    return sorted({name for row in torchprof.by_op(prof.trace).rows for name in row["flops_unknown"]})


def products_of_a_convolution(x: Tensor, layer: Any) -> int:
    """Counted one by one: how many inputs, padding included, every output is a sum over."""
    padded = nn.functional.pad(x, [width for pad in reversed(layer.padding) for width in (pad, pad)])
    positions = [
        range(0, size - gap * (width - 1), step)
        for size, width, step, gap in zip(padded.shape[2:], layer.kernel_size, layer.stride, layer.dilation, strict=True)
    ]
    outputs = len(list(itertools.product(*positions))) * x.shape[0] * layer.out_channels
    taps = len(list(itertools.product(*map(range, layer.kernel_size))))
    return int(outputs * taps * layer.in_channels // layer.groups)


q, k = rand(2, 4, 8, 16), rand(2, 4, 10, 16)
ATTENTION = 2 * (2 * 4) * (8 * 10) * (16 + 16)

PRODUCTS: dict[str, tuple[Callable[[], object], int]] = {
    "mm": (lambda: rand(3, 4) @ rand(4, 5), 3 * 4 * 5),
    "mm, out": (lambda: torch.mm(rand(3, 4), rand(4, 5), out=torch.empty(3, 5)), 3 * 4 * 5),
    "addmm in place": (lambda: rand(3, 5).addmm_(rand(3, 4), rand(4, 5)), 3 * 4 * 5),
    "baddbmm in place": (lambda: rand(2, 3, 5).baddbmm_(rand(2, 3, 4), rand(2, 4, 5)), 2 * 3 * 4 * 5),
    "addbmm": (lambda: torch.addbmm(rand(3, 5), rand(2, 3, 4), rand(2, 4, 5)), 2 * 3 * 4 * 5),
    "mv": (lambda: rand(3, 4).mv(rand(4)), 3 * 4),
    "vector @ matrix": (lambda: rand(4) @ rand(4, 3), 3 * 4),
    "addmv": (lambda: torch.addmv(rand(3), rand(3, 4), rand(4)), 3 * 4),
    "dot": (lambda: rand(4).dot(rand(4)), 4),
    "vdot": (lambda: torch.vdot(rand(4), rand(4)), 4),
    "addr": (lambda: torch.addr(rand(3, 4), rand(3), rand(4)), 3 * 4),
    "outer, which is elementwise": (lambda: torch.outer(rand(3), rand(4)), 0),
    "einsum": (lambda: torch.einsum("bij,bjk->bik", rand(2, 3, 4), rand(2, 4, 5)), 2 * 3 * 4 * 5),
    "tensordot": (lambda: torch.tensordot(rand(2, 3, 4), rand(3, 4, 5), dims=2), 2 * 3 * 4 * 5),
    "broadcast matmul": (lambda: rand(7, 1, 3, 4) @ rand(2, 4, 5), 7 * 2 * 3 * 4 * 5),
    "multi_dot": (lambda: torch.linalg.multi_dot([rand(2, 9), rand(9, 3), rand(3, 5)]), 2 * 9 * 3 + 2 * 3 * 5),
    "complex": (lambda: rand(3, 4, dtype=torch.complex64) @ rand(4, 5, dtype=torch.complex64), 3 * 4 * 5),
    "int8": (lambda: torch._int_mm(torch.ones(32, 16, dtype=torch.int8), torch.ones(16, 8, dtype=torch.int8)), 32 * 16 * 8),
    "grouped": (
        lambda: torch._grouped_mm(
            rand(6, 16).bfloat16(), rand(2, 16, 8).bfloat16(), offs=torch.tensor([2, 6], dtype=torch.int32)
        ),
        6 * 16 * 8,
    ),
    "a linear layer without batch": (lambda: nn.Linear(4, 5)(rand(4)), 4 * 5),
    "a linear layer of a nested tensor": (
        lambda: nn.Linear(3, 4)(torch.nested.nested_tensor([rand(2, 3), rand(4, 3)])),
        (2 + 4) * 3 * 4,
    ),
    "a linear layer of a jagged tensor": (
        lambda: nn.Linear(3, 4)(torch.nested.nested_tensor([rand(2, 3), rand(4, 3)], layout=torch.jagged)),
        (2 + 4) * 3 * 4,
    ),
    "vmap": (lambda: torch.vmap(lambda row: row @ torch.ones(3, 3))(rand(5, 2, 3)), 5 * 2 * 3 * 3),
    "LSTM": (lambda: nn.LSTM(8, 16)(rand(5, 2, 8)), 5 * 2 * 4 * 16 * (8 + 16)),
    "LSTM, batch first": (lambda: nn.LSTM(8, 16, batch_first=True)(rand(2, 5, 8)), 5 * 2 * 4 * 16 * (8 + 16)),
    "LSTM, two layers in both directions": (
        lambda: nn.LSTM(8, 16, 2, bidirectional=True)(rand(5, 2, 8)),
        2 * 5 * 2 * 4 * 16 * (8 + 16) + 2 * 5 * 2 * 4 * 16 * (2 * 16 + 16),
    ),
    "LSTM, projected": (lambda: nn.LSTM(8, 16, proj_size=4)(rand(5, 2, 8)), 5 * 2 * (4 * 16 * (8 + 4) + 16 * 4)),
    "LSTM, packed": (
        lambda: nn.LSTM(8, 16)(nn.utils.rnn.pack_sequence([rand(5, 8), rand(3, 8)])),
        (5 + 3) * 4 * 16 * (8 + 16),
    ),
    "GRU": (lambda: nn.GRU(8, 16)(rand(5, 2, 8)), 5 * 2 * 3 * 16 * (8 + 16)),
    "RNN": (lambda: nn.RNN(8, 16)(rand(5, 2, 8)), 5 * 2 * 16 * (8 + 16)),
    "LSTMCell": (lambda: nn.LSTMCell(8, 16)(rand(2, 8)), 2 * 4 * 16 * (8 + 16)),
    "GRUCell": (lambda: nn.GRUCell(8, 16)(rand(2, 8)), 2 * 3 * 16 * (8 + 16)),
}


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.filterwarnings("ignore")
def test_products(name: str) -> None:
    run, products = PRODUCTS[name]
    assert flops_of(run) == 2 * products
    assert flops_of(run, aggregate=True) == 2 * products


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
@pytest.mark.parametrize("grouped", [False, True])
def test_attention_is_counted_whatever_kernel_computes_it(backend: SDPBackend, grouped: bool) -> None:
    keys = k[:, :2] if grouped else k

    def run(mask: Tensor | None = None) -> None:
        with sdpa_kernel(backend):
            F.scaled_dot_product_attention(q, keys, keys, mask, enable_gqa=grouped)

    assert flops_of(run) == ATTENTION
    assert flops_of(lambda: run(torch.ones(8, 10, dtype=torch.bool))) == ATTENTION


@pytest.mark.filterwarnings("ignore")
def test_flex_attention_is_counted() -> None:
    assert flops_of(lambda: flex_attention(q, k, k)) == ATTENTION


def test_attention_on_meta_is_counted_as_on_the_cpu() -> None:
    on_meta = q.to("meta"), k.to("meta")
    assert flops_of(lambda: F.scaled_dot_product_attention(on_meta[0], on_meta[1], on_meta[1])) == ATTENTION


def test_backward_of_attention_has_five_products() -> None:
    queries, keys, values = rand(2, 4, 8, 16, requires_grad=True), rand(2, 4, 10, 16, requires_grad=True), k
    forward, product = ATTENTION, 2 * (2 * 4) * (8 * 10) * 16
    assert flops_of(lambda: F.scaled_dot_product_attention(queries, keys, values).sum().backward()) == forward + 5 * product  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("padding_mask", [None, torch.zeros(2, 5, dtype=torch.bool)], ids=["", "mask"])
@torch.no_grad()
def test_the_fast_path_of_an_encoder_has_the_flops_of_the_slow_one(padding_mask: Tensor | None) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    tokens, attention = 2 * 5, 2 * 2 * 2 * (5 * 5) * (8 + 8)
    expected = 2 * tokens * (16 * 48 + 16 * 16 + 16 * 32 + 32 * 16) + attention
    x = rand(2, 5, 16)
    assert flops_of(lambda: layer(x, src_key_padding_mask=padding_mask)) == expected
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        assert flops_of(lambda: layer(x, src_key_padding_mask=padding_mask)) == expected
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize("train_input", [False, True])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(3, 6, 3, dilation=2), (2, 3, 11)),
        (nn.Conv2d(4, 6, (3, 2), stride=2, padding=1), (2, 4, 9, 7)),
        (nn.Conv2d(4, 8, 3, groups=4), (2, 4, 9, 9)),
        (nn.Conv3d(2, 3, 2, stride=2), (2, 2, 4, 6, 4)),
    ],
    ids=["1d", "2d", "depthwise", "3d"],
)
def test_convolutions_have_two_products_in_backward_for_each_in_forward(
    layer: nn.Module, shape: tuple[int, ...], train_input: bool
) -> None:
    x = rand(shape, requires_grad=train_input)
    forward = 2 * products_of_a_convolution(x.detach(), layer)
    assert flops_of(lambda: layer(x)) == forward
    assert flops_of(lambda: layer(x).sum().backward()) == forward * (3 if train_input else 2)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_every_input_of_a_transposed_convolution_has_a_product_with_the_weights_of_its_group(groups: int) -> None:
    layer = nn.ConvTranspose2d(4, 8, 3, stride=2, groups=groups)
    x = rand(2, 4, 5, 5, requires_grad=True)
    forward = 2 * x.numel() * (8 // groups) * 9
    assert flops_of(lambda: layer(x)) == forward
    assert flops_of(lambda: layer(x).sum().backward()) == 3 * forward


@pytest.mark.parametrize("layer", [nn.LSTM(8, 16, 2, bidirectional=True), nn.GRU(8, 16)], ids=["LSTM", "GRU"])
def test_backward_of_a_recurrent_layer_has_two_products_for_each_in_forward(layer: nn.Module) -> None:
    x = rand(5, 2, 8, requires_grad=True)
    # In the first step of a GRU, which is made of single ops, the hidden state is given and needs no gradient.
    first_steps = 0 if isinstance(layer, nn.LSTM) else 2 * 2 * (3 * 16) * 16
    assert flops_of(lambda: layer(x)[0].sum().backward()) == 3 * flops_of(lambda: layer(x)) - first_steps


def test_a_fourier_transform_has_5_n_log_n() -> None:
    def complex_numbers(*shape: int) -> Tensor:
        return rand(*shape, dtype=torch.complex64)

    assert flops_of(lambda: torch.fft.fft(complex_numbers(3, 8))) == 3 * 5 * 8 * log2(8)
    assert flops_of(lambda: torch.fft.fft2(complex_numbers(3, 8, 4))) == 3 * 5 * 32 * log2(32)
    assert flops_of(lambda: torch.fft.rfft(rand(3, 8))) == 3 * 5 * 8 * log2(8) / 2
    assert flops_of(lambda: torch.fft.irfft(complex_numbers(3, 5))) == 3 * 5 * 8 * log2(8) / 2


def test_quantized_layers_are_counted_like_others() -> None:
    quantized = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
        nn.ModuleDict({"linear": nn.Linear(8, 4), "lstm": nn.LSTM(8, 16)}), {nn.Linear, nn.LSTM}, dtype=torch.qint8
    )
    assert flops_of(lambda: quantized["linear"](rand(3, 8))) == 2 * 3 * 8 * 4
    assert flops_of(lambda: quantized["lstm"](rand(5, 2, 8))) == 30_720


def test_distances_are_counted_by_pairs_or_by_the_product_that_makes_them() -> None:
    assert flops_of(lambda: torch.cdist(rand(2, 3, 4), rand(2, 5, 4))) == 3 * 2 * (3 * 5) * 4
    # [x, |x|^2, 1] @ [-2 y, 1, |y|^2].T
    assert flops_of(lambda: torch.cdist(rand(30, 4), rand(40, 4))) == 2 * 30 * 40 * (4 + 2)
    assert flops_of(lambda: torch.pdist(rand(5, 4))) == 3 * (5 * 4 / 2) * 4


@pytest.mark.parametrize(
    "run",
    [
        lambda: torch.relu(rand(3)) + rand(3),
        lambda: nn.LayerNorm(4)(rand(3, 4)),
        lambda: nn.BatchNorm2d(3)(rand(2, 3, 4, 4)),
        lambda: nn.Embedding(5, 3)(torch.tensor([1, 2])),
        lambda: nn.EmbeddingBag(5, 3)(torch.tensor([[1, 2]])),
        lambda: F.interpolate(rand(1, 3, 4, 4), scale_factor=2, mode="bilinear"),
        lambda: F.cross_entropy(rand(3, 4), torch.tensor([0, 1, 2])),
        lambda: torch.optim.Adam(nn.Linear(2, 2).parameters()).step(),
        lambda: rand(3, 4).to(torch.bfloat16).T.contiguous().sort(),
        lambda: rand(3, 4).to_sparse().coalesce(),
        lambda: F.dropout(rand(3), 0.5) * torch.randn(3),
        lambda: F.ctc_loss(rand(5, 1, 4).log_softmax(2), torch.tensor([[1, 2]]), torch.tensor([5]), torch.tensor([2])),
    ],
)
def test_what_has_no_flops_by_convention_has_none_and_is_not_unknown(run: Callable[[], object]) -> None:
    assert flops_of(run) == 0


@torch.library.custom_op("torchprof_flops::blind", mutates_args=())
def blind(x: Tensor) -> Tensor:
    """What it computes is not seen."""
    return torch.from_numpy(x.numpy() @ x.numpy())


@torch.library.custom_op("torchprof_flops::seen", mutates_args=())
def seen(x: Tensor) -> Tensor:
    """What it computes is made of ops of PyTorch's."""
    return x @ x


class Around(Tensor):
    """A subclass around another tensor, whose products are not seen."""

    elements: Tensor

    @staticmethod
    def __new__(cls, elements: Tensor) -> Around:
        made: Around = Tensor._make_wrapper_subclass(cls, elements.shape)
        made.elements = elements
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        first, *others = [each.elements if isinstance(each, Around) else each for each in args]
        return (
            torch.from_numpy(first.numpy() @ others[0].numpy()) if func is torch.ops.aten.mm.default else func(first, *others)
        )


WRAPPED = " (sparse, nested or wrapped tensors)"


def test_an_op_that_may_have_flops_and_has_no_formula_is_named() -> None:
    symmetric = torch.eye(4)
    assert unknown_in(lambda: torch.linalg.eigh(symmetric)) == ["aten::_linalg_eigh"]
    assert unknown_in(lambda: torch.linalg.svd(symmetric)) == ["aten::_linalg_svd"]
    assert unknown_in(lambda: blind(rand(3, 3))) == ["torchprof_flops::blind"]


def test_products_of_operands_that_are_not_dense_are_unknown() -> None:
    sparse = rand(4, 5).to_sparse()
    assert unknown_in(lambda: sparse @ rand(5, 3)) == [f"aten::addmm{WRAPPED}"]
    assert unknown_in(lambda: sparse.to_sparse_csr() @ rand(5, 3)) == [f"aten::addmm{WRAPPED}"]
    assert unknown_in(lambda: Around(rand(2, 3)) @ rand(3, 4)) == [f"aten::mm{WRAPPED}"]


def test_an_unknown_op_is_counted_by_what_is_inside_it() -> None:
    assert flops_of(lambda: seen(rand(3, 3))) == 2 * 3 * 3 * 3
    assert flops_of(lambda: torch.linalg.matrix_exp(rand(3, 3))) % (2 * 3 * 3 * 3) == 0


def test_a_product_that_raises_counts_nothing() -> None:
    def run() -> None:
        with pytest.raises(RuntimeError):
            torch.ones(2, 3) @ torch.ones(2, 3)

    assert flops_of(run) == 0


def test_compiling_a_module_counts_nothing_of_the_compilation() -> None:
    model = torch.compile(nn.Linear(4, 5), backend="eager")
    x = rand(2, 4)
    assert flops_of(lambda: model(x)) == flops_of(lambda: model(x)) == 2 * 2 * 4 * 5
