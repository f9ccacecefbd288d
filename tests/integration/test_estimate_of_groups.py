"""``estimate(world_size=...)`` of what programs do with process groups: as with real ones, or an error in words."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import pytest
import talking
import torch
import torch.distributed as dist
from talking import WIDTH, Talk
from torch import Tensor
from torch.distributed import (
    all_gather_object,
    broadcast_object_list,
    distributed_c10d,
    gather_object,
    monitored_barrier,
    recv_object_list,
    scatter_object_list,
    split_group,
)

from torchprof import Estimate, EstimateError

in_step = partial(talking.in_step, world_size=4, rank=2)
in_build = partial(talking.in_build, world_size=4, rank=2)
IN_BOTH: Final = pytest.mark.parametrize("where", [in_step, in_build])


@IN_BOTH
@pytest.mark.parametrize(
    "talk",
    [
        lambda x: all_gather_object([None] * 4, {"a": 1}),
        lambda x: gather_object(1, [None] * 4, dst=2),
        lambda x: broadcast_object_list([None], src=0),
        lambda x: broadcast_object_list([None], src=0, device=torch.device("cpu")),
        lambda x: scatter_object_list([None], [*"abcd"], src=0),
        lambda x: recv_object_list([None], src=0),
    ],
)
def test_objects_of_other_ranks_are_refused_also_where_the_function_was_imported_by_name(
    talk: Talk, where: Callable[[Talk], Estimate]
) -> None:
    with pytest.raises(EstimateError, match=r"the program calls torch.distributed.\w+, which returns objects of other ranks"):
        where(talk)


@IN_BOTH
def test_objects_that_a_rank_gives_itself_it_gets(where: Callable[..., Estimate]) -> None:
    def talk(x: Tensor) -> None:
        sent: list[Any] = ["own"]
        part: list[Any] = [None]
        broadcast_object_list(sent, src=2)
        scatter_object_list(part, [*"abcd"], src=2)
        gather_object("others get it", dst=0)
        assert (sent, part) == (["own"], ["c"])

    def alone(x: Tensor) -> None:
        every, gathered = [None], [None]
        all_gather_object(every, "own")
        gather_object("own", gathered)
        assert every == gathered == ["own"]

    where(talk)
    where(alone, world_size=1, rank=0)


def test_functions_of_objects_are_pytorch_s_own_again() -> None:
    with pytest.raises(EstimateError):
        in_step(lambda x: all_gather_object([None] * 4, 1))
    store: Any = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        found = [None]
        all_gather_object(found, "own")
        assert found == ["own"]
        with pytest.raises(RuntimeError, match="No device associated"):
            split_group(split_ranks=[[0]])
    finally:
        dist.destroy_process_group()


@IN_BOTH
def test_a_group_is_split_into_the_part_of_this_rank(where: Callable[..., Estimate]) -> None:
    found: list[Any] = []

    def talk(x: Tensor) -> None:
        half = split_group(split_ranks=[[0, 1], [2, 3]], group_desc="half")
        found.append(dist.get_process_group_ranks(half))
        found.append(dist.get_process_group_ranks(split_group(half, [[1], [0]])))
        found.append(split_group(half, [[1]]))

    where(talk)
    assert found[:3] == [[2, 3], [2], None]


@pytest.mark.parametrize("ranks", [None, [[0, 4]], [[0, 1], [1, 2]], [[-1]]])
def test_a_group_that_cannot_be_split_so_is_named(ranks: Any) -> None:
    with pytest.raises(EstimateError, match=r"split_group\(split_ranks=.*numbers from 0 to 3"):
        in_step(lambda x: split_group(split_ranks=ranks))


def several(x: Tensor) -> None:
    dist.all_reduce_coalesced([x, x.clone()])


def by_manager(x: Tensor) -> None:
    at_once: Any = vars(dist)["_coalescing_manager"]
    with at_once(device=x.device):
        dist.all_reduce(x)
        dist.all_reduce(x.clone())


@IN_BOTH
@pytest.mark.parametrize(
    "talk",
    [
        several,
        by_manager,
        lambda x: dist.all_reduce_coalesced([x, x.clone()], async_op=True).wait(),
        lambda x: dist.all_gather_coalesced([[x.clone()] for _ in range(4)], [x]),
        lambda x: dist.monitored_barrier(),
        lambda x: monitored_barrier(),
        lambda x: monitored_barrier(dist.group.WORLD, wait_all_ranks=True),
        lambda x: distributed_c10d.monitored_barrier(timeout=None),
    ],
)
def test_several_tensors_at_once_and_monitored_barriers_return_at_once(talk: Talk, where: Callable[[Talk], Estimate]) -> None:
    where(talk)


def test_monitored_barriers_are_pytorchs_own_again() -> None:
    before = monitored_barrier, monitored_barrier.__code__
    in_step(lambda x: monitored_barrier())
    assert (dist.monitored_barrier, dist.monitored_barrier.__code__) == before


@pytest.mark.parametrize("talk", [several, by_manager])
def test_several_tensors_at_once_are_counted(talk: Talk) -> None:
    (sent,) = in_step(talk).communication
    assert (sent.collective, sent.calls, sent.bytes) == ("all-reduce", 1, 2 * 8 * WIDTH * 4)


def test_gloo_reduces_one_flat_copy_of_several_tensors() -> None:
    large = 1024

    def each(x: Tensor) -> None:
        for tensor in (x.new_empty(large, large), x.new_empty(large, large)):
            dist.all_reduce(tensor)

    def at_once(x: Tensor) -> None:
        dist.all_reduce_coalesced([x.new_empty(large, large), x.new_empty(large, large)])

    assert in_step(at_once).max_allocated - in_step(each).max_allocated == pytest.approx(2 * large * large * 4, rel=0.01)
    assert in_step(at_once, device="cuda").max_allocated == in_step(each, device="cuda").max_allocated


def default_store() -> Any:
    return distributed_c10d._get_default_store()


@IN_BOTH
def test_a_store_has_what_this_rank_has_set(where: Callable[[Talk], Estimate]) -> None:
    seen: list[Any] = []

    def talk(x: Tensor) -> None:
        store = default_store()
        store.set("port", "29500")
        store.multi_set(["a", "b"], ["1", "2"])
        seen.extend([store.get("port"), *store.multi_get(["a", "b"]), store.check(["a"])])
        store.wait(["b"])
        assert store.delete_key("a")

    where(talk)
    assert seen[:4] == [b"29500", b"1", b"2", True]


@IN_BOTH
@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda store: store.get("port"), "waits for 'port' of its store"),
        (lambda store: store.wait(["a", "b"]), "waits for 'a', 'b' of its store"),
        (lambda store: store.check(["a"]), "waits for 'a'"),
        (lambda store: store.add("count", 1), "counts at 'count'"),
        (lambda store: store.compare_set("a", "b", "c"), "compares 'a'"),
        (lambda store: store.append("a", "b"), "appends to 'a'"),
        (lambda store: store.num_keys(), "counts the keys"),
    ],
)
def test_what_other_ranks_would_have_told_a_store_is_refused_and_not_waited_for(
    ask: Callable[[Any], object], said: str, where: Callable[[Talk], Estimate]
) -> None:
    with pytest.raises(EstimateError, match=said):
        where(lambda x: ask(default_store()))
