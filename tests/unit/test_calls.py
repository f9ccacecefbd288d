"""The cost of module calls, on traces written by hand."""

from handwritten import trace, two_layer_trace

from torchprof.analysis.time.calls import call_costs
from torchprof.trace.schema import OP_ATTRIBUTED


def test_self_times_add_up_to_the_total_of_the_root() -> None:
    costs = call_costs(two_layer_trace())
    assert costs.forward.tolist() == [100_000, 50_000, 10_000, 20_000]
    assert costs.forward_self.tolist() == [20_000, 50_000, 10_000, 20_000]
    assert costs.forward_self.sum() == costs.forward[0]


def test_a_call_without_an_end_takes_no_time() -> None:
    costs = call_costs(trace(modules=[{}], strings=["M"], module_calls=[{"start": 5, "end": -1}]))
    assert costs.forward.tolist() == [0]


def test_a_call_inside_a_call_of_the_same_module_is_not_outermost() -> None:
    calls = [
        {"start": 0, "end": 10, "module": 0},
        {"start": 1, "end": 9, "module": 1, "parent": 0},
        {"start": 2, "end": 8, "module": 0, "parent": 1},
    ]
    costs = call_costs(trace(modules=[{"address": 1}, {"address": 2}], strings=["M"], module_calls=calls))
    assert costs.outermost.tolist() == [True, True, False]


def test_backward_time_is_attributed_to_the_call_whose_op_is_differentiated_and_the_rest_is_unattributed() -> None:
    engine = "autograd::engine::evaluate_function: "
    recorded = trace(
        strings=["M", engine + "AddBackward0", "AddBackward0", engine + "AccumulateGrad"],
        modules=[{"address": 1}, {"address": 2}],
        module_calls=[{"start": 0, "end": 10}, {"start": 2, "end": 8, "module": 1, "parent": 0}],
        ops=[
            {"start": 20, "end": 30, "name": 1, "module_call": 1, "flags": OP_ATTRIBUTED},
            {"start": 21, "end": 28, "name": 2, "module_call": 1, "parent": 0, "scope": 1, "flags": OP_ATTRIBUTED},
            {"start": 40, "end": 45, "name": 3},
        ],
    )
    costs = call_costs(recorded)
    assert costs.backward_self.tolist() == [0, 10]
    assert costs.backward.tolist() == [10, 10], "the caller's total contains the call inside it"
    assert costs.backward_unattributed == 5
