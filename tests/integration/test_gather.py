"""Traces of ranks that train together over gloo, gathered through their process group."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_parallel_memory import free_port
from torch import nn

import torchprof

pytestmark = pytest.mark.filterwarnings("ignore")


def recorded(rank: int, steps: int = 2) -> torchprof.Trace:
    """Some steps of a model whose ranks reduce their gradients."""
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)))
    with torchprof.profile(model) as prof:
        for _ in range(steps):
            model(torch.rand(2 + rank, 8)).sum().backward()
            prof.step()
    return prof.trace


def tried(call: Callable[[], Any]) -> str:
    """What it raises, with its class."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def same(rank: int, path: str) -> dict[str, Any]:
    """All traces, saved and gathered; and what gathering them changed."""
    trace = recorded(rank)
    trace.save(f"{path}/saved/")
    dist.barrier()
    state = torch.get_rng_state(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    ranks = torchprof.gather(trace)
    now = torch.get_rng_state(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    found: dict[str, Any] = {"unchanged": torch.equal(state[0], now[0]) and state[1:] == now[1:]}
    after = torch.tensor([rank])
    dist.all_reduce(after)
    found["after"] = int(after)
    if ranks is not None:
        loaded = torchprof.load(f"{path}/saved/")
        found["text"] = [str(table(ranks)) for table in TABLES], [str(table(loaded)) for table in TABLES]
        found["ranks"] = ranks.numbers, ranks.world_size, ranks.problems
    return found


TABLES: Final[tuple[Callable[[Any], object], ...]] = (
    torchprof.by_rank,
    torchprof.by_module,
    torchprof.by_collective,
    torchprof.stragglers,
)


def to_last(rank: int, path: str) -> Any:
    last = dist.get_world_size() - 1
    ranks = torchprof.gather(recorded(rank), dst=last)
    return ranks.numbers if ranks is not None else None


def in_modes(rank: int, path: str) -> Any:
    trace = recorded(rank)
    torch.set_default_dtype(torch.float64)
    with torch.device("meta"), torch.inference_mode():
        ranks = torchprof.gather(trace)
    torch.set_default_dtype(torch.float32)
    return ranks.numbers if ranks is not None else None


def reduced(rank: int, path: str) -> Any:
    trace = recorded(rank, 40)
    whole, ranks = torchprof.gather(trace), torchprof.gather(trace, most_bytes=trace.nbytes)
    if ranks is None or whole is None:
        return None
    return (
        ranks.problems,
        [each.facts["aggregate"] for each in ranks],
        [str(torchprof.by_module(each)) for each in (ranks, whole)],
    )


def too_large(rank: int, path: str) -> Any:
    return tried(lambda: torchprof.gather(recorded(rank), most_bytes=100))


def without_one(rank: int, path: str) -> Any:
    """Rank 1 has no trace, and the last one has what cannot be written."""
    trace: Any = recorded(rank)
    trace = trace if rank != 1 else None
    if rank == dist.get_world_size() - 1 and rank > 1:
        trace.facts["wrong"] = object()
    kept: list[Any] = []
    said = tried(lambda: kept.append(torchprof.gather(trace)))
    again = torchprof.gather(recorded(rank))
    return said, kept[0].problems if kept and kept[0] is not None else None, again is not None


def other_destination(rank: int, path: str) -> Any:
    return tried(lambda: torchprof.gather(recorded(rank), dst=int(rank == 1))), torchprof.gather(recorded(rank)) is not None


def while_recording(rank: int, path: str) -> Any:
    with torchprof.profile() as prof:
        said = tried(lambda: torchprof.gather(recorded_before))
    return said, [name for name in prof.trace.strings if "gather" in name]


recorded_before: Final = torchprof.Trace.empty()


def of_a_group(rank: int, path: str) -> Any:
    """The last two ranks, to the last of them."""
    world = dist.get_world_size()
    group = dist.new_group([world - 2, world - 1])
    ranks = torchprof.gather(recorded(rank), dst=world - 1, group=group)
    return (ranks.numbers, ranks.problems) if ranks is not None else None


def without_rank(rank: int, path: str) -> Any:
    """Of traces that were recorded before there was a process group."""
    trace = torchprof.Trace.empty()
    ranks = torchprof.gather(trace)
    return (ranks.numbers, ranks.world_size) if ranks is not None else None, trace.facts


def something_else(rank: int, path: str) -> Any:
    """Rank 1 calls another collective with as many numbers."""
    if rank == 1:
        sent = torch.zeros(4, dtype=torch.int64)
        dist.all_gather([torch.empty_like(sent) for _ in range(dist.get_world_size())], sent)
        return ""
    return tried(lambda: torchprof.gather(torchprof.Trace.empty()))


def one_ends(rank: int, path: str) -> Any:
    """The last: rank 1 does not call it, and ends."""
    if rank == 1:
        return "ended"
    return tried(lambda: torchprof.gather(recorded_before))


CASES: Final = (
    *(same, to_last, in_modes, reduced, too_large, without_one, other_destination, while_recording, of_a_group, without_rank),
    *(something_else, one_ends),
)


def worker(rank: int, world: int, port: int, path: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    found: dict[str, Any] = {"before": tried(lambda: torchprof.gather(recorded_before))}
    dist.init_process_group("gloo", rank=rank, world_size=world, timeout=timedelta(seconds=20))
    for case in CASES:
        found[case.__name__] = case(rank, path)
    Path(f"{path}/{rank}").write_bytes(pickle.dumps(found))
    os._exit(0)  # the ranks wait for none that ended


@pytest.fixture(scope="module", params=[2, 4])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    path = tmp_path_factory.mktemp("gathered")
    mp.spawn(worker, (request.param, free_port(), str(path)), nprocs=request.param)  # type: ignore[no-untyped-call]
    return [pickle.loads((path / str(rank)).read_bytes()) for rank in range(request.param)]


def of(results: list[dict[str, Any]], case: Callable[..., Any]) -> list[Any]:
    return [each[case.__name__] for each in results]


def test_what_is_gathered_is_what_is_saved_and_loaded(results: list[dict[str, Any]]) -> None:
    first, *others = of(results, same)
    world = len(results)
    assert first["ranks"] == (tuple(range(world)), world, ())
    assert first["text"][0] == first["text"][1]
    assert all("ranks" not in each for each in others), "the others get None"


def test_gathering_changes_nothing_and_the_group_goes_on(results: list[dict[str, Any]]) -> None:
    assert all(each["unchanged"] for each in of(results, same))
    assert {each["after"] for each in of(results, same)} == {sum(range(len(results)))}


def test_any_rank_gets_them_in_any_mode(results: list[dict[str, Any]]) -> None:
    everyone, none = tuple(range(len(results))), [None] * (len(results) - 1)
    assert of(results, to_last) == [*none, everyone]
    assert of(results, in_modes) == [everyone, *none]


def test_sums_are_gathered_where_single_ops_would_be_too_large(results: list[dict[str, Any]]) -> None:
    first, *others = of(results, reduced)
    problems, aggregate, (by_sums, by_ops) = first
    assert aggregate == [True] * len(results)
    assert len(problems) == 1
    assert "sums were gathered in place of single ops" in problems[0]
    assert by_sums.splitlines()[:-4] == by_ops.splitlines()[: len(by_sums.splitlines()) - 4]
    assert others == [None] * len(others)


def test_what_is_too_large_even_as_sums_is_left_out_and_said(results: list[dict[str, Any]]) -> None:
    first, *others = of(results, too_large)
    assert first.startswith("RecordingError: no rank gave a trace: rank ")
    assert "more than its part of" in first
    assert others == [""] * len(others)


def test_a_rank_that_has_no_trace_raises_and_the_others_go_on(results: list[dict[str, Any]]) -> None:
    found = of(results, without_one)
    assert found[1][0] == "ModuleTypeError: trace=None must be the torchprof.Trace of this rank: prof.trace"
    problems = found[0][1]
    assert any(each.startswith("rank 1 is left out: trace=None must be") for each in problems)
    if len(found) > 2:
        assert found[-1][0].startswith("ArgumentError: trace.facts cannot be written as JSON")
        assert any("rank 3 is left out: trace.facts cannot be written" in each for each in problems)
    assert [again for _, _, again in found] == [True, *[False] * (len(found) - 1)], "the group works as before"


def test_ranks_that_name_different_destinations_all_raise(results: list[dict[str, Any]]) -> None:
    found = of(results, other_destination)
    assert all(said.startswith("ArgumentError: dst=") and "is not what other ranks gave" in said for said, _ in found)
    assert [again for _, again in found] == [True, *[False] * (len(found) - 1)]


def test_before_there_is_a_group_and_while_recording_it_says_so(results: list[dict[str, Any]]) -> None:
    assert all(each["before"].startswith("RecordingError: this process has no process group") for each in results)
    for said, names in of(results, while_recording):
        assert said.startswith("RecordingError: gather would be part of what is recorded just now")
        assert not names


def test_of_a_group_its_ranks_are_gathered_and_others_get_none(results: list[dict[str, Any]]) -> None:
    *others, last = of(results, of_a_group)
    world = len(results)
    assert last[0] == (world - 2, world - 1)
    assert last[1] == (() if world == 2 else ("2 of 4 ranks are missing: 0-1",))
    assert others == [None] * len(others)


def test_a_trace_from_before_the_group_is_of_the_rank_that_gives_it(results: list[dict[str, Any]]) -> None:
    found = of(results, without_rank)
    assert found[0][0] == (tuple(range(len(results))), len(results))
    assert all(not facts for _, facts in found), "the trace itself is not changed"


def test_another_collective_in_its_place_is_told(results: list[dict[str, Any]]) -> None:
    for rank, said in enumerate(of(results, something_else)):
        assert said == "" if rank == 1 else said.startswith("RecordingError: ranks 1 called another collective")


def test_a_rank_that_ended_is_an_error_of_torch_distributed(results: list[dict[str, Any]]) -> None:
    for rank, said in enumerate(of(results, one_ends)):
        assert said == "ended" if rank == 1 else said.startswith(("RuntimeError", "DistBackendError", "DistNetworkError")), said


@pytest.mark.parametrize("most_bytes", [0, -1, True, "1", 2**62])
def test_wrong_bounds_are_refused(most_bytes: Any) -> None:
    with pytest.raises(torchprof.ArgumentError, match="most_bytes="):
        torchprof.gather(torchprof.Trace.empty(), most_bytes=most_bytes)
