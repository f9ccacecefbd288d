"""FLOPs of signatures, found when a recording ends, on tables written by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from handwritten import loop_trace, trace
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from torchprof.record.flops import Flops, evaluate, op_classes
from torchprof.record.flops.op_classes import op_classes_of
from torchprof.trace.schema import (
    LAYOUTS,
    NO_FLOPS,
    OP_NESTED,
    TENSOR_NOT_DENSE,
    TENSOR_SYMBOLIC,
    TENSOR_WRAPPER,
    UNKNOWN_FLOPS,
)
from torchprof.trace.trace import Trace
from torchprof.trace.type_names import Dtypes


def evaluated(recorded: Trace, *, outputs: bool = True) -> Flops:
    return evaluate({name: getattr(recorded, name) for name in LAYOUTS}, recorded.strings, recorded.dtypes, outputs=outputs)


def one_op(name: str, *shapes: tuple[int, ...], flags: int = 0, n_outputs: int = 1) -> Trace:
    """A trace of one op, whose last tensor is its output."""
    return trace(
        strings=[name],
        shapes=list(shapes),
        tensors=[{"shape": row, "dtype": 6, "flags": flags} for row in range(len(shapes))],
        operands=list(range(len(shapes))),
        signatures=[
            {"name": 0, "n_inputs": len(shapes) - n_outputs, "outputs": len(shapes) - n_outputs, "n_outputs": n_outputs}
        ],
        ops=[{}],
    )


@pytest.fixture
def formula_of_the_users_own() -> Iterator[list[Any]]:
    """One for ``aten::mm``, which says 7; its arguments are kept."""
    given: list[Any] = []

    def formula(*args: Any, out_val: Any) -> int:
        given.append((args, out_val))
        return 7

    pytorchs = flop_registry[torch.ops.aten.mm]
    flop_registry[torch.ops.aten.mm] = formula
    yield given
    flop_registry[torch.ops.aten.mm] = pytorchs


def test_every_signature_has_the_flops_of_its_formula() -> None:
    found = evaluated(loop_trace())
    assert found.of_signatures.tolist() == loop_trace().signature_flops.tolist() == [NO_FLOPS, 2 * 2 * 3 * 4]
    assert found.problems == []


def test_a_signature_whose_ops_all_ran_inside_others_that_count_counts_nothing() -> None:
    nested = loop_trace()
    nested.ops.flags.writeable = True
    nested.ops["flags"][1::2] |= OP_NESTED
    assert evaluated(nested).of_signatures.tolist() == [NO_FLOPS, 0]


@pytest.mark.parametrize(
    "name", ["aten::relu", "aten::add_", "aten::view", "aten::_foreach_mul_", "aten::gelu_backward", "my range"]
)
def test_an_op_that_has_no_flops_by_convention_is_not_unknown(name: str) -> None:
    assert evaluated(one_op(name, (2, 3), (2, 3))).of_signatures.tolist() == [NO_FLOPS]


@pytest.mark.parametrize("name", ["mylib::op", "aten::_linalg_svd", "aten::an_op_of_a_later_pytorch"])
def test_an_op_without_a_formula_is_unknown(name: str) -> None:
    found = evaluated(one_op(name, (2, 3), (2, 3)))
    assert (found.of_signatures.tolist(), found.problems) == ([UNKNOWN_FLOPS], [])


@pytest.mark.parametrize("flags", [TENSOR_NOT_DENSE, TENSOR_WRAPPER, TENSOR_SYMBOLIC])
def test_an_op_whose_operands_do_not_say_their_shape_is_unknown(flags: int) -> None:
    assert evaluated(one_op("aten::mm", (2, 3), (3, 4), (2, 4))).of_signatures.tolist() == [2 * 2 * 3 * 4]
    assert evaluated(one_op("aten::mm", (2, 3), (3, 4), (2, 4), flags=flags)).of_signatures.tolist() == [UNKNOWN_FLOPS]


def test_an_op_that_raised_counts_nothing_and_one_without_recorded_outputs_counts() -> None:
    raised = one_op("aten::mm", (2, 3), (3, 4), n_outputs=0)
    assert evaluated(raised).of_signatures.tolist() == [0]
    assert evaluated(raised, outputs=False).of_signatures.tolist() == [2 * 2 * 3 * 4]


def test_a_formula_that_fails_is_named_and_its_ops_are_unknown() -> None:
    found = evaluated(one_op("aten::mm", (5,), (5,)))
    assert found.of_signatures.tolist() == [UNKNOWN_FLOPS]
    (problem,) = found.problems
    assert "aten::mm failed" in problem


def test_a_formula_of_the_users_own_comes_first_and_is_given_tensors(formula_of_the_users_own: list[Any]) -> None:
    recorded = one_op("aten::mm", (2, 3), (3, 4), (2, 4))
    assert evaluated(recorded).of_signatures.tolist() == [7]
    ((inputs, output),) = formula_of_the_users_own
    assert [tuple(tensor.shape) for tensor in (*inputs, output)] == [(2, 3), (3, 4), (2, 4)]
    assert output.dtype == torch.float32


def test_a_formula_that_is_registered_or_removed_is_noticed(formula_of_the_users_own: list[Any]) -> None:
    assert "aten::mm" in op_classes().users
    own = flop_registry.pop(torch.ops.aten.mm)
    assert "aten::mm" not in op_classes().users
    assert evaluated(one_op("aten::mm", (2, 3), (3, 4), (2, 4))).of_signatures.tolist() == [2 * 2 * 3 * 4]
    flop_registry[torch.ops.aten.mm] = own


def test_an_op_that_was_free_stays_so_where_it_has_a_kernel_meanwhile() -> None:
    name = "aten::scaled_dot_product_attention"
    assert name in op_classes().free
    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    try:
        for key in ("AutogradCPU", "CPU"):
            library.impl("scaled_dot_product_attention", pytest.fail, key)  # type: ignore[no-untyped-call]
        assert name in op_classes_of(["aten::an_op_that_nobody_has_heard_of"]).free
    finally:
        library._destroy()  # type: ignore[no-untyped-call]


def test_a_dtype_that_nobody_knows_does_not_keep_ops_from_being_counted() -> None:
    assert evaluated(replace(loop_trace(), dtypes=Dtypes())).of_signatures.tolist() == [NO_FLOPS, 2 * 2 * 3 * 4]


def test_modes_of_the_user_do_not_see_what_is_evaluated(formula_of_the_users_own: list[Any]) -> None:
    class Dispatched(TorchDispatchMode):
        def __torch_dispatch__(self, func: object, types: object, args: object = (), kwargs: object = None) -> None:
            pytest.fail(f"{func} was dispatched")

    class Called(TorchFunctionMode):
        def __torch_function__(self, func: object, types: object, args: object = (), kwargs: object = None) -> None:
            pytest.fail(f"{func} was called")

    tables = loop_trace()
    with Dispatched(), Called():
        found = evaluated(tables)
    assert found.of_signatures.tolist() == [NO_FLOPS, 7]
