"""What a recording may take: its budget, and how many rows and tensors there can be."""

from __future__ import annotations

import threading

import pytest
import torch
from reading import op_names
from torch import nn
from torch.profiler import record_function

import torchprof
from torchprof.trace.schema import LAYOUTS

MIB = 2**20


def bytes_of(prof: torchprof.profile) -> int:
    return prof._recorder.bytes


def test_names_count_towards_the_budget() -> None:
    with torchprof.profile(budget=MIB) as prof:
        for number in range(2000):
            with record_function(f"{number} " + "x" * 10_000):
                pass
        assert bytes_of(prof) <= MIB
    names = [name for name in op_names(prof.trace) if name.endswith("x")]
    assert 10 < len(names) < MIB // 10_000
    assert len(names) + prof.trace.losses["ops"] == 2000
    assert names == [f"{number} " + "x" * 10_000 for number in range(len(names))], "the first of them, whole"


def test_names_and_shapes_count_towards_the_budget_of_sums() -> None:
    with torchprof.profile(budget=MIB, aggregate=True) as prof:
        for number in range(400):
            with record_function(f"{number} " + "x" * 10_000):
                torch.empty(number + 1, 2, device="meta").neg_()
            prof.step()
            assert bytes_of(prof) <= 1.5 * MIB
    assert sum(len(text) >= 10_000 for text in prof.trace.strings) < MIB // 10_000
    names = [prof.trace.strings[row] for row in prof.trace.signatures["name"][prof.trace.op_totals["signature"]]]
    ranges = [name.endswith("x") or name == "other ranges" for name in names]
    assert int(prof.trace.op_totals["count"][ranges].sum()) + prof.trace.losses.get("ops", 0) == 400


def test_logs_of_threads_count_towards_the_budget_and_what_threads_without_one_do_is_counted() -> None:
    threads = 300

    def work() -> None:
        torch.ones(1)

    with torchprof.profile(budget=8 * MIB) as prof:
        for _ in range(threads):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        assert bytes_of(prof) <= 8 * MIB
    recorded = op_names(prof.trace).count("aten::ones")
    assert 0 < recorded < threads
    ops_of_one = len(prof.trace.ops) / recorded
    assert (len(prof.trace.ops) + prof.trace.losses["ops"]) / ops_of_one == pytest.approx(threads, abs=2)
    assert prof.trace.losses["allocations"] > 0


def test_marks_count_towards_the_budget_and_those_that_do_not_fit_are_counted() -> None:
    with torchprof.profile(budget=MIB) as prof:
        for number in range(20_000):
            prof.mark(f"mark {number}")
        assert bytes_of(prof) <= MIB
    assert 0 < len(prof.trace.marks) < 20_000
    assert len(prof.trace.marks) + prof.trace.losses["marks"] == 20_000
    assert "marks did not fit the budget" in str(torchprof.by_op(prof.trace))


def test_marks_of_a_step_are_gone_when_it_was_added_up() -> None:
    with torchprof.profile(budget=MIB, aggregate=True) as prof:
        taken = []
        for _ in range(4):
            for number in range(1000):
                prof.mark(f"mark {number}")
            prof.step()
            taken.append(bytes_of(prof))
    assert taken[-1] - taken[1] == 2 * LAYOUTS["steps"].itemsize
    assert prof.trace.losses == {}


def test_rows_of_steps_count_towards_what_an_aggregated_recording_takes() -> None:
    with torchprof.profile(aggregate=True) as prof:
        prof.step()
        first = bytes_of(prof)
        for _ in range(4000):
            prof.step()
        assert bytes_of(prof) - first >= 3900 * LAYOUTS["steps"].itemsize


def test_tensors_of_an_op_beyond_what_a_row_holds_are_counted() -> None:
    tensors = [torch.ones(1) for _ in range(70_000)]
    with torchprof.profile() as prof:
        torch.cat(tensors)
    [row] = [row for row in prof.trace.ops if row["n_inputs"] > 1]
    assert row["n_inputs"] == 65_535
    assert prof.trace.losses == {"operands": 70_000 - 65_535}
    assert "INCOMPLETE: 4,465 operands did not fit" in str(torchprof.by_op(prof.trace))


class First(nn.Module):
    def forward(self, tensors: list[torch.Tensor]) -> torch.Tensor:
        return tensors[0]


@pytest.mark.parametrize(("tensors", "lost"), [(4096, {}), (5000, {"operands": 1})])
def test_tensors_of_a_call_beyond_what_is_searched_are_told(tensors: int, lost: dict[str, int]) -> None:
    model = First()
    with torchprof.profile(model) as prof:
        model([torch.ones(1)] * tensors)
    assert prof.trace.losses == lost
    assert ("INCOMPLETE" in str(torchprof.by_module(prof.trace))) == bool(lost)


def test_a_budget_that_no_number_of_bytes_can_be_is_refused() -> None:
    for budget in (2**63, -1, 2**62 + 1):
        with pytest.raises(torchprof.ArgumentError, match="budget"):
            torchprof.profile(budget=budget)
