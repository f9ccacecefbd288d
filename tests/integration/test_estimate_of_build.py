"""What usual scripts do in the function that builds a model works on ``meta``, as on a machine with a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import torchprof
from torchprof import Estimate, EstimateError, TorchprofError

WORLDS: tuple[dict[str, int], ...] = ({}, {"world_size": 2})
DEVICES = ("cuda", "cpu")


def of(build: Callable[[], nn.Module], **options: Any) -> Estimate:
    return torchprof.estimate(build, torch.empty(4, 8, device="meta"), **{"steps": 1, **options})


def after(act: Callable[[], object]) -> Callable[[], nn.Module]:
    """Builds a layer once something was done."""

    def build() -> nn.Module:
        act()
        return layer()

    return build


def layer() -> nn.Linear:
    return nn.Linear(8, 8)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "moved",
    [
        lambda: layer().to("cuda" if torch.cuda.is_available() else "cpu"),
        lambda: layer().to("cpu"),
        lambda: layer().cpu(),
        lambda: layer().to(torch.device("cpu"), torch.float32),
        lambda: layer().to(int(os.environ.get("LOCAL_RANK", "0"))),
        lambda: layer().to(device=0),
        lambda: layer().cuda(0),
        lambda: layer().to("cuda:0").cpu(),
    ],
)
def test_a_model_may_be_moved_while_it_is_built(moved: Callable[[], nn.Module], device: str, world: dict[str, int]) -> None:
    assert of(moved, device=device, **world).device_memory >= 8 * 8 * 4


@pytest.mark.parametrize("world", WORLDS)
def test_torch_cuda_answers_as_in_a_step(world: dict[str, int]) -> None:
    seen: list[Any] = []

    def build() -> nn.Module:
        seen.extend((torch.cuda.is_available(), torch.cuda.device_count(), torch.cuda.current_device()))
        torch.cuda.synchronize()
        torch.cuda.current_stream().synchronize()
        torch.cuda.default_stream()
        torch.cuda.Stream()  # type: ignore[no-untyped-call]
        torch.cuda.get_rng_state()
        torch.cuda.initial_seed()
        torch.cuda.ipc_collect()  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.nvtx.range_push("build")  # type: ignore[no-untyped-call]
        torch.cuda.nvtx.range_pop()  # type: ignore[no-untyped-call]
        return layer()

    of(build, **world)
    assert seen == [True, world.get("world_size", 1), 0]


@pytest.mark.parametrize("world", WORLDS)
def test_the_accelerator_is_the_gpu_of_the_rank(world: dict[str, int]) -> None:
    seen: list[Any] = []

    def build() -> nn.Module:
        device = torch.accelerator.current_accelerator()
        assert device is not None
        torch.accelerator.set_device_index(0)
        seen.extend((torch.accelerator.is_available(), device.type, torch.accelerator.device_count()))
        with torch.device("meta"):
            made = layer()
        return made.to_empty(device=device)

    assert of(build, **world).device_memory >= 8 * 8 * 4
    assert seen == [True, "cuda", world.get("world_size", 1)]


@pytest.mark.parametrize(("rank", "host"), [(3, 8), (13, 8)])
def test_a_rank_has_a_gpu_of_its_host_by_the_number_there(rank: int, host: int) -> None:
    seen: list[int] = []

    def build() -> nn.Module:
        torch.cuda.set_device(rank % torch.cuda.device_count())
        of_host, _ = dist.new_subgroups()
        assert dist.get_process_group_ranks(of_host) == [*range(rank // host * host, (rank // host + 1) * host)]
        seen.extend((torch.cuda.device_count(), torch.cuda.current_device(), int(os.environ["LOCAL_RANK"])))
        return layer()

    of(build, world_size=16, rank=rank)
    assert seen == [host, rank % host, rank % host]


def test_there_is_no_gpu_while_a_model_is_built_for_the_cpu() -> None:
    seen: list[bool] = []
    of(after(lambda: seen.append(torch.cuda.is_available())), device="cpu")
    assert seen == [torch.cuda.is_available()]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("asked", ["memory_allocated", "memory_reserved"])
def test_what_only_a_gpu_could_answer_is_refused(asked: str, world: dict[str, int]) -> None:
    with pytest.raises(EstimateError, match=asked):
        of(lambda: (getattr(torch.cuda, asked)(), layer())[1], **world)


def test_the_build_of_all_ranks_has_the_same_gpu() -> None:
    seen: set[bool] = set()
    of(after(lambda: seen.add(torch.cuda.is_available())), world_size=2, ranks="all")
    assert seen == {True}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("read", "value"),
    [
        (lambda: [x.item() for x in torch.linspace(0, 0.5, 3)], [0.0, 0.25, 0.5]),
        (lambda: torch.linspace(0, 0.5, 3).tolist(), [0.0, 0.25, 0.5]),
        (lambda: [float(x) for x in torch.linspace(0, 0.5, 3, device="cuda")], [0.0, 0.25, 0.5]),
        (lambda: list(torch.linspace(0, 0.5, 3).cuda().cpu().numpy()), [0.0, 0.25, 0.5]),
        (lambda: [part.tolist() for part in torch.linspace(0, 3, 4).chunk(2)], [[0.0, 1.0], [2.0, 3.0]]),
        (lambda: int(torch.tensor([2, 3]).prod()), 6),
        (lambda: bool((torch.arange(3) * 2).max() == 4), True),
        (lambda: torch.zeros(3).add_(2).sum().item(), 6.0),
    ],
)
def test_numbers_computed_while_building_can_be_read(read: Callable[[], Any], value: Any, world: dict[str, int]) -> None:
    seen: list[Any] = []
    of(after(lambda: seen.append(read())), **world)
    assert seen == [value]


def test_what_runs_while_a_model_is_built_runs_once() -> None:
    def build() -> nn.Module:
        known = torch.linspace(0, 1, 3)
        counts = torch.zeros(3, device="cpu")
        counts.add_(1)
        counts += 1
        counts[0] = counts[0] + 1
        torch.add(counts, 1, out=counts)
        assert counts.tolist() == [4, 3, 3]
        assert known.tolist() == [0, 0.5, 1]
        return layer()

    of(build)


def test_what_was_overwritten_by_unknown_values_is_not_read_as_before() -> None:
    def drawn() -> float:
        tensor = torch.zeros(3)
        nn.init.uniform_(tensor)
        return tensor[0].item()

    def given() -> float:
        tensor = torch.zeros(3)
        tensor[:] = torch.empty(3)
        return tensor[0].item()

    def failing() -> float:
        tensor = torch.zeros(3)
        tensor[torch.empty(3) > 0] = 1
        return tensor[0].item()

    for read in (drawn, given, failing):
        with pytest.raises(EstimateError, match="reads values of a tensor"):
            of(after(read))


def test_a_part_that_was_written_is_read_as_written() -> None:
    seen: list[Any] = []

    def build() -> nn.Module:
        table = torch.zeros(4)
        table[1:3] = 5.0
        seen.append(table.tolist())
        return layer()

    of(build)
    assert seen == [[0.0, 5.0, 5.0, 0.0]]


@pytest.mark.parametrize(
    "read",
    [
        lambda: torch.rand(3).tolist(),
        lambda: torch.zeros(3).uniform_().sum().item(),
        lambda: torch.zeros(3).copy_(torch.rand(3)).sum().item(),
        lambda: layer().weight.sum().item(),
    ],
)
def test_unknown_values_are_refused_in_words(read: Callable[[], Any]) -> None:
    with pytest.raises(EstimateError, match="meta tensors, which have none"):
        of(lambda: (read(), layer())[1])


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: (dist.all_gather_object([None, None], 1), layer())[1], "all_gather_object"),
        (lambda: (dist.gather_object(1, [None, None]), layer())[1], "gather_object"),
        (lambda: (dist.broadcast_object_list([None], src=1), layer())[1], "broadcast_object_list"),
        (lambda: (dist.init_process_group("nccl", world_size=16), layer())[1], "world_size=16"),
        (lambda: (dist.init_process_group("nccl", rank=3, world_size=2), layer())[1], "rank=3"),
    ],
)
def test_what_other_ranks_would_have_to_say_or_do_is_refused_by_name(build: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(TorchprofError, match=said):
        of(build, world_size=2)


def test_a_rank_knows_the_objects_that_it_sends_itself() -> None:
    objects = ["own"]
    of(lambda: (dist.broadcast_object_list(objects, src=0), layer())[1], world_size=2)
    assert objects == ["own"]


def test_a_process_group_of_the_estimate_s_own_size_may_be_made() -> None:
    of(lambda: (dist.init_process_group("nccl", rank=0, world_size=2), layer())[1], world_size=2)
