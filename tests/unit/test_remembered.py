"""What tables share of a trace is computed once, and let go of with the trace."""

from __future__ import annotations

import gc
import weakref

from handwritten import loop_trace, trace

import torchprof
from torchprof.analysis.memory.on_device import allocations_on, categories_on, changes_on
from torchprof.analysis.remembered import remembered
from torchprof.trace.trace import Trace


def test_a_function_computes_once_for_a_trace_and_its_arguments() -> None:
    calls: list[tuple[Trace, str]] = []

    @remembered
    def found(trace: Trace, device: str) -> str | None:
        calls.append((trace, device))
        return None if device == "none" else device

    first, second = trace(), trace()
    assert [found(first, "cpu"), found(first, "none"), found(first, "none"), found(first, "cpu")] == ["cpu", None, None, "cpu"]
    assert found(second, "cpu") == "cpu"
    assert calls == [(first, "cpu"), (first, "none"), (second, "cpu")]


def test_what_could_not_be_computed_is_tried_again() -> None:
    fails = True

    @remembered
    def found(trace: Trace) -> int:
        if fails:
            raise ValueError
        return 1

    recorded = trace()
    try:
        found(recorded)
    except ValueError:
        fails = False
    assert found(recorded) == 1


def test_tables_let_go_of_a_trace() -> None:
    recorded = loop_trace()
    printed = [str(table(recorded)) for table in (torchprof.by_module, torchprof.by_op, torchprof.by_step, torchprof.memory)]
    assert all(printed)
    freed = weakref.ref(recorded)
    del recorded
    gc.collect()
    assert freed() is None


def test_accounts_share_the_rows_of_a_device() -> None:
    recorded = loop_trace()
    first, second = torchprof.memory(recorded), torchprof.memory(recorded)
    assert first.allocations is second.allocations is allocations_on(recorded, "cpu") is recorded.allocations
    assert first.category is categories_on(recorded, "cpu")
    assert not first.category.flags.writeable
    assert changes_on(recorded, "cpu") is changes_on(recorded, "cpu")
    assert len(allocations_on(recorded, "meta")) == 0
