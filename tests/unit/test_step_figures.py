"""The figures of a step by name: those of the tables, and left out where they are not known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from aggregating import aggregate
from goldens import Golden
from handwritten import gpu_trace, loop_trace, trace, two_layer_trace

import torchprof
from torchprof import ArgumentError, Ceilings, ModuleTypeError, Trace
from torchprof.reporting.step_figures import FIGURES

GPU = Ceilings("a GPU", "float32", 0, 1e13, 1e12)
CPU = Ceilings("a CPU", "float32", 2, 1e9, 1e10)
PHASES = "forward_ms recompute_ms backward_ms optimizer_ms data_ms other_ms".split()
MEMORY = {name for name in FIGURES if name.endswith("bytes")}
OF_GPUS = {name for name in FIGURES if name.startswith(("gpu_", "kernels"))}


def told(recorded: Trace, **facts: Any) -> Trace:
    """The trace with further facts."""
    return replace(recorded, facts={**recorded.facts, **facts})


def with_memory(**facts: Any) -> Trace:
    """A warm-up step and two active ones: 100 bytes are held from before, 64 in the first of these and 32 in the second."""
    before = {"start": -1, "bytes": 100}
    blocks = [before, {"start": 105, "end": 150, "bytes": 64, "op": 3}, {"start": 205, "bytes": 32, "op": 5}]
    rows = trace(allocations=blocks).allocations
    return told(replace(loop_trace(), allocations=rows), memory=True, **facts)


def test_the_names_and_their_meaning_are_what_charts_of_people_rely_on(golden: Golden) -> None:
    golden("\n".join(f"{name}: {meaning}" for name, meaning in FIGURES.items()), "figures.txt")


def test_the_figures_of_a_loop_are_means_over_its_active_steps() -> None:
    found = torchprof.figures(loop_trace())
    assert found["steps"] == 2
    assert found["time_ms"] == pytest.approx(90e-6)
    assert found["forward_ms"] == pytest.approx(40e-6)
    assert sum(found[name] for name in PHASES) == pytest.approx(found["time_ms"])
    assert (found["ops"], found["flops"]) == (2, 48)
    assert list(found) == [name for name in FIGURES if name in found]


def test_the_figures_of_devices_are_those_of_the_account() -> None:
    found, account = torchprof.figures(gpu_trace(), ceilings=GPU), torchprof.gpu(gpu_trace(), ceilings=GPU)
    span, busy = (sum(getattr(device, name) for device in account.devices) for name in ("span", "busy"))
    assert found["gpu_busy_share"] == pytest.approx(busy / span)
    assert found["gpu_idle_share"] == pytest.approx(1 - busy / span)
    causes = [found[f"gpu_idle_{cause}_share"] for cause in ("launch_bound", "synchronization", "other")]
    assert sum(causes) == pytest.approx(found["gpu_idle_share"])
    assert found["gpu_busy_ms"] == pytest.approx(0.447)
    assert found["kernels"] == 11
    assert account.utilization is not None
    assert found["mfu_at_least"] == account.utilization.mfu, "a CUDA graph ran, whose FLOPs nobody counted"
    assert found["findings"] == len(torchprof.findings(gpu_trace()))


def test_memory_is_the_most_in_any_active_step_and_what_the_last_one_left() -> None:
    found = torchprof.figures(with_memory())
    assert {name: found[name] for name in MEMORY & found.keys()} == {
        **{"peak_bytes": 164, "held_bytes": 132, "allocated_bytes": 48, "saved_bytes": 0}
    }


@pytest.mark.parametrize("number", [0, 1, 2])
def test_of_one_step_they_are_those_of_the_table_by_step(number: int) -> None:
    found, (row,) = (
        torchprof.figures(with_memory(), of_step=number),
        [row for row in torchprof.by_step(with_memory()).rows if row["step"] == number],
    )
    assert found["steps"] == 1
    for name in ("time", "forward", "other"):
        assert found[f"{name}_ms"] == pytest.approx(row[name] / 1e6)
    for name in ("peak", "held", "allocated"):
        assert found[f"{name}_bytes"] == row[name]
    assert (found["ops"], found["flops"]) == (row["ops"], row["flops"])
    assert not {"findings", "saved_bytes", "reserved_bytes", "leaked_bytes"} & found.keys(), "of the whole recording"


def test_of_one_step_of_a_gpu_only_what_ran_in_it_counts() -> None:
    last = torchprof.figures(gpu_trace(), of_step=2, ceilings=GPU)
    assert last["gpu_busy_ms"] == pytest.approx(0.457)
    assert last["mfu_at_least"] == pytest.approx(2 * 2 * 512 * 1024 * 1024 / (812e-6 * 2 * 1e13)), (
        "its kernels span 8 to 820 us"
    )


def test_the_numpy_number_of_a_step_is_one() -> None:
    assert torchprof.figures(loop_trace(), of_step=np.int64(1)) == torchprof.figures(loop_trace(), of_step=1)  # type: ignore[arg-type]


def test_an_aggregated_trace_has_what_its_sums_tell() -> None:
    single, sums = torchprof.figures(gpu_trace()), torchprof.figures(aggregate(gpu_trace()), ceilings=GPU)
    for name in ("steps", "time_ms", *PHASES, "ops", "flops", "kernels", "gpu_busy_ms"):
        assert sums[name] == pytest.approx(single[name])
    assert not {"gpu_busy_share", "gpu_idle_share", "mfu", "mfu_at_least", "peak_bytes", "saved_bytes"} & sums.keys()


def test_of_one_step_of_an_aggregated_trace_only_what_the_step_keeps_is_known() -> None:
    found = torchprof.figures(aggregate(gpu_trace()), of_step=2)
    assert found["gpu_busy_ms"] == pytest.approx(0.457)
    assert not {"ops", "flops"} & found.keys(), "these are sums over all steps"


def test_memory_of_an_aggregated_trace_is_that_of_what_was_recorded_and_named_so() -> None:
    steps = [{"end": 10, "number": at, "peak": 70 - at, "held": 40 + at, "allocated": 90 + at} for at in range(2)]
    found = torchprof.figures(trace(steps=steps, facts={"aggregate": True, "memory": True}))
    names = {"peak_recorded_bytes": 70, "held_recorded_bytes": 41, "allocated_bytes": 90.5}
    assert {name: found[name] for name in MEMORY & found.keys()} == names


def test_without_what_was_there_before_the_peak_is_that_of_what_was_recorded() -> None:
    found = torchprof.figures(with_memory(addresses=False))
    assert "peak_bytes" not in found
    assert found["peak_recorded_bytes"] == 164
    assert "saved_bytes" not in found


def test_a_recording_without_steps_counts_as_one() -> None:
    found = torchprof.figures(told(two_layer_trace(), phase_ns=[1, 2, 3, 4, 5, 6]))
    assert found["steps"] == 0
    assert found["time_ms"] == pytest.approx(21e-6)
    assert sum(found[name] for name in PHASES) == pytest.approx(found["time_ms"])
    assert (found["peak_bytes"], found["allocated_bytes"]) == (4000, 4500)


def test_of_a_recording_without_steps_that_lost_rows_the_phases_and_the_work_are_unknown() -> None:
    recorded = told(two_layer_trace(), phase_ns=[1, 2, 3, 4, 5, 6], losses={"ops": 1})
    assert not {*PHASES, "ops", "flops"} & torchprof.figures(recorded).keys()
    assert torchprof.figures(recorded)["time_ms"] == pytest.approx(21e-6)


def test_a_trace_in_which_nothing_ran_has_no_times() -> None:
    assert not {"time_ms", *PHASES, *MEMORY, *OF_GPUS} & torchprof.figures(Trace.empty()).keys()


@pytest.mark.parametrize(
    ("recorded", "unknown"),
    [
        (told(loop_trace(), ops=False), {*PHASES, "ops", "flops"}),
        (told(loop_trace(), counts_flops=False), {"flops", "flops_at_least"}),
        (told(loop_trace(), losses={"ops": 3}), {*PHASES, "ops", "flops"}),
        (told(loop_trace(), losses={"module_calls": 3}), {*PHASES}),
        (told(with_memory(), losses={"allocations": 3}), MEMORY),
        (told(with_memory(), memory=False), MEMORY),
        (told(gpu_trace(), losses={"kernels": 3}), OF_GPUS | {"mfu", "mfu_at_least"}),
        (
            told(gpu_trace(), losses={"runtime_calls": 3}),
            {name for name in OF_GPUS if name.startswith("gpu_idle_")} - {"gpu_idle_share"},
        ),
        (told(gpu_trace(), gpu="events"), OF_GPUS),
        (loop_trace(), OF_GPUS | MEMORY | {"rank", "mfu"}),
    ],
)
def test_what_is_not_known_is_left_out(recorded: Trace, unknown: set[str]) -> None:
    assert not unknown & torchprof.figures(recorded, ceilings=GPU).keys()
    assert torchprof.figures(recorded)["time_ms"] > 0


def test_rows_that_were_lost_are_counted_and_steps_before_keep_their_figures() -> None:
    recorded = told(loop_trace(), losses={"ops": 3})
    assert torchprof.figures(recorded)["lost_rows"] == 3
    assert torchprof.figures(recorded, of_step=1)["flops"] == 48


def test_flops_that_are_a_lower_bound_have_a_name_that_says_so() -> None:
    recorded = loop_trace()
    some = replace(
        recorded, strings=["Net", "mine::linear", "mine::mm", *recorded.strings[3:]], signature_flops=np.array([-2, 48])
    )
    assert torchprof.figures(some)["flops_at_least"] == 48
    assert torchprof.figures(some, ceilings=CPU)["mfu_at_least"] == pytest.approx(48 / (90e-9 * 1e9))
    assert not {"flops", "mfu"} & torchprof.figures(some, ceilings=CPU).keys()
    none = replace(some, signature_flops=np.array([-2, -2]))
    for recorded in (none, aggregate(none), replace(none, steps=none.steps[:0])):
        assert not {"flops", "flops_at_least", "mfu", "mfu_at_least"} & torchprof.figures(recorded, ceilings=CPU).keys()


def test_on_the_cpu_the_utilization_is_of_the_time_of_the_steps() -> None:
    assert torchprof.figures(loop_trace(), ceilings=CPU)["mfu"] == pytest.approx(2 * 48 / (180e-9 * 1e9))


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), 0.0])
def test_ceilings_that_are_no_rates_give_no_figure(odd: float) -> None:
    for recorded, ceilings in ((gpu_trace(), GPU), (loop_trace(), CPU)):
        assert torchprof.figures(recorded, ceilings=replace(ceilings, flops=odd)) == torchprof.figures(recorded)


@pytest.mark.parametrize("facts", [{"rank": 3, "world_size": 8}, {"distributed": {"rank": 3, "world_size": 8}}])
def test_the_rank_is_told_where_there_are_several(facts: dict[str, Any]) -> None:
    assert torchprof.figures(told(loop_trace(), **facts))["rank"] == 3


def test_all_figures_are_plain_numbers() -> None:
    for recorded in (gpu_trace(), with_memory(), aggregate(gpu_trace())):
        assert {type(value) for value in torchprof.figures(recorded).values()} <= {int, float}


@pytest.mark.parametrize("number", [7, -1, 1.5, "1", True])
def test_a_step_that_is_not_there_is_named_with_those_that_are(number: Any) -> None:
    with pytest.raises(ArgumentError, match=r"of_step=.* is no step of the trace, which has 0 to 2"):
        torchprof.figures(loop_trace(), of_step=number)


def test_a_trace_without_steps_says_how_to_mark_them() -> None:
    with pytest.raises(ArgumentError, match=r"of_step=3: the trace has no steps: call prof.step\(\)"):
        torchprof.figures(two_layer_trace(), of_step=3)


def test_a_trace_of_warm_up_alone_has_none_until_a_step_is_chosen() -> None:
    recorded = loop_trace()
    steps = recorded.steps.copy()
    steps["warmup"] = 1
    with pytest.raises(ArgumentError, match=r"3 steps, all of them warm-up.*of_step=2"):
        torchprof.figures(replace(recorded, steps=steps))
    assert torchprof.figures(replace(recorded, steps=steps), of_step=2)["steps"] == 1


def test_what_is_no_trace_is_refused() -> None:
    with pytest.raises(ModuleTypeError, match="is a path, and no torchprof"):
        torchprof.figures("steps.torchprof")  # type: ignore[arg-type]


def test_ceilings_of_a_cpu_are_none_of_a_gpu() -> None:
    with pytest.raises(ArgumentError, match="those of a CPU"):
        torchprof.figures(gpu_trace(), ceilings=CPU)


def test_choosing_a_step_leaves_the_trace_as_it_was() -> None:
    recorded = loop_trace()
    torchprof.figures(recorded, of_step=1)
    assert recorded.steps["warmup"].tolist() == [1, 0, 0]
