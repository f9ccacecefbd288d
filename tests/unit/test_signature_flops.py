"""FLOPs of signatures, found when a recording ends, on tables written by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from handwritten import loop_trace, trace
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from torchprof.record.flops import Flops, counted_ops, evaluate, ops_with_arguments
from torchprof.trace.schema import LAYOUTS, OP_NESTED
from torchprof.trace.trace import Trace
from torchprof.trace.type_names import Dtypes


def evaluated(recorded: Trace) -> Flops:
    return evaluate({name: getattr(recorded, name) for name in LAYOUTS}, recorded.strings, recorded.dtypes)


def test_every_signature_has_the_flops_of_its_formula() -> None:
    found = evaluated(loop_trace())
    assert found.of_signatures.tolist() == loop_trace().signature_flops.tolist() == [-1, 2 * 2 * 3 * 4]
    assert found.problems == []


def test_a_signature_whose_ops_all_ran_inside_others_that_count_counts_nothing() -> None:
    nested = loop_trace()
    nested.ops.flags.writeable = True
    nested.ops["flags"][1::2] |= OP_NESTED
    assert evaluated(nested).of_signatures.tolist() == [-1, 0]


def test_a_formula_that_fails_is_named_and_counts_nothing() -> None:
    broken = trace(
        strings=["aten::mm"],
        shapes=[(5,)],
        tensors=[{"dtype": 6}],
        operands=[0],
        signatures=[{"name": 0, "n_inputs": 1, "n_outputs": 1}],
        ops=[{}],
    )
    found = evaluated(broken)
    assert found.of_signatures.tolist() == [0]
    (problem,) = found.problems
    assert "aten::mm failed" in problem


def test_a_dtype_that_nobody_knows_does_not_keep_ops_from_being_counted() -> None:
    assert evaluated(replace(loop_trace(), dtypes=Dtypes())).of_signatures.tolist() == [-1, 2 * 2 * 3 * 4]


def test_modes_of_the_user_do_not_see_what_is_evaluated() -> None:
    class Dispatched(TorchDispatchMode):
        def __torch_dispatch__(self, func: object, types: object, args: object = (), kwargs: object = None) -> None:
            pytest.fail(f"{func} was dispatched")

    class Called(TorchFunctionMode):
        def __torch_function__(self, func: object, types: object, args: object = (), kwargs: object = None) -> None:
            pytest.fail(f"{func} was called")

    tables = loop_trace()
    with Dispatched(), Called():
        found = evaluated(tables)
    assert found.of_signatures.tolist() == [-1, 2 * 2 * 3 * 4]


def test_names_of_ops_are_those_of_the_dispatcher() -> None:
    assert {"aten::mm", "aten::convolution", "aten::_scaled_dot_product_flash_attention"} <= counted_ops()
    assert counted_ops() == {
        name for packet in flop_registry if (name := getattr(packet, "_qualified_op_name", "")) and isinstance(name, str)
    }
    assert "aten::mm" not in ops_with_arguments()
    assert "aten::convolution" in ops_with_arguments()
    assert torch.ops.aten.mm in flop_registry
