"""What cuBLAS takes on CUDA: copies of operands that it cannot read as they lie, and workspaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchprof
from torchprof import Estimate
from torchprof.estimation.overheads import with_overheads
from torchprof.estimation.rules.cublas import _is_unified

MIB = 2**20


def estimated(function: Callable[..., Any], *inputs: Tensor, **options: Any) -> Estimate:
    return torchprof.estimate(nn.Identity(), inputs, step=lambda model, optimizer, *given: function(*given), steps=1, **options)


def copied(function: Callable[..., Tensor], *inputs: Tensor) -> int:
    """Bytes of blocks after those of inputs and result."""
    sizes: list[int] = estimated(function, *inputs).memory.allocations["bytes"].tolist()
    return sum(sizes[len(inputs) + 1 :])


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def test_the_gradient_of_a_sum_is_copied_for_both_products_of_a_linear_layer() -> None:
    found = torchprof.estimate(nn.Linear(64, 32, bias=False), meta(8, 64), loss=torch.sum, steps=1)
    assert found.memory.allocations["bytes"].tolist().count(8 * 32 * 4) == 2  # the output, and the copy for the weight
    model = nn.Sequential(nn.Linear(16, 64, bias=False), nn.Linear(64, 32, bias=False))
    found = torchprof.estimate(model, meta(8, 16), loss=torch.sum, steps=1)
    assert found.memory.allocations["bytes"].tolist().count(8 * 32 * 4) == 3


@pytest.mark.parametrize(
    ("shape", "view", "expected"),
    [
        ((4, 8, 16), lambda x: x, 0),
        ((4, 16, 8), lambda x: x.mT, 0),
        ((4, 8, 32), lambda x: x[:, :, :16], 0),
        ((1, 8, 16), lambda x: x.expand(4, 8, 16), 0),
        ((4, 8, 1), lambda x: x.expand(4, 8, 16), 4 * 4 * 8 * 16),
        ((1, 1, 1), lambda x: x.expand(4, 8, 16), 4 * 4 * 8 * 16),
        ((4, 8, 32), lambda x: x[:, :, ::2], 4 * 4 * 8 * 16),
    ],
)
def test_a_batch_is_copied_where_neither_rows_nor_columns_lie_in_order(
    shape: tuple[int, ...], view: Callable[[Tensor], Tensor], expected: int
) -> None:
    assert copied(lambda x, y: torch.bmm(view(x), y), meta(*shape), meta(4, 16, 8)) == expected
    assert copied(lambda x, y: torch.baddbmm(y[:1, :1, :1], view(x), y), meta(*shape), meta(4, 16, 8)) == expected


def test_rows_of_a_larger_matrix_are_read_as_they_lie_and_every_second_column_is_not() -> None:
    y = meta(16, 8)
    assert copied(lambda x, y: x[:, :16] @ y, meta(8, 32), y) == 0
    assert copied(lambda x, y: x[:, ::2] @ y, meta(8, 32), y) == 4 * 8 * 16
    assert copied(lambda x, y: torch.addmm(y[0], x[:, ::2], y), meta(8, 32), y) == 4 * 8 * 16
    assert copied(lambda x, y: x.expand(8, 16) @ y, meta(8, 1), y) == 4 * 8 * 16


def test_a_vector_is_copied_where_it_is_one_number() -> None:
    assert copied(lambda x, y: x @ y.expand(16), meta(8, 16), meta(1)) == 4 * 16
    assert copied(lambda x, y: x @ y[::2], meta(8, 16), meta(32)) == 0
    assert copied(lambda x, y: x[:, ::2] @ y, meta(8, 32), meta(16)) == 4 * 8 * 16


def overheads(found: Estimate) -> dict[str, int]:
    return {overhead.name: overhead.bytes for overhead in found.overheads if overhead.reserved}


def linear() -> Estimate:
    return torchprof.estimate(nn.Linear(64, 64), meta(8, 64))


def test_a_bias_is_added_in_the_workspace_of_cublas() -> None:
    assert overheads(linear()) == {"cuBLAS workspaces": 2 * int(8.125 * MIB)}


@pytest.mark.parametrize(
    ("configured", "size"), [(":4096:8", 32 * MIB), (":16:8", 128 * 1024), (":4096:2:16:8", int(8.125 * MIB))]
)
def test_the_environment_says_how_large_it_is(configured: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", configured)
    assert overheads(linear()) == {"cuBLAS workspaces": 2 * size}


@pytest.mark.parametrize(("kib", "size"), [("", MIB), ("4096", 4 * MIB)])
def test_cublaslt_has_one_of_its_own_where_that_is_asked_for(kib: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUBLASLT_UNIFIED_WORKSPACE", "0")
    monkeypatch.setenv("CUBLASLT_WORKSPACE_SIZE", kib)
    found = overheads(linear())  # only forward adds a bias
    assert found == {"cuBLAS workspaces": 2 * int(8.125 * MIB), "cuBLASLt workspaces": size}


@pytest.mark.parametrize(
    ("version", "said", "has_one"),
    [("2.11.0+cu130", "", True), ("2.11.0+cu130", "1", False), ("2.12.0", "", False), ("2.13.0+cpu", "0", True)],
)
def test_cublaslt_has_one_of_its_own_up_to_pytorch_2_11(
    version: str, said: str, has_one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.__version__", version)
    monkeypatch.setenv("TORCH_CUBLASLT_UNIFIED_WORKSPACE", said)
    assert _is_unified() is not has_one


def test_the_workspaces_are_allocated_after_the_result_of_the_product() -> None:
    """So it was on an H200. What is free then goes to the result."""
    found = linear()
    rows = with_overheads(found.trace, found.memory.allocations, found.overheads)
    workspace, result = rows[-2], next(row for row in rows if row["op"] >= 0 and row["bytes"] == 4 * 8 * 64)
    assert workspace["bytes"] == int(8.125 * MIB)
    assert workspace["start"] >= result["start"]
