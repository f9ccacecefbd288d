"""Which call a call on another thread was made for, on traces written by hand."""

from handwritten import module, trace

from torchprof.analysis.model.callers import callers
from torchprof.trace.model import Model
from torchprof.trace.trace import Trace

# The model: "" holds "a" and "b", "a" holds "a.0". Modules 4 and 5 are registered nowhere.
ROOT, A, A0, B, LOOSE, TWIN = range(6)
INFOS = [module("", "M", -1, 1), module("a", "S", 0, 2), module("a.0", "L", 1, 3), module("b", "L", 0, 4)]


def on_threads(*calls: tuple[int, int, int, int], ops: tuple[tuple[int, int, int], ...] = ()) -> Trace:
    """Calls of (module, thread, start, end), all without one around them, and ops of (thread, start, end)."""
    return trace(
        strings=["M", "S", "L"],
        modules=[{"address": address, "type": type} for address, type in ((1, 0), (2, 1), (3, 2), (4, 2), (90, 0), (91, 0))],
        module_calls=[{"module": m, "thread": t, "start": start, "end": end, "parent": -1} for m, t, start, end in calls],
        ops=[{"name": 0, "thread": t, "start": start, "end": end} for t, start, end in ops],
        threads=[{}, {}, {}],
        model=Model(tuple(INFOS)),
    )


def test_what_runs_beside_a_call_on_a_third_thread_is_no_caller_of_it() -> None:
    both = on_threads((ROOT, 0, 0, 100), (LOOSE, 1, 10, 90), (TWIN, 2, 20, 30))
    assert callers(both).tolist() == [-1, 0, 0]


def test_a_part_of_what_runs_on_a_thread_may_run_on_a_further_thread() -> None:
    nested = on_threads((ROOT, 0, 0, 100), (A, 1, 10, 90), (A0, 2, 20, 30))
    assert callers(nested).tolist() == [-1, 0, 1]
    beside = on_threads((ROOT, 0, 0, 100), (A, 1, 10, 90), (B, 2, 20, 30))
    assert callers(beside).tolist() == [-1, 0, 0], "b is no part of a"


def test_a_model_that_is_called_on_two_threads_does_not_call_itself() -> None:
    assert callers(on_threads((ROOT, 0, 0, 100), (ROOT, 1, 10, 90))).tolist() == [-1, -1]
    assert callers(on_threads((A, 0, 0, 100), (ROOT, 1, 10, 90))).tolist() == [-1, -1], "nor is it called by its part"


def test_of_two_models_the_one_whose_thread_waits_is_the_caller() -> None:
    calls = (LOOSE, 0, 0, 100), (TWIN, 1, 5, 120), (B, 2, 20, 30)
    assert callers(on_threads(*calls, ops=((1, 22, 25),))).tolist()[2] == 0
    assert callers(on_threads(*calls, ops=((0, 22, 25),))).tolist()[2] == 1


def test_only_a_call_that_is_open_from_the_start_to_the_end_is_a_caller() -> None:
    assert callers(on_threads((ROOT, 0, 0, 25), (LOOSE, 1, 20, 30), (TWIN, 2, 40, 50))).tolist() == [-1, -1, -1]


def test_the_innermost_open_call_of_a_thread_is_the_caller() -> None:
    inner = trace(
        strings=["M"],
        modules=[{"address": 90}, {"address": 91}, {"address": 92}, {"address": 93}],
        module_calls=[
            {"module": 0, "start": 0, "end": 100, "parent": -1},
            {"module": 1, "start": 5, "end": 9, "parent": 0},
            {"module": 2, "start": 10, "end": 90, "parent": 0},
            {"module": 3, "start": 20, "end": 30, "parent": -1, "thread": 1},
        ],
        threads=[{}, {}],
    )
    assert callers(inner).tolist() == [-1, 0, 0, 2]
