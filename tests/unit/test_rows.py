"""Rows and totals of the summary, on traces written by hand."""

from dataclasses import replace

import pytest
from handwritten import module, parameter, trace, two_layer_trace

from torchprof.analysis.model.fold import fold_siblings, limit_depth
from torchprof.analysis.model.layer_calls import layer_calls, raising_call
from torchprof.analysis.model.rows import Row
from torchprof.analysis.model.summary import rows_and_totals
from torchprof.trace.model import Model
from torchprof.trace.schema import CALL_RAISED


def test_a_module_called_twice_is_one_row_whose_times_and_bytes_are_sums() -> None:
    rows, _ = rows_and_totals(two_layer_trace())
    act = rows[2]
    assert (act.path, act.calls, act.forward, act.output_bytes) == ("act", 2, 30_000, 64)
    assert act.input_shapes == ((2, 4),)


def test_a_module_that_was_never_called_is_shown_as_such() -> None:
    rows, _ = rows_and_totals(two_layer_trace())
    assert (rows[3].calls, rows[3].note) == (0, "not called")


def test_totals_count_every_parameter_once_and_bytes_by_dtype() -> None:
    _, totals = rows_and_totals(two_layer_trace())
    assert (totals.params, totals.trainable, totals.frozen) == (20, 16, 4)
    assert totals.param_bytes_by_dtype == {"float32": 80}
    assert (totals.allocated, totals.peak, totals.memory) == (4500, 4000, "measured")


def test_a_container_that_is_not_called_shows_the_time_of_what_is_in_it() -> None:
    model = Model((module("", "Net", -1, 1), module("list", "ModuleList", 0, 2), module("list.0", "Linear", 1, 3)))
    calls = [{"start": 0, "end": 100, "module": 0}, {"start": 10, "end": 60, "module": 1, "parent": 0}]
    rows, _ = rows_and_totals(trace(model=model, strings=["x"], modules=[{"address": 1}, {"address": 3}], module_calls=calls))
    assert (rows[1].calls, rows[1].forward, rows[1].forward_self, rows[1].note) == (0, 50, 0, "")


def test_a_module_registered_nowhere_comes_last_under_its_caller() -> None:
    model = Model((module("", "Net", -1, 1), module("fc", "Linear", 0, 2)))
    calls = [{"start": 0, "end": 9, "module": 0}, {"start": 1, "end": 2, "module": 1, "parent": 0}]
    recorded = trace(
        model=model, strings=["Net", "Dropout"], modules=[{"address": 1}, {"address": 77, "type": 1}], module_calls=calls
    )
    rows, _ = rows_and_totals(recorded)
    assert [row.name for row in rows] == ["Net", "fc", "<Dropout>"]
    assert rows[2].note == "not registered in the model"


def test_a_tied_parameter_is_counted_where_it_is_met_first() -> None:
    tied = parameter("weight", 5, 5, owner="a")
    model = Model(
        (
            module("", "Net", -1, 1),
            module("a", "Linear", 0, 2, parameters=(parameter("weight", 5, 5),)),
            module("b", "Linear", 0, 3, parameters=(tied, parameter("bias", 5))),
            module("c", "Linear", 0, 2, same_as=1),
        )
    )
    rows, totals = rows_and_totals(trace(model=model))
    assert [row.params for row in rows] == [0, 25, 5, 0]
    assert totals.params == rows[0].params_total == 30
    assert (rows[2].note, rows[3].note) == ("weight shared with a", "same module as a")


def test_what_was_lost_is_said_in_the_totals() -> None:
    recorded = replace(two_layer_trace(), facts={"losses": {"ops": 3, "operands": 0, "unmatched_ends": 9}})
    assert rows_and_totals(recorded)[1].losses == {"ops": 3}


def test_a_trace_without_a_model_has_no_rows() -> None:
    with pytest.raises(ValueError, match="without a model"):
        rows_and_totals(trace())


def test_layer_calls_come_in_the_order_in_which_they_ended() -> None:
    assert [call.type for call in layer_calls(two_layer_trace())] == ["Linear", "ReLU", "ReLU", "Net"]


def test_the_innermost_call_that_an_exception_left_is_found() -> None:
    calls = [
        {"start": 0, "end": 9, "module": 0, "flags": CALL_RAISED},
        {"start": 1, "end": 2, "module": 1, "parent": 0},
        {"start": 3, "end": 8, "module": 1, "parent": 0, "flags": CALL_RAISED, "n_inputs": 1},
    ]
    recorded = trace(
        model=Model((module("", "Net", -1, 1), module("fc", "Linear", 0, 2))),
        strings=["Net", "Linear"],
        modules=[{"address": 1}, {"address": 2, "type": 1}],
        module_calls=calls,
        tensors=[{"dtype": 6}],
        shapes=[(4, 2)],
        operands=[0],
    )
    assert raising_call(recorded) == ("fc", "Linear", ("float32[4, 2]",))
    assert raising_call(two_layer_trace()) is None


def layers(count: int, params: int = 3) -> list[Row]:
    rows = [Row("", "Net", "Net", 0, calls=1, params_total=count * params)]
    for index in range(count):
        rows.append(Row(str(index), str(index), "Block", 1, calls=1, forward=10))
        rows.append(Row(f"{index}.fc", "fc", "Linear", 2, calls=1, params=params, forward_self=4))
    return rows


def test_identical_numbered_siblings_fold_into_one_row_of_sums() -> None:
    folded = fold_siblings(layers(24))
    assert [(row.name, row.copies, row.params, row.forward) for row in folded] == [
        ("Net", 1, 0, 0),
        ("0..23", 24, 0, 240),
        ("fc", 1, 72, 0),
    ]


def test_siblings_that_differ_anywhere_below_do_not_fold() -> None:
    rows = layers(3)
    rows[4] = rows[4]._replace(params=4)
    assert [row.name for row in fold_siblings(rows) if row.depth == 1] == ["0", "1", "2"]


def test_siblings_with_names_of_their_own_do_not_fold() -> None:
    rows = [Row("", "Net", "Net", 0), Row("query", "query", "Linear", 1), Row("key", "key", "Linear", 1)]
    assert fold_siblings(rows) == rows


def test_rows_below_the_limit_are_counted_in_the_row_above() -> None:
    limited = limit_depth(layers(2), 1)
    assert [(row.name, row.params, row.forward_self) for row in limited] == [("Net", 0, 0), ("0", 3, 4), ("1", 3, 4)]
