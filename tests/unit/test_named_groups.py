"""The process group of a collective, by the name that its op was given: of a rank with several groups of one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from handwritten import trace
from kineto_files import document, op
from many_ranks import MS, OF_AN_ALL_REDUCE

import torchprof
from torchprof.analysis.distributed.collectives import Collective, collectives_of
from torchprof.analysis.distributed.groups import Group, group_of_wrapper, named_group
from torchprof.analysis.distributed.matched import matched

WORLD: Final = {"name": "0", "description": "default_pg", "backend": "gloo", "ranks": [0, 1, 2, 3]}


def group(name: str, *ranks: int, description: str = "undefined") -> dict[str, Any]:
    return {"name": name, "description": description, "backend": "gloo", "ranks": list(ranks)}


def asks(
    rank: int, names: Sequence[str], groups: Sequence[dict[str, Any]], arguments: str = '{{"group": "{}"}}'
) -> torchprof.Trace:
    """A rank that asks for an all-reduce in each of these groups, in this order."""
    strings = ["Net", "Linear", "aten::mm", "c10d::allreduce_", "gloo:all_reduce", "aten::add_"]
    given = list(dict.fromkeys(names))
    signature = {"name": 3, "n_inputs": 1, "n_outputs": 1}
    sent = {"n_inputs": 1, "n_outputs": 1}
    return trace(
        strings=[*strings, *(arguments.format(name) for name in given)],
        **{**OF_AN_ALL_REDUCE, "signatures": [{**signature, "arguments": len(strings) + at} for at in range(len(given))]},
        ops=[
            {"signature": given.index(name), "start": at * MS, "end": at * MS + 1000, **sent} for at, name in enumerate(names)
        ],
        facts={"rank": rank, "world_size": 4, "host": "node0", "ops": True, "memory": False, "process_groups": [*groups]},
    )


def calls_of(trace: torchprof.Trace) -> list[tuple[str | None, tuple[int, ...] | None, int | None]]:
    return [(each.group, each.members, each.ranks) for each in collectives_of(trace).collectives]


MESH: Final = [
    [WORLD, group("1", 0, 1, description="mesh_tp"), group("3", 0, 2, description="mesh_dp")],
    [WORLD, group("1", 0, 1, description="mesh_tp"), group("4", 1, 3, description="mesh_dp")],
    [WORLD, group("2", 2, 3, description="mesh_tp"), group("3", 0, 2, description="mesh_dp")],
    [WORLD, group("2", 2, 3, description="mesh_tp"), group("4", 1, 3, description="mesh_dp")],
]


def test_of_two_groups_of_one_size_the_one_is_known_that_the_op_was_given() -> None:
    assert calls_of(asks(1, ["4", "1", "0"], MESH[1])) == [
        ("mesh_dp", (1, 3), 2),
        ("mesh_tp", (0, 1), 2),
        ("default_pg", (0, 1, 2, 3), 4),
    ]


def test_on_a_mesh_all_collectives_are_matched_with_the_right_ranks() -> None:
    asked = [["1", "3"], ["1", "4"], ["2", "3"], ["2", "4"]]
    ranks = torchprof.Ranks.of([asks(rank, names, MESH[rank]) for rank, names in enumerate(asked)])
    found = matched(ranks)
    assert (found.no_group, found.differ, found.alone) == (0, 0, 0)
    assert {match.members for match in found.matches} == {(0, 1), (2, 3), (0, 2), (1, 3)}
    assert {row["group"] for row in torchprof.by_collective(ranks).to_dict()} == {"mesh_tp", "mesh_dp"}


def test_two_groups_of_the_same_ranks_are_told_apart_whatever_comes_first() -> None:
    groups = [group("5", 0, 1), group("6", 0, 1)]
    first, second = asks(0, ["5", "6"], groups), asks(1, ["6", "5"], groups)
    found = matched(torchprof.Ranks.of([first, second]))
    names = [{call.group_name for call in match.calls.values()} for match in found.matches]
    assert sorted(names, key=str) == [{"5"}, {"6"}]


def test_ranks_that_call_one_group_by_different_names_are_matched_by_their_order() -> None:
    pair = [asks(rank, [name] * 2, [group(name, 0, 1)]) for rank, name in enumerate(["5", "6"])]
    assert [match.members for match in matched(torchprof.Ranks.of(pair)).matches] == [(0, 1), (0, 1)]


def test_in_one_of_two_groups_ranks_may_have_asked_for_different_numbers() -> None:
    groups = [group("5", 0, 1), group("6", 0, 1)]
    found = matched(torchprof.Ranks.of([asks(0, ["5", "6", "6"], groups), asks(1, ["5", "6"], groups)]))
    assert (len(found.matches), found.differ) == (1, 3)


def test_a_group_that_nobody_saw_is_called_by_its_name_and_taken_for_no_other() -> None:
    gone = asks(0, ["7"], [group("1", 0, 1)])
    assert calls_of(gone) == [("7", None, None)]
    assert matched(torchprof.Ranks.of([gone, asks(1, ["7"], [group("1", 0, 1)])])).no_group == 2


def test_a_name_that_two_groups_had_tells_which_only_where_the_sizes_do() -> None:
    had = {"process_groups": [group("1", 0, 1), group("1", 0, 2), group("1", 0, 1, 2)]}
    assert named_group(had, "1") == Group("1", "1", None)
    assert named_group(had, "1", 3) == Group("ranks 0-2", "1", (0, 1, 2))


@pytest.mark.parametrize("description", ["", "undefined"])
def test_a_group_without_a_description_is_called_by_its_ranks(description: str) -> None:
    facts = {"process_groups": [group("3", 0, 2, description=description)]}
    assert named_group(facts, "3").label == "ranks 0, 2"


def test_a_description_that_several_groups_have_is_no_label() -> None:
    facts = {"process_groups": [group("3", 0, 2, description="mine"), group("4", 0, 1, description="mine")]}
    assert [named_group(facts, name).label for name in ("3", "4")] == ["ranks 0, 2", "ranks 0-1"]


def test_what_the_op_was_given_comes_before_what_its_wrapper_tells() -> None:
    sends = {"by": "FSDP", "kinds": ["all-reduce"], "group": "1", "modules": []}
    facts = {"process_groups": MESH[0], "groups_of_wrappers": [sends]}
    assert group_of_wrapper(facts, "FSDP", "all-reduce", "") == Group("mesh_tp", "1", (0, 1))
    recorded = asks(0, ["3"], MESH[0])
    found: Collective = collectives_of(replace(recorded, facts={**recorded.facts, **facts})).collectives[0]
    assert found.group == "mesh_dp"


@pytest.mark.parametrize("text", ['[{{}}, "{}"]', '{{"group": {}', '{{"other": "{}"}}', '{{"group": ""}}', "{{}}"])
def test_arguments_that_name_no_group_tell_none(text: str) -> None:
    assert {found[0] for found in calls_of(asks(1, ["4"], MESH[1], text))} == {None}, "two groups have as many ranks"


def test_a_trace_from_before_names_were_recorded_is_read_as_before() -> None:
    recorded = asks(1, ["4"], MESH[1])
    signatures = recorded.signatures.copy()
    signatures["arguments"] = np.uint32(2**32 - 1)
    assert calls_of(replace(recorded, signatures=signatures)) == [(None, None, None)]


def test_the_name_is_in_the_file(tmp_path: Path) -> None:
    recorded = asks(1, ["4", "1"], MESH[1])
    recorded.save(f"{tmp_path}/rank.torchprof")
    assert calls_of(torchprof.load(f"{tmp_path}/rank.torchprof")) == calls_of(recorded)


def kineto(tmp_path: Path, config: Sequence[dict[str, Any]], **told: Any) -> list[Any]:
    more = {"Collective name": "allreduce", "dtype": "Float", "In msg nelems": 10, "Out msg nelems": 10, **told}
    events = [op("c10d::allreduce_", 10, 30), op("record_param_comms", 12, 20, **more)]
    info = {"backend": "nccl", "rank": 1, "world_size": 4, "pg_config": [*config]}
    (tmp_path / "trace.json").write_text(document(events, distributedInfo=info))
    return calls_of(torchprof.load(tmp_path / "trace.json"))


def test_a_file_of_torch_profiler_names_the_group_and_its_ranks(tmp_path: Path) -> None:
    told = {"Group size": 2, "Process Group Name": "4", "Process Group Ranks": "[1, 3]"}
    listed = [
        {"pg_name": each["name"], "pg_desc": each["description"], "backend_config": "cuda:nccl", "ranks": each["ranks"]}
        for each in MESH[1]
    ]
    assert kineto(tmp_path, listed, **told) == [("mesh_dp", (1, 3), 2)]
    assert kineto(tmp_path, [], **told) == [("ranks 1, 3", (1, 3), 2)]
    assert kineto(tmp_path, [], **told, **{"Process Group Description": "mesh_dp"}) == [("mesh_dp", (1, 3), 2)]


@pytest.mark.parametrize("ranks", ["[0, 1, ..., 7]", "[0]", '["0", "1"]', "", None, 3, [True, 1]])
def test_ranks_that_a_file_does_not_list_are_not_known(tmp_path: Path, ranks: Any) -> None:
    told = {"Group size": 2, "Process Group Name": "4", "Process Group Ranks": ranks}
    assert kineto(tmp_path, [], **told) == [("4", None, 2)]
