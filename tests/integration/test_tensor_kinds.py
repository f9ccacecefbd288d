"""Tensors of every kind have their shape and bytes in a summary: nested, sparse, of subclasses, inside torch.func, fake."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

import torchprof
from torchprof.analysis.model.summary import rows_and_totals
from torchprof.record.nested import tensor_bytes
from torchprof.tables.summary import Summary

pytestmark = pytest.mark.filterwarnings("ignore")


class Returns(nn.Module):
    """Applies a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def summary(model: nn.Module, *data: Any, **options: Any) -> Summary:
    return torchprof.summary(model, input_data=data, verbose=0, **options)


def output(value: Any) -> tuple[Any, int | None]:
    """Shapes and bytes of the row of a module that returns this."""
    row = summary(Returns(lambda x: value), torch.ones(1)).rows[0]
    return row.output_shapes, row.output_bytes


def nested(layout: torch.layout, *sizes: int, features: int = 3) -> torch.Tensor:
    tensors = [torch.rand(size, features) for size in sizes]
    return torch.nested.nested_tensor(tensors, layout=layout)


LAYOUTS = pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)


# Nested


def test_the_fast_path_of_a_transformer_has_a_ragged_shape_and_the_bytes_of_what_is_not_padding() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1).eval()
    mask = torch.tensor([[False, False, False, False], [False, False, False, True]])
    with torch.no_grad():
        found = torchprof.summary(model, input_data={"src": torch.rand(2, 4, 16), "src_key_padding_mask": mask}, verbose=0)
    (layer,) = [row for row in found.rows if row.path == "layers.0"]
    assert layer.output_shapes == ((2, "j", 16),)
    assert layer.output_bytes == (~mask).sum() * 16 * 4 == 448
    line = next(line for line in str(found).splitlines() if "TransformerEncoderLayer" in line)
    assert "[2, j, 16]  [2, j, 16]" in line
    assert "448 B" in line


@LAYOUTS
@pytest.mark.parametrize("backward", [False, True])
def test_a_linear_layer_of_a_nested_tensor(layout: torch.layout, backward: bool) -> None:
    found = summary(nn.Linear(3, 4), nested(layout, 2, 4), backward=backward)
    row = found.rows[0]
    assert (row.input_shapes, row.output_shapes) == (((2, "j", 3),), ((2, "j", 4),))
    assert row.output_bytes == (2 + 4) * 4 * 4
    assert found.totals.input_bytes == (2 + 4) * 3 * 4
    assert (found.totals.backward > 0) is backward
    assert re.search(r"Linear +\[2, j, 3\]  \[2, j, 4\]", str(found))


@LAYOUTS
def test_gradients_of_a_nested_output_are_those_of_its_sum(layout: torch.layout) -> None:
    model, x = nn.Linear(3, 4), nested(layout, 2, 4)
    assert model.weight.grad is None
    summary(model, x, backward=True)
    assert model.weight.grad is None


@LAYOUTS
def test_a_view_of_a_nested_tensor_takes_its_own_elements_and_not_the_buffer(layout: torch.layout) -> None:
    x = nested(layout, 2, 4, features=6)
    part = x.chunk(2, -1)[0]
    assert output(part) == (((2, "j", 3),), (2 + 4) * 3 * 4)
    assert output(x.transpose(1, 2)) == (((2, 6, "j"),), (2 + 4) * 6 * 4)


def test_a_jagged_tensor_with_lengths_takes_what_the_lengths_say() -> None:
    values, offsets, lengths = torch.rand(8, 5), torch.tensor([0, 3, 8]), torch.tensor([2, 4])
    x = torch.nested.nested_tensor_from_jagged(values, offsets, lengths)
    assert output(x) == (((2, "j", 5),), (2 + 4) * 5 * 4)


def test_a_nested_tensor_that_is_regular_has_a_plain_shape() -> None:
    x = nested(torch.strided, 4, 4)
    assert output(x) == (((2, 4, 3),), x.numel() * 4)


def test_nested_tensors_without_tensors_and_of_scalars() -> None:
    assert output(torch.nested.nested_tensor([])) == (((0,),), 0)
    assert output(torch.nested.nested_tensor([torch.tensor(1.0), torch.tensor(2.0)])) == (((2,),), 8)
    several = torch.nested.nested_tensor([torch.rand(2, 3, 5), torch.rand(4, 1, 5)])
    assert output(several) == (((2, "j", "j", 5),), several.numel() * 4)


# Sparse


@pytest.mark.parametrize("layout", ["sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc"])
def test_a_sparse_tensor_takes_its_indices_and_values(layout: str) -> None:
    dense = torch.eye(6)
    sparse = dense.to_sparse(layout=getattr(torch, layout), blocksize=(2, 2) if layout[-3:] in ("bsr", "bsc") else None)
    parts = {
        "sparse_coo": lambda: (sparse._indices(), sparse._values()),
        "sparse_csr": lambda: (sparse.crow_indices(), sparse.col_indices(), sparse.values()),
        "sparse_csc": lambda: (sparse.ccol_indices(), sparse.row_indices(), sparse.values()),
        "sparse_bsr": lambda: (sparse.crow_indices(), sparse.col_indices(), sparse.values()),
        "sparse_bsc": lambda: (sparse.ccol_indices(), sparse.row_indices(), sparse.values()),
    }[layout]()
    assert output(sparse) == (((6, 6),), sum(part.nbytes for part in parts))


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr], ids=str)
def test_backward_starts_from_a_sparse_output(layout: torch.layout) -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.weight * x).to_sparse(layout=layout)

    assert summary(Sparse(), torch.rand(4, 4), backward=True).totals.backward > 0


def test_a_sparse_operand_moves_the_bytes_it_has() -> None:
    sparse, dense = torch.eye(64).to_sparse(), torch.rand(64, 8)
    with torchprof.profile() as prof:
        torch.sparse.mm(sparse, dense)
    rows = {row["name"]: row for row in torchprof.by_op(prof.trace).rows}
    moved = [row["bytes"] for name, row in rows.items() if row["bytes"]]
    assert max(moved) < 64 * 64 * 4  # a dense operand of this shape alone would be more


def test_ops_of_nested_tensors_of_one_ragged_shape_are_told_apart_by_their_bytes() -> None:
    a, b = nested(torch.strided, 2, 4), nested(torch.strided, 20, 40)
    with torchprof.profile() as prof:
        torch.neg(a)
        torch.neg(b)
    rows = torchprof.by_op(prof.trace, shapes=True).rows
    assert [row["calls"] for row in rows if row["name"] == "aten::neg" and row["shapes"] == [[2, "j", 3]]] == [1, 1]
    assert sum(row["bytes"] for row in rows) == 2 * (6 + 60) * 3 * 4


# Subclasses around other tensors


class Wrapper(torch.Tensor):
    """Says a shape, and holds something else."""

    __slots__ = ("packed",)

    @staticmethod
    def __new__(cls, shape: tuple[int, ...], **attributes: Any) -> Wrapper:
        return torch.Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32)

    def __init__(self, shape: tuple[int, ...], packed: Any = None, **attributes: Any) -> None:
        if packed is not None:
            self.packed = packed
        self.__dict__.update(attributes)

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"{name} was read by running code of the program")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("an op ran")


def test_a_wrapper_takes_what_is_in_its_slots_and_attributes_each_tensor_once() -> None:
    data, scale = torch.zeros(8, 4, dtype=torch.uint8), torch.rand(8)
    x = Wrapper.__new__(Wrapper, (8, 8))
    object.__setattr__(x, "packed", data)
    object.__getattribute__(x, "__dict__").update(scales=[scale, {"again": scale}], same=data, name="int4", itself=None)
    assert tensor_bytes(x) == data.untyped_storage().nbytes() + scale.untyped_storage().nbytes() == 64


def test_a_wrapper_in_a_wrapper_takes_what_is_in_the_middle() -> None:
    inner = [torch.rand(4, 4) for _ in range(4)]
    x = TwoTensor(TwoTensor(inner[0], inner[1]), TwoTensor(inner[2], inner[3]))
    assert output(x) == (((4, 4),), sum(tensor.untyped_storage().nbytes() for tensor in inner))


def test_a_wrapper_around_nothing_that_can_be_found_has_a_shape_and_unknown_bytes() -> None:
    x = Wrapper.__new__(Wrapper, (8, 8))
    assert tensor_bytes(x) is None
    model = Returns(lambda given: x)
    with torchprof.profile(model) as prof:
        model(torch.ones(1))
    (row,), _ = rows_and_totals(prof.trace)
    assert (row.output_shapes, row.output_bytes) == (((8, 8),), None)


def test_a_wrapper_that_holds_itself() -> None:
    x = Wrapper.__new__(Wrapper, (8, 8))
    object.__getattribute__(x, "__dict__").update(itself=x)
    assert tensor_bytes(x) is None


def test_masked_tensors_take_data_and_mask() -> None:
    data, mask = torch.rand(4, 4), torch.rand(4, 4) > 0.5
    assert output(torch.masked.masked_tensor(data, mask)) == (((4, 4),), 64 + 16)


def test_the_flops_of_a_wrapper_are_those_of_what_it_computes() -> None:
    x, weight = TwoTensor(torch.rand(4, 8), torch.rand(4, 8)), TwoTensor(torch.rand(8, 2), torch.rand(8, 2))
    with torchprof.profile() as prof:
        torch.mm(x, weight)
    assert sum(row["flops"] for row in torchprof.by_op(prof.trace).rows) == 2 * (2 * 4 * 8 * 2)


def test_the_size_that_a_wrapper_says_it_has_is_no_memory() -> None:
    x = TwoTensor(torch.rand(512, 512), torch.rand(512, 512))
    model = Returns(lambda given: given * 2)
    with torchprof.profile(model) as prof:
        model(x)
    assert 4 * 2**20 <= torchprof.memory(prof.trace).peak.bytes < 4 * 2**20 + 100  # two tensors, before and after


@pytest.fixture
def world_of_4() -> Iterator[None]:
    from torch import distributed
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("world_of_4")
def test_a_distributed_tensor_has_the_global_shape_and_takes_its_local_part() -> None:
    from torch.distributed.tensor import DeviceMesh, Shard, distribute_tensor

    x = distribute_tensor(torch.rand(8, 16), DeviceMesh("cpu", torch.arange(4)), [Shard(0)])
    assert output(x) == (((8, 16),), 8 * 16 * 4 // 4)


# torch.func


def test_inside_vmap_the_mapped_dimension_counts() -> None:
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, x: torch.Tensor) -> Any:
            return torch.vmap(self.linear)(x)

    row = summary(Mapped(), torch.rand(8, 3)).rows[1]
    assert (row.input_shapes, row.output_shapes, row.output_bytes) == (((8, 3),), ((8, 4),), 8 * 4 * 4)


def test_inside_several_transforms_shapes_are_those_in_memory() -> None:
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, x: torch.Tensor) -> Any:
            return torch.vmap(torch.vmap(torch.func.grad(lambda row: self.linear(row).sum())))(x)

    row = summary(Mapped(), torch.rand(5, 8, 3)).rows[1]
    assert (row.input_shapes, row.output_shapes, row.output_bytes) == (((5, 8, 3),), ((5, 8, 4),), 5 * 8 * 4 * 4)


# Plain tensors of every kind


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.rand(3, dtype=torch.complex64), 3 * 8),
        (torch.rand(3, dtype=torch.complex64).conj(), 3 * 8),
        (torch.rand(3, dtype=torch.complex64).conj().imag, 3 * 4),
        (torch.rand(1, 3).expand(5, 3), 5 * 3 * 4),
        (torch.rand(10)[:0], 0),
        (torch.tensor(1.0), 4),
        (torch.rand(10)[::2], 5 * 4),
        (torch.zeros(3, dtype=torch.float8_e4m3fn), 3),
        (torch.zeros(3, dtype=torch.uint4), 3),
        (torch.ones(3, dtype=torch.bool), 3),
        (torch.rand(3, 4, device="meta"), 3 * 4 * 4),
        (torch.rand(3, 4).to_mkldnn(), 3 * 4 * 4),
        (nn.Parameter(torch.rand(3)), 3 * 4),
    ],
    ids=lambda value: "",
)
def test_a_dense_tensor_takes_elements_times_their_size(tensor: torch.Tensor, expected: int) -> None:
    assert output(tensor) == ((tuple(tensor.shape),), expected)


def test_a_quantized_tensor_takes_its_quantized_elements() -> None:
    tensor = torch.quantize_per_channel(torch.rand(3, 4), torch.ones(3), torch.zeros(3), 0, torch.qint8)
    assert output(tensor) == (((3, 4),), 3 * 4)


def test_under_a_fake_tensor_mode_rows_have_the_bytes_that_real_tensors_would_take() -> None:
    with FakeTensorMode():
        model = nn.Sequential(nn.Linear(128, 256), nn.ReLU())
        rows = summary(model, torch.empty(500, 128)).rows
    assert [row.output_bytes for row in rows] == [500 * 256 * 4] * 3
    assert [row.output_shapes for row in rows] == [((500, 256),)] * 3


def test_a_symbolic_size_is_unknown_in_a_recording_and_so_are_the_bytes() -> None:
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    mode = FakeTensorMode(shape_env=ShapeEnv())
    symbolic: Any = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC, DimDynamic.STATIC])
    x = mode.from_tensor(torch.empty(4, 8), symbolic_context=symbolic)
    with mode:
        model = nn.Linear(8, 3)
        with torchprof.profile(model) as prof:
            model(x)
    found = Summary(prof.trace)
    row = found.rows[0]
    assert (row.input_shapes, row.output_shapes, row.output_bytes) == (((None, 8),), ((None, 3),), None)
    assert re.search(r"\[\?, 8\] +\[\?, 3\]", str(found.select("input", "output")))


# Parameters and buffers


def test_parameters_and_buffers_of_these_kinds_have_their_bytes() -> None:
    model = nn.Module()
    model.register_buffer("sparse", torch.eye(6).to_sparse())
    model.register_buffer("ragged", nested(torch.strided, 2, 4))
    model.register_parameter("two", nn.Parameter(TwoTensor(torch.rand(4), torch.rand(4))))
    found = torchprof.summary(model, verbose=0)
    assert found.totals.buffer_bytes == (2 * 6 * 8 + 6 * 4) + (2 + 4) * 3 * 4
    assert found.totals.param_bytes == 2 * 16
    assert found.totals.params == 4


# What is made of them


def test_a_ragged_shape_goes_everywhere(tmp_path: Any) -> None:
    found = summary(nn.Linear(3, 4), nested(torch.strided, 2, 4))
    assert json.loads(found.to_json())[0]["output"] == [[2, "j", 4]]
    assert "(2, 'j', 4)" in found.to_csv()
    assert found.to_dict()["rows"][0]["output_shapes"] == ((2, "j", 4),)
    path = tmp_path / "nested.torchprof"
    found.trace.save(path)
    loaded = torchprof.load(path)
    shapes = [loaded.shape(row) for row in range(len(loaded.shapes))]
    assert [shape for shape in shapes if "j" in shape] == [(2, "j", 3), (2, "j", 4)]
    assert str(torchprof.summary(nn.Linear(3, 4), input_data=nested(torch.strided, 2, 4), style="torchsummary", verbose=0))
    with torchprof.profile() as prof:
        torch.neg(nested(torch.strided, 2, 4))
    torchprof.export_chrome(prof.trace, tmp_path / "chrome.json")
    assert '[2, "j", 3]' in (tmp_path / "chrome.json").read_text()
    assert "[2, j, 3]" in str(torchprof.by_op(prof.trace, shapes=True))


def test_the_note_of_an_error_shows_ragged_inputs() -> None:
    with pytest.raises(RuntimeError) as raised:
        summary(nn.Linear(7, 4), nested(torch.strided, 2, 4))
    assert "called with float32[2, j, 3]" in raised.value.__notes__[0]
