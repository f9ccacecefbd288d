"""Arguments of ops in files of torch.profiler: shapes, dtypes, FLOPs, and what ops return."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kineto_files import kernel, launch, names, op, read

import torchprof
from torchprof.flops.outputs import output_shapes
from torchprof.importers.kineto.arguments import DtypeNumbers, read_arguments
from torchprof.trace.schema import NO_FLOPS, OP_NESTED, UNKNOWN, UNKNOWN_FLOPS


def row_of(trace: torchprof.Trace, name: str) -> dict[str, Any]:
    (row,) = [row for row in torchprof.by_op(trace, shapes=True).rows if row["name"] == name]
    return row


def test_tensors_have_shapes_and_dtypes_and_other_arguments_have_none(tmp_path: Path) -> None:
    given = op(
        "aten::conv2d",
        0,
        5,
        dims=[[4, 3, 224, 224], [768, 3, 16, 16], [], [], [768], []],
        types=["c10::BFloat16", "c10::Half", "", "ScalarList", "float", "Scalar"],
        values=["", "", "", "[16, 16]", "", "1"],
    )
    row = row_of(read(tmp_path, given), "aten::conv2d")
    assert row["shapes"] == [[4, 3, 224, 224], [768, 3, 16, 16], [768]]
    assert row["dtypes"] == ["bfloat16", "float16", "float32"]


def test_a_tensor_of_no_dimensions_is_one(tmp_path: Path) -> None:
    row = row_of(read(tmp_path, op("aten::div", 0, 5, dims=[[], []], types=["long int", "Scalar"])), "aten::div")
    assert (row["shapes"], row["dtypes"]) == ([[]], ["int64"])


@pytest.mark.parametrize(
    ("written", "name", "itemsize"),
    [
        ("c10::Float8_e4m3fn", "float8_e4m3fn", 1),
        ("c10::complex<float>", "complex64", 8),
        ("unsigned char", "uint8", 1),
        ("c10::Float4_of_tomorrow", "Float4_of_tomorrow", None),
        ("nanofloat", "nanofloat", None),
    ],
)
def test_dtypes_that_are_not_known_keep_their_names(tmp_path: Path, written: str, name: str, itemsize: int | None) -> None:
    trace = read(tmp_path, op("aten::mm", 0, 5, dims=[[2, 3], [3, 4]], types=[written, written]))
    assert row_of(trace, "aten::mm")["dtypes"] == [name, name]
    assert trace.dtypes[int(trace.tensors["dtype"][0])].itemsize == itemsize
    assert row_of(trace, "aten::mm")["bytes"] == (None if itemsize is None else itemsize * (6 + 12 + 8))


def test_of_more_dtypes_than_there_are_numbers_the_last_are_unknown(tmp_path: Path) -> None:
    trace = read(tmp_path, *(op(f"custom::{n}", n, 0.5, dims=[[2]], types=[f"type{n}"]) for n in range(100)))
    assert row_of(trace, "custom::0")["dtypes"] == ["type0"]
    assert row_of(trace, "custom::99")["dtypes"] == ["?"]


def test_lists_of_tensors_are_kept_by_name(tmp_path: Path) -> None:
    trace = read(
        tmp_path,
        op("aten::cat", 0, 5, dims=[[[2, 3], [4, 3]], []], types=["TensorList", "Scalar"]),
        op("aten::stack", 10, 5, dims=[[], []], types=["TensorList", "Scalar"]),  # in older files without sizes
    )
    assert (row_of(trace, "aten::cat")["shapes"], row_of(trace, "aten::cat")["dtypes"]) == (
        [[2, 3], [4, 3]],
        ["TensorList"] * 2,
    )
    assert row_of(trace, "aten::stack")["shapes"] == [[None]]


CONVOLUTION = {
    "dims": [[4, 3, 224, 224], [768, 3, 16, 16], [768], [], [], [], [], [], []],
    "types": ["float", "float", "float", "ScalarList", "ScalarList", "ScalarList", "Scalar", "ScalarList", "Scalar"],
    "values": ["", "", "", "[16, 16]", "[0, 0]", "[1, 1]", "False", "[0, 0]", "1"],
}


def test_flops_follow_from_shapes_and_values(tmp_path: Path) -> None:
    trace = read(
        tmp_path,
        op("aten::convolution", 0, 50, **CONVOLUTION),
        op("aten::cudnn_convolution", 10, 20, dims=CONVOLUTION["dims"][:2], types=["float"] * 2),  # inside: not counted again
        op("aten::addmm", 60, 5, dims=[[7], [5, 6], [6, 7]], types=["float"] * 3),
        op("aten::add", 70, 5, dims=[[7], [7]], types=["float"] * 2),
    )
    rows = {row["name"]: row["flops"] for row in torchprof.by_op(trace).rows}
    assert rows["aten::convolution"] == 2 * 4 * 14 * 14 * 768 * 3 * 16 * 16
    assert rows["aten::addmm"] == 2 * 5 * 6 * 7
    assert (rows["aten::cudnn_convolution"], rows["aten::add"]) == (0, 0)
    assert trace.ops["flags"][names(trace).index("aten::cudnn_convolution")] & OP_NESTED


def test_without_values_the_flops_of_a_convolution_are_unknown(tmp_path: Path) -> None:
    without = {name: value for name, value in CONVOLUTION.items() if name != "values"}
    trace = read(tmp_path, op("aten::convolution", 0, 50, **without))
    assert row_of(trace, "aten::convolution")["flops"] is None
    assert "Unknown FLOPs (? and >=): of aten::convolution" in str(torchprof.by_op(trace))


def test_ops_without_shapes_have_unknown_flops_where_others_have_some(tmp_path: Path) -> None:
    trace = read(tmp_path, op("aten::mm", 0, 5), op("aten::mm", 10, 5, dims=[[2, 3], [3, 4]], types=["float"] * 2))
    assert sorted(trace.signature_flops.tolist()) == [UNKNOWN_FLOPS, 48]


def test_a_file_without_shapes_counts_no_flops(tmp_path: Path) -> None:
    trace = read(tmp_path, op("aten::mm", 0, 5))
    assert [row["flops"] for row in torchprof.by_op(trace).rows] == [None]
    assert trace.facts["shapes"] is False


def test_ops_of_other_packages_are_unknown_and_those_of_pytorch_free(tmp_path: Path) -> None:
    given = {"dims": [[2]], "types": ["float"]}
    trace = read(
        tmp_path,
        op("fbgemm::permute", 0, 5, **given),
        op("aten::some_new_op", 10, 5, **given),
        op("aten::new_matmul", 20, 5, **given),
        op("torch::distributed::reducer::mul_out", 30, 5, **given),
    )
    flops = {trace.strings[row["name"]]: count for row, count in zip(trace.signatures, trace.signature_flops, strict=True)}
    assert flops == {
        "fbgemm::permute": UNKNOWN_FLOPS,
        "aten::some_new_op": NO_FLOPS,
        "aten::new_matmul": UNKNOWN_FLOPS,
        "torch::distributed::reducer::mul_out": NO_FLOPS,
    }


def test_bytes_are_known_of_ops_whose_output_is_and_unknown_otherwise(tmp_path: Path) -> None:
    two = {"dims": [[8, 8], [8, 8]], "types": ["float"] * 2}
    trace = read(
        tmp_path,
        op("aten::mm", 0, 5, **two),
        op("aten::add_", 10, 5, **two),
        op("aten::mul", 20, 5, **two),
        op("aten::view", 30, 5, dims=[[8, 8]], types=["float"]),
        op("aten::linear", 40, 10, **two),
        op("aten::addmm", 42, 5, dims=[[8], [8, 8], [8, 8]], types=["float"] * 3),
        op("aten::empty", 60, 5, dims=[[]], types=["ScalarList"]),
    )
    rows = {row["name"]: row["bytes"] for row in torchprof.by_op(trace).rows}
    assert rows == {
        "aten::mm": 3 * 256,
        "aten::add_": 3 * 256,
        "aten::mul": None,
        "aten::view": 0,
        "aten::linear": 0,  # left to the op inside it
        "aten::addmm": 32 + 3 * 256,
        "aten::empty": 0,
    }


def test_the_device_of_an_op_is_where_its_kernels_ran(tmp_path: Path) -> None:
    square = {"dims": [[8, 8], [8, 8]], "types": ["float"] * 2}
    trace = read(
        tmp_path,
        op("aten::matmul", 0, 10, **square),
        op("aten::mm", 1, 8, **square),
        launch(2, 1, 1),
        kernel("gemm", 20, 5, 1, device=3),
        op("aten::add", 30, 5, **square),
    )
    devices = {}
    for row in trace.signatures:
        tensor = trace.tensors[trace.operands[row["inputs"]]]
        devices[trace.strings[row["name"]]] = (trace.device_types[int(tensor["device_type"])], int(tensor["device_index"]))
    assert devices == {"aten::matmul": ("cuda", 3), "aten::mm": ("cuda", 3), "aten::add": ("unknown", -1)}
    of_gpu = torchprof.gpu(trace, ceilings=torchprof.Ceilings("GPU", "float32", 0, 1e12, 1e12)).utilization
    assert of_gpu is not None
    assert of_gpu.flops == 2 * 8**3


@pytest.mark.parametrize(
    ("name", "inputs", "arguments", "shape"),
    [
        ("aten::mm", [(2, 3), (3, 4)], None, (2, 4)),
        ("aten::bmm", [(5, 2, 3), (5, 3, 4)], None, (5, 2, 4)),
        ("aten::baddbmm", [(5, 1, 4), (5, 2, 3), (5, 3, 4)], None, (5, 2, 4)),
        ("aten::linear", [(7, 2, 3), (4, 3), (4,)], None, (7, 2, 4)),
        ("aten::_scaled_dot_product_flash_attention", [(1, 8, 16, 64), (1, 8, 32, 64), (1, 8, 32, 80)], None, (1, 8, 16, 80)),
        ("aten::convolution", [(1, 3, 9, 9), (8, 3, 3, 3)], "[{}, {}, null, [2], [1], [1], false, [0], 1]", (1, 8, 5, 5)),
        ("aten::convolution", [(1, 3, 5), (3, 8, 3)], "[{}, {}, null, [2], [1], [1], true, [1], 1]", (1, 8, 10)),
        ("aten::cudnn_convolution", [(1, 4, 9), (8, 2, 3)], "[{}, {}, [0], [1], [2], 2, true, false, true]", (1, 8, 5)),
        ("aten::convolution", [(1, 3, 9, 9), (8, 3, 3, 3)], None, None),
        ("aten::mm", [(2, -1), (3, 4)], None, None),
        ("aten::mm", [(2, 3)], None, None),
        ("aten::add", [(2, 3), (2, 3)], None, None),
        ("custom::mm", [(2, 3), (3, 4)], None, None),
    ],
)
def test_shapes_of_outputs(name: str, inputs: list[tuple[int, ...]], arguments: str | None, shape: Any) -> None:
    assert output_shapes(name, inputs, arguments) == (() if shape is None else (shape,))


@pytest.mark.parametrize("dims", ["nonsense", {"a": 1}, [5], [["x"]], [[2**80]], [None]])
def test_dims_that_are_none_are_unknown(tmp_path: Path, dims: Any) -> None:
    trace = read(tmp_path, op("aten::mm", 0, 5, dims=dims, types=["float"]))
    assert trace.signature_flops.tolist() in ([UNKNOWN_FLOPS], [NO_FLOPS])
    assert "aten::mm" in str(torchprof.by_op(trace, shapes=True))


def test_a_smaller_op_inside_does_not_take_the_bytes_of_the_op_around_it(tmp_path: Path) -> None:
    weight, number = {"dims": [[100, 64], []], "types": ["float", "double"]}, {"dims": [[]], "types": ["double"]}
    trace = read(
        tmp_path,
        op("aten::mul_", 0, 50, **weight),
        op("aten::to", 5, 30, **number),
        op("aten::_to_copy", 10, 20, **number),
        op("aten::copy_", 15, 10, dims=[[], [], []], types=["float", "double", "Scalar"]),
        op("aten::sub", 60, 50, **weight),
        op("aten::to", 65, 30, **number),
        op("aten::zero", 120, 20, dims=[[8]], types=["float"]),
        op("aten::zero_", 125, 10, dims=[[8]], types=["float"]),
    )
    # `to` moves what `_to_copy` moves; without one inside, it returned what it was given.
    moved = {row["name"]: row["bytes"] for row in torchprof.by_op(trace).rows}
    assert moved["aten::mul_"] == 2 * 100 * 64 * 4 + 8
    assert moved["aten::sub"] is None  # what it returns is not in the file
    assert moved["aten::zero"] == 0  # which zero_ moves
    assert moved["aten::zero_"] == 8 * 4


def test_values_of_files_of_2021_are_no_tensors() -> None:
    """They have the kind of every value, and no values. A list may be one of tensors."""
    numbers = DtypeNumbers()
    kinds = b'["float", "Int", "Double", "Bool", "None", "float"]'
    found = read_arguments(b"[[2, 3], [], [], [], [], [3]]", kinds, b"", numbers)
    assert [sizes for sizes, _ in found.tensors] == [(2, 3), (3,)]
    assert (found.text, found.has_values) == (None, False)
    lists = read_arguments(b"[[2, 3], []]", b'["float", "GenericList"]', b"", numbers)
    assert [sizes for sizes, _ in lists.tensors] == [(2, 3), (UNKNOWN,)]
    assert lists.text is None


def test_where_all_arguments_are_tensors_no_values_are_needed() -> None:
    found = read_arguments(b"[[2, 3], [[3], [4]]]", b'["float", "TensorList"]', b"", DtypeNumbers())
    assert found.text == "[{}, [{}, {}]]"
