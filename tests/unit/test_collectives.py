"""The table by collective: what was sent between ranks, for what, and how fast."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from goldens import Golden
from handwritten import module, trace
from kineto_files import document, kernel, op
from many_ranks import MS, rank_trace

import torchprof
from torchprof.analysis.distributed.bandwidth import bus_factor, group_size_told, size_of
from torchprof.analysis.distributed.collective_names import is_collective_kernel, kind_of
from torchprof.analysis.distributed.collectives import collectives_of
from torchprof.analysis.distributed.groups import group_of, size_of_all
from torchprof.cli.main import main
from torchprof.trace.model import Model

BOTH = {"name": "0", "description": "default_pg", "backend": "gloo", "ranks": [0, 1]}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("c10d::allreduce_", "all-reduce"),
        ("c10d::allreduce_coalesced_", "all-reduce"),
        ("_c10d_functional::all_reduce", "all-reduce"),
        ("c10d::allgather_", "all-gather"),
        ("c10d::_allgather_base_", "all-gather"),
        ("_c10d_functional::all_gather_into_tensor_out", "all-gather"),
        ("c10d::_reduce_scatter_base_", "reduce-scatter"),
        ("_c10d_functional_autograd::reduce_scatter_tensor", "reduce-scatter"),
        ("c10d::alltoall_base_", "all-to-all"),
        ("c10d::broadcast_", "broadcast"),
        ("c10d::reduce_", "reduce"),
        ("c10d::gather_", "gather"),
        ("c10d::scatter_", "scatter"),
        ("c10d::send", "send"),
        ("c10d::recv_any_source_", "receive"),
        ("c10d::monitored_barrier_", "barrier"),
        ("_c10d_functional::wait_tensor", ""),
        ("c10d::check_for_nan", ""),
        ("aten::scatter_", ""),
        ("gloo:all_reduce", ""),
    ],
)
def test_the_name_of_an_op_tells_its_kind(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_kernels_of_nccl_have_two_names() -> None:
    assert is_collective_kernel("ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)")
    assert is_collective_kernel("ncclKernel_AllGather_RING_LL_Sum_int8_t(ncclWorkElem)")
    assert not is_collective_kernel("ampere_sgemm_128x64_tn")


def test_sizes_are_those_of_nccl_tests() -> None:
    assert size_of("all-reduce", "c10d::allreduce_", [100], 4) == 100
    assert size_of("all-gather", "c10d::_allgather_base_", [400, 100], 4) == 400
    assert size_of("reduce-scatter", "c10d::_reduce_scatter_base_", [100, 400], 4) == 400
    assert size_of("all-gather", "c10d::allgather_", [100], 4) == 400
    assert size_of("all-gather", "c10d::allgather_", [100], None) is None
    assert size_of("reduce-scatter", "_c10d_functional::reduce_scatter_tensor", [400], 4) == 400
    assert size_of("all-gather", "_c10d_functional::all_gather_into_tensor", [100], 4) == 400
    assert size_of("all-gather", "c10d::allgather_into_tensor_coalesced_", [400, 800, 100, 200], 4) == 1200
    assert size_of("all-to-all", "c10d::alltoall_base_", [80, 100], 4) == 100, "what is sent"
    assert size_of("all-to-all", "c10d::alltoall_", [1, 2, 3, 4], 2) == 7
    assert size_of("barrier", "c10d::barrier", [1], 4) == 0
    assert size_of("all-reduce", "c10d::allreduce_", [], 4) is None
    assert size_of("all-reduce", "c10d::allreduce_", [-1], 4) is None
    assert group_size_told("c10d::_allgather_base_", [400, 100]) == 4
    assert group_size_told("c10d::_reduce_scatter_base_", [100, 400]) == 4
    assert group_size_told("c10d::_allgather_base_", [0, 0]) is None
    assert group_size_told("c10d::allreduce_", [100]) is None


def test_bus_factors_are_those_of_nccl_tests() -> None:
    factors = {
        kind: bus_factor(kind, 8)
        for kind in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "broadcast", "reduce", "send", "barrier")
    }
    assert factors == {
        **{"all-reduce": 1.75, "all-gather": 0.875, "reduce-scatter": 0.875, "all-to-all": 0.875},
        **{"broadcast": 1.0, "reduce": 1.0, "send": 1.0, "barrier": None},
    }


def test_the_group_is_known_where_only_one_can_be_meant() -> None:
    facts = {"process_groups": [BOTH]}
    assert (group_of(facts, 2), group_of(facts, None), group_of(facts, 4)) == ("default_pg", "default_pg", None)
    tensor = {**BOTH, "name": "1", "description": "mesh_tp"}
    assert group_of({"process_groups": [BOTH, tensor]}, 2) == "ranks 0-1"
    other = {**tensor, "ranks": [0, 2]}
    assert group_of({"process_groups": [BOTH, other]}, 2) is None
    assert group_of({"process_groups": [{**BOTH, "ranks": [0, 1, 2, 3]}, other]}, 2) == "mesh_tp"
    assert (size_of_all({"process_groups": [BOTH, other]}), size_of_all({})) == (2, None)


def ranks(**facts: Any) -> torchprof.Ranks:
    return torchprof.Ranks.of([rank_trace(rank, 2, process_groups=[BOTH], **facts) for rank in range(2)])


def test_a_collective_over_gloo_ran_while_its_thread_did(golden: Golden) -> None:
    table = torchprof.by_collective(ranks()[0])
    golden(str(table), "by_collective.txt")
    (row,) = table.to_dict()
    assert (row["name"], row["calls"], row["bytes"], row["group"], row["group_size"]) == (
        "all-reduce",
        1,
        4000,
        "default_pg",
        2,
    )
    assert (row["asked"], row["ran"], row["waited"]) == (MS, 7 * MS, None)
    assert row["alg_rate"] == pytest.approx(4000 / 7e-3)
    assert row["bus_rate"] == pytest.approx(4000 / 7e-3), "2 (n - 1) / n of two ranks is 1"


def later(trace: torchprof.Trace, by: list[float]) -> torchprof.Trace:
    """The rank, which asks for its collectives by so many ms later, and enters them then."""
    ops, times = trace.ops.copy(), (np.array(by) * MS).astype(np.int64)
    asks, runs = (trace.op_names == trace.strings.index(name) for name in ("c10d::allreduce_", "gloo:all_reduce"))
    ops["start"][asks | runs] += np.tile(times, 2)
    ops["end"][asks] += times
    return replace(trace, ops=ops)


def test_of_ranks_the_one_in_which_it_ran_shortest_tells_the_rate(golden: Golden) -> None:
    first, second = ranks()
    table = torchprof.by_collective(torchprof.Ranks.of([first, later(second, [4, 4, 4])]))
    golden(str(table), "by_collective_of_ranks.txt")
    (row,) = table.to_dict()
    assert (row["ran"], row["shortest"], row["last_rank"], row["longest"]) == (5 * MS, 3 * MS, 1, 7 * MS)
    assert row["alg_rate"] == pytest.approx(4000 / 3e-3)
    assert (row["ranks"], row["whole"]) == (2, 1)


def test_each_call_has_its_own_last_rank_which_is_that_of_stragglers() -> None:
    first, second = ranks()
    pair = torchprof.Ranks.of([later(first, [0, 0, 1]), later(second, [1, 1, 0.5])])
    (row,) = torchprof.by_collective(pair).to_dict()
    assert row["last_rank"] == torchprof.stragglers(pair).collectives.to_dict()[0]["last_rank"] == 1, "twice of three times"
    assert row["shortest"] == pytest.approx(6 * MS)


def test_calls_of_other_steps_are_left_out_of_what_all_ranks_tell_together() -> None:
    first, _ = ranks()
    fewer = torchprof.Ranks.of([later(first, [0, 2, 2]), rank_trace(1, 2, forward=(10,), process_groups=[BOTH])])
    table = torchprof.by_collective(fewer)
    (row,) = table.to_dict()
    assert (row["shortest"], row["longest"], row["whole"]) == (7 * MS, 7 * MS, 0.5), "of the first step, and of all"
    assert row["alg_rate"] == pytest.approx(4000 / 7e-3)
    said = "Of steps in which ranks of a group made other numbers of calls, none is in Shortest and bandwidths"
    assert said in str(table)
    assert said not in str(torchprof.by_collective(ranks()))


def test_where_a_rank_of_the_group_is_missing_rates_are_unknown_and_it_says_why(golden: Golden) -> None:
    group = {**BOTH, "ranks": [0, 1, 2]}
    there = [later(rank_trace(rank, 3, process_groups=[group]), [2 * rank] * 3) for rank in range(2)]
    table = torchprof.by_collective(torchprof.Ranks.of(there))
    (row,) = table.to_dict()
    assert (row["shortest"], row["alg_rate"], row["bus_rate"], row["whole"]) == (None, None, None, 0)
    assert row["last_rank"] == 1, "of those that are there, as stragglers says too"
    golden(str(table), "by_collective_of_a_missing_rank.txt")
    whole = torchprof.by_collective(torchprof.Ranks.of([*there, rank_trace(2, 3, process_groups=[group])]))
    assert whole.to_dict()[0]["shortest"] == 5 * MS


def test_the_footer_speaks_of_columns_that_are_there() -> None:
    table = torchprof.by_collective(ranks())
    about = ("Shortest: ", "Last rank: ", "Alg: ", "Bus: ", "Bandwidths: ")
    below = str(table.select("calls", "ran"))
    assert not [said for said in about if said in below]
    unseen = torchprof.Ranks.of([rank_trace(rank, 2, process_groups=[BOTH]) for rank in range(2)])
    for each in unseen:
        each.strings[each.strings.index("gloo:all_reduce")] = "mpi"
    assert not [said for said in about if said in str(torchprof.by_collective(unseen))]
    rates = str(table.select("calls", "alg_rate"))
    assert [said for said in about if said in rates] == ["Alg: ", "Bandwidths: "]


def test_what_still_ran_when_the_recording_ended_counts_as_the_others() -> None:
    both = ranks()
    whole = torchprof.by_collective(both).to_dict()
    open_in_one = [with_open_ranges(both[0], of=slice(2, None)), both[1]]
    table = torchprof.by_collective(torchprof.Ranks.of(open_in_one))
    assert table.to_dict() == whole, "all calls ran equally long"
    assert "1 call still ran when the recording ended" in str(table)
    alone = torchprof.by_collective(open_in_one[0])
    assert alone.to_dict() == torchprof.by_collective(both[0]).to_dict()
    (row,) = torchprof.by_collective(with_open_ranges(both[0], of=slice(None))).to_dict()
    assert (row["ran"], row["alg_rate"]) == (None, None)
    (row,) = torchprof.by_collective(
        torchprof.Ranks.of([with_open_ranges(each, of=slice(at, None)) for at, each in enumerate(both)])
    ).to_dict()
    assert (row["ran"], row["shortest"], row["last_rank"]) == (None, None, None)


def test_no_call_that_both_ranks_finished_leaves_the_shortest_unknown() -> None:
    first, second = ranks()
    pair = [with_open_ranges(first, of=slice(2, None)), with_open_ranges(second, of=slice(2))]
    (row,) = torchprof.by_collective(torchprof.Ranks.of(pair)).to_dict()
    assert row["ran"] == row["longest"] == 7 * MS
    assert (row["shortest"], row["last_rank"], row["alg_rate"]) == (None, None, None)


def gloo_ranges(trace: torchprof.Trace) -> list[int]:
    return [row for row, name in enumerate(trace.op_names) if trace.strings[name] == "gloo:all_reduce"]


def with_open_ranges(trace: torchprof.Trace, *, of: slice) -> torchprof.Trace:
    """The trace, in which these ranges of its thread of gloo have no end."""
    ops = trace.ops.copy()
    ops["end"][gloo_ranges(trace)[of]] = -1
    return replace(trace, ops=ops)


def test_without_the_groups_sizes_and_rates_of_the_bus_are_unknown() -> None:
    (row,) = torchprof.by_collective(rank_trace(0, 2)).to_dict()
    assert (row["group"], row["group_size"], row["bus_rate"]) == (None, None, None)
    assert row["alg_rate"] is not None


def test_what_did_not_run_where_it_is_seen_has_no_time() -> None:
    unseen = rank_trace(0, 2)
    unseen.strings[unseen.strings.index("gloo:all_reduce")] = "mpi"
    table = torchprof.by_collective(unseen)
    assert table.to_dict()[0]["ran"] is None
    assert "Ran: ? where no kernel of NCCL and no thread of gloo was recorded for it" in str(table)


STRINGS = [
    "Net",
    "Linear",
    "FSDP::pre_forward (fc)",
    "FSDP::all_gather (fc)",
    "c10d::_allgather_base_",
    "record_param_comms",
    "_c10d_functional::all_reduce",
    "c10d::allreduce_",
    "_c10d_functional::wait_tensor",
    "autograd::engine::evaluate_function: torch::autograd::AccumulateGrad",
    "ncclDevKernel_AllGather_RING_LL",
    "ncclDevKernel_AllReduce_Sum_f32_RING_LL",
]


def on_gpus() -> torchprof.Trace:
    """FSDP gathers ``fc`` from 4 ranks; a DTensor is reduced and waited for; DDP reduces; a kernel is of a CUDA graph."""
    ops = [
        {"signature": 0, "start": 0, "end": 50, "scope": 7},
        {"signature": 1, "start": 5, "end": 45, "scope": 7, "parent": 0},
        {"signature": 2, "start": 10, "end": 40, "parent": 1, "inputs": 0, "n_inputs": 2},
        {"signature": 3, "start": 12, "end": 38, "parent": 2},
        {"signature": 4, "start": 60, "end": 90, "inputs": 2, "n_inputs": 1, "outputs": 2, "n_outputs": 1, "module_call": 0},
        {"signature": 5, "start": 65, "end": 85, "parent": 4, "inputs": 2, "n_inputs": 1, "module_call": 0},
        {"signature": 6, "start": 100, "end": 130, "inputs": 2, "n_inputs": 1, "outputs": 2, "n_outputs": 1},
        {"signature": 7, "start": 150, "end": 200, "scope": 1},
        {"signature": 5, "start": 160, "end": 170, "parent": 7, "inputs": 3, "n_inputs": 1, "module_call": 0},
    ]
    on = {"device_type": 1, "stream": 7}
    return trace(
        model=Model((module("", "Net", -1, 100), module("fc", "Linear", 0, 101))),
        strings=STRINGS,
        shapes=[(400,), (100,)],
        tensors=[
            {"shape": 0, "dtype": 6, "storage": 1},
            {"shape": 1, "dtype": 6, "storage": 2},
            {"shape": 1, "dtype": 6, "storage": 3},
            {"shape": 0, "dtype": 6, "storage": 4},
        ],
        operands=[0, 1, 2, 3],
        signatures=[{"name": name} for name in range(2, 10)],
        modules=[{"address": 100, "type": 0}, {"address": 101, "type": 1}],
        module_calls=[{"start": 0, "end": 200, "module": 0}],
        ops=ops,
        kernels=[
            {"start": 100, "end": 1100, "name": 10, "op": 3, **on},
            {"start": 1100, "end": 1500, "name": 11, "op": 5, **on},
            {"start": 1500, "end": 1600, "name": 11, "op": 8, **on},
            {"start": 1700, "end": 1800, "name": 11, "op": -1, **on},
        ],
        facts={"duration_ns": 2000, "gpu": "cupti", "ops": True},
    )


def test_what_asked_is_told_by_the_ranges_and_ops_around() -> None:
    found = {each.by: each for each in collectives_of(on_gpus()).collectives}
    assert set(found) == {"FSDP", "functional", "DDP"}
    fsdp = found["FSDP"]
    assert (fsdp.kind, fsdp.module, fsdp.ranks, fsdp.bytes, fsdp.ran) == ("all-gather", "fc", 4, 1600, 1000)
    functional = found["functional"]
    assert (functional.kind, functional.bytes, functional.asked, functional.waited, functional.ran) == (
        *("all-reduce", 400, 20, 30),
        400,
    ), "the innermost op asks, and a wait is of what wrote to its storage last"
    assert (found["DDP"].bytes, found["DDP"].ran, found["DDP"].waited) == (1600, 100, None)
    assert collectives_of(on_gpus()).kernels_of_none == 1


def test_kernels_of_no_op_are_named() -> None:
    assert "1 kernel of a collective is of no op, as those of CUDA graphs: left out" in str(torchprof.by_collective(on_gpus()))


def test_the_buckets_of_ddp_are_of_what_it_wraps() -> None:
    wrapped = Model((module("", "DistributedDataParallel", -1, 100), module("module", "Net", 0, 101)))
    (found,) = (each for each in collectives_of(replace(on_gpus(), model=wrapped)).collectives if each.by == "DDP")
    assert found.module == "module"


def test_a_file_of_torch_profiler_tells_group_and_sizes(tmp_path: Path) -> None:
    told = {
        "Collective name": "_allgather_base",
        "dtype": "BFloat16",
        "In msg nelems": 100,
        "Out msg nelems": 800,
        "Group size": 8,
        "Process Group Name": "3",
        "Process Group Description": "mesh_dp",
        "Process Group Ranks": "[0, 1, 2, 3, 4, 5, 6, 7]",
    }
    (tmp_path / "trace.json").write_text(
        document(
            [
                op("c10d::_allgather_base_", 10, 30),
                op("record_param_comms", 12, 20, **{"External id": 5}, **told),
                kernel("ncclDevKernel_AllGather_RING_LL", 50, 100, 1, **{"External id": 5}, **told),
            ],
            distributedInfo={"backend": "nccl", "rank": 0, "world_size": 8},
        )
    )
    (row,) = torchprof.by_collective(torchprof.load(tmp_path / "trace.json")).to_dict()
    assert (row["name"], row["group"], row["group_size"], row["bytes"]) == ("all-gather", "mesh_dp", 8, 1600)
    assert row["ran"] == 100_000
    assert row["bus_rate"] == pytest.approx(1600 / 100e-6 * 7 / 8)


def test_what_has_no_single_collectives_says_so() -> None:
    with pytest.raises(torchprof.ArgumentError, match="no single collectives: record without aggregate=True"):
        torchprof.by_collective(rank_trace(0, 1, aggregate=True))
    with pytest.raises(torchprof.ArgumentError, match="record with ops=True"):
        torchprof.by_collective(ranks(ops=False))
    with pytest.raises(torchprof.ModuleTypeError, match="trace must be"):
        torchprof.by_collective(3)  # type: ignore[arg-type]
    empty = torchprof.by_collective(torchprof.Trace.empty())
    assert "No collective was asked for" in str(empty)
    assert len(empty) == 0


def test_the_shell_shows_collectives_of_a_file_and_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for each in ranks():
        each.save(f"{tmp_path}/run/")
    assert main(["show", f"{tmp_path}/run", "--by", "collective"]) == 0
    assert capsys.readouterr().out == f"{torchprof.by_collective(ranks())}\n"
    assert main(["show", f"{tmp_path}/run/rank-0001-of-0002.torchprof", "--by", "collective", "--json"]) == 0
    assert [row["bytes"] for row in json.loads(capsys.readouterr().out)] == [4000]
