"""Pipelines in ``estimate(build, inputs, world_size=...)``: what is in flight, counted by hand; and ranks that would hang."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from sharded_pipelines import HAS_PIPELINES
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleLoopedBFS,
)
from torch.distributed.pipelining.schedules import PipelineScheduleMulti, _Action, _PipelineScheduleRuntime
from torch.distributed.tensor import DTensor, Replicate

import torchprof
from torchprof import ArgumentError, Estimate, EstimateError, ModuleTypeError, TorchprofError
from torchprof.estimation.torch_private import PIPELINES

WIDTH, MICROBATCH, ROWS = 32, 16, 64
ONE = MICROBATCH * WIDTH * 4
"""Bytes of a microbatch between two stages."""

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not HAS_PIPELINES, reason="this PyTorch lacks a private name that estimates of pipelines need"),
]


class Narrow(nn.Module):
    """Keeps for backward what it is given and what is four times as wide."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.up(x))
        return y


def stage(number: int, count: int, group: Any = None, **options: Any) -> PipelineStage:
    return PipelineStage(Narrow(), number, count, torch.device("cuda"), group=group, **options)


def error_of(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def pipeline(kind: Any = Schedule1F1B, microbatches: int = ROWS // MICROBATCH, **options: Any) -> Any:
    """A stage on each rank, or two where the schedule goes round."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    if issubclass(kind, PipelineScheduleMulti):
        return kind([stage(rank + turn * ranks, 2 * ranks, **options) for turn in (0, 1)], microbatches, error_of)
    return kind(stage(rank, ranks, **options), microbatches, error_of)


def given() -> dict[str, Any]:
    """The arguments of a stage that say what it receives and sends."""
    return {name: torch.empty(MICROBATCH, WIDTH, device="meta", requires_grad=True) for name in ("input_args", "output_args")}


BATCH = (torch.empty(ROWS, WIDTH, device="meta"), torch.empty(ROWS, WIDTH, device="meta"))


def of(build: Callable[[], Any], inputs: Any = BATCH, **options: Any) -> Estimate:
    asked = {"optimizer": torch.optim.AdamW, "device": "cpu", "world_size": 2, **options}
    return torchprof.estimate(build, inputs, **asked)


@pytest.mark.parametrize("microbatches", [8, 12])
@pytest.mark.parametrize("rank", [0, 1])
def test_gpipe_has_all_microbatches_in_flight_and_1f1b_as_many_as_there_are_stages_from_it_on(
    rank: int, microbatches: int
) -> None:
    rows = torch.empty(microbatches * MICROBATCH, WIDTH, device="meta")

    def in_flight(kind: Any) -> float:
        found = of(partial(pipeline, kind, microbatches), (rows, rows), rank=rank, world_size=4, optimizer=None)
        return found.by_category["activations"] / (4 * ONE)  # of a microbatch what is between both layers is kept

    assert in_flight(ScheduleGPipe) == microbatches - 1  # at the peak backward has used that of the first one up
    assert in_flight(Schedule1F1B) == 4 - rank


@pytest.mark.parametrize("rank", [0, 1])
def test_stages_tell_their_shapes_or_are_given_them(rank: int) -> None:
    told, asked = (of(partial(pipeline, **options), rank=rank) for options in (given(), {}))
    assert told.max_allocated == asked.max_allocated
    assert told.communication == asked.communication


def test_each_microbatch_is_sent_once_and_its_gradient_comes_back() -> None:
    first, last = (of(pipeline, rank=rank).communication for rank in (0, 1))
    for found in (first, last):
        assert {(each.collective, each.dimension, each.calls, each.bytes) for each in found} == {
            ("send", "world", 4, 4 * ONE),
            ("receive", "world", 4, 4 * ONE),
        }


@pytest.mark.parametrize("kind", [ScheduleInterleaved1F1B, ScheduleLoopedBFS, ScheduleInterleavedZeroBubble])
def test_a_rank_has_several_stages_by_their_numbers(kind: Any) -> None:
    found = of(partial(pipeline, kind), rank=1)
    assert {row["name"].partition(".")[0] for row in found.memory.modules.rows} >= {"stage1", "stage3"}
    assert found.by_category["parameters"] == 2 * 2 * 4 * WIDTH * WIDTH * 4
    assert {(each.collective, each.calls) for each in found.communication} == {("send", 12), ("receive", 12)}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_all_ranks_are_told_apart_by_their_stages(device: str) -> None:
    most = of(pipeline, world_size=4, ranks="all", device=device)
    assert sorted(kind.stages for kind in most.kinds_of_ranks) == [(0,), (1,), (2,), (3,)]
    assert most.device_memory == max(kind.device_memory for kind in most.kinds_of_ranks)
    assert f"rank {most.rank} (stage {most.rank}): " in str(most)


def of_a_product() -> Any:
    mesh = init_device_mesh("cuda", (2, 2), mesh_dim_names=("pp", "dp"))
    part = stage(mesh.get_local_rank("pp"), 2, mesh.get_group("pp"))
    fully_shard(part.submod, mesh=mesh["dp"], reshard_after_forward=False)
    return Schedule1F1B(part, ROWS // MICROBATCH, error_of)


def test_what_equal_stages_of_a_rank_gather_has_the_name_of_its_stage() -> None:
    def build() -> Any:
        mesh = init_device_mesh("cuda", (2, 2), mesh_dim_names=("pp", "dp"))
        rank = mesh.get_local_rank("pp")
        parts = [stage(number, 4, mesh.get_group("pp")) for number in (rank, rank + 2)]
        fully_shard(parts[0].submod, mesh=mesh["dp"], reshard_after_forward=False)
        for layer in parts[1].submod.children():  # each gathered by itself, and no stage as a whole
            fully_shard(layer, mesh=mesh["dp"], reshard_after_forward=False)
        return ScheduleInterleaved1F1B(parts, ROWS // MICROBATCH, error_of)

    found = of(build, world_size=4, rank=2, device="cuda", optimizer=None)
    layer = 4 * WIDTH * WIDTH * 4
    gathered = {each.module: each.bytes / layer for each in found.communication_by_module if each.collective == "all-gather"}
    # The schedule gathers its stage once for all microbatches; what is below one is gathered for each.
    assert gathered == {"stage1": 2, "stage3.up": ROWS // MICROBATCH, "stage3.down": ROWS // MICROBATCH}
    held = {path for path, sizes in found.memory.by_module.items() if sizes.get("unsharded parameters")}
    assert held
    assert held <= {"stage1", "stage3.up", "stage3.down"}


def test_stages_that_are_sharded_are_estimated_once_each() -> None:
    most = of(of_a_product, world_size=4, ranks="all")
    assert {(kind.rank, kind.count, kind.stages) for kind in most.kinds_of_ranks} == {(0, 2, (0,)), (2, 2, (1,))}
    assert most.by_category["sharded parameters"] == 2 * 4 * WIDTH * WIDTH * 4 // 2
    assert {each.dimension for each in most.communication} == {"pp", "dp"}


def test_many_ranks_are_as_many_kinds_as_there_are_stages() -> None:
    def build() -> Any:
        mesh = init_device_mesh("cuda", (16, 2), mesh_dim_names=("dp", "pp"))
        return ScheduleGPipe(stage(mesh.get_local_rank("pp"), 2, mesh.get_group("pp"), **given()), 4, error_of)

    assert {(kind.rank, kind.count, kind.stages) for kind in of(build, world_size=32, ranks="all").kinds_of_ranks} == {
        (0, 16, (0,)),
        (1, 16, (1,)),
    }


def test_a_step_of_ones_own_is_given_the_schedule() -> None:
    def step(schedule: Any, optimizer: torch.optim.Optimizer, batch: Tensor, target: Tensor) -> None:
        losses: list[Tensor] = []
        if dist.get_rank() == 0:
            schedule.step(batch)
        else:
            schedule.step(target=target, losses=losses)
        optimizer.step()
        del losses
        optimizer.zero_grad()

    assert of(pipeline, step=step, rank=1).max_allocated <= of(pipeline, rank=1).max_allocated


def test_a_function_may_return_the_module_of_its_stage_and_a_step_run_the_schedule() -> None:
    made = {}

    def build() -> Any:
        made["schedule"] = pipeline()
        return made["schedule"]._stage.submod

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Tensor, target: Tensor) -> None:
        made["schedule"].step(batch)
        optimizer.step()
        optimizer.zero_grad()

    assert of(build, step=step).max_allocated == of(pipeline).max_allocated


def test_the_target_may_have_its_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.narrow = Narrow()

        def forward(self, x: Tensor | None = None, *, scale: Tensor) -> Any:
            return self.narrow(scale if x is None else x)

    def build() -> Any:
        return ScheduleGPipe(PipelineStage(Named(), dist.get_rank(), 2, torch.device("cuda"), **given()), 4, error_of)

    assert of(build, {"scale": BATCH[0], "target": BATCH[1]}, rank=1).max_allocated > 0


def swapped() -> Any:
    return Schedule1F1B(stage(1 - dist.get_rank(), 2), 4, error_of)


def twice_the_first() -> Any:
    return Schedule1F1B(stage(0, 2), 4, error_of)


def more_microbatches_on_the_first() -> Any:
    rank = dist.get_rank()
    return ScheduleGPipe(stage(rank, 2), 4 if rank else 8, lambda output, target: output.sum())


def no_loss_on_the_first() -> Any:
    return ScheduleGPipe(stage(dist.get_rank(), 2, **given()), 4, error_of if dist.get_rank() else None)


def runs(schedule: Any, optimizer: torch.optim.Optimizer, batch: Tensor, target: Tensor) -> None:
    schedule.step(target=target) if dist.get_rank() else schedule.step(batch)


class Laid(Narrow):
    """Returns a DTensor."""

    def forward(self, x: Tensor) -> Tensor:
        return DTensor.from_local(super().forward(x), init_device_mesh("cpu", (2,)), [Replicate()])


def of_tensors_that_are_laid_out() -> Any:
    return ScheduleGPipe(PipelineStage(Laid(), dist.get_rank(), 2, torch.device("cuda")), 4, error_of)


class Half(Narrow):
    """What the first stage sends is half as precise as it said."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).bfloat16() if dist.get_rank() == 0 else super().forward(x)


def of_half_the_size() -> Any:
    return ScheduleGPipe(PipelineStage(Half(), dist.get_rank(), 2, torch.device("cuda"), **given()), 4)


def forwards(schedule: Any, optimizer: torch.optim.Optimizer, batch: Tensor, target: Tensor) -> None:
    schedule.step() if dist.get_rank() else schedule.step(batch)


@pytest.mark.parametrize(
    ("build", "options", "error", "said"),
    [
        (pipeline, {"inputs": BATCH[:1]}, ArgumentError, "the schedule has a loss_fn, so inputs must have the target as well"),
        (pipeline, {"optimizer": torch.optim.LBFGS}, ArgumentError, "optimizer=LBFGS computes the loss itself"),
        (pipeline, {"loss": torch.sum}, ArgumentError, "the loss of a pipeline is that of its schedule"),
        (lambda: stage(0, 2), {}, ModuleTypeError, "returned a stage of a pipeline: return the schedule that runs it"),
        (lambda: stage(0, 2).submod, {}, ArgumentError, "made a stage of a pipeline, and returned no schedule"),
        (of_tensors_that_are_laid_out, {}, EstimateError, "stage 0 of the pipeline sends a DTensor, and how its gradient is"),
        (swapped, {}, EstimateError, "stage 1 of the pipeline is on rank 0 of its group, and by its schedule it is on rank 1"),
        (twice_the_first, {"rank": 1}, EstimateError, "stage 0 of the pipeline is on rank 1 of its group"),
        (twice_the_first, {"ranks": "all"}, EstimateError, "stage 0 of the pipeline is on rank 1 of its group"),
        (
            more_microbatches_on_the_first,
            {"ranks": "all"},
            EstimateError,
            "rank 0 would wait for ever to send 1.0 KiB to rank 1",
        ),
        (
            no_loss_on_the_first,
            {"ranks": "all", "step": runs},
            EstimateError,
            "Rank 1 would wait for ever to send 2.0 KiB to rank",
        ),
        (of_half_the_size, {"ranks": "all", "step": forwards}, EstimateError, "rank 0 sends 1.0 KiB to .* receives 2.0 KiB"),
    ],
)
def test_what_is_wrong_with_a_pipeline_is_named(
    build: Any, options: dict[str, Any], error: type[TorchprofError], said: str
) -> None:
    with pytest.raises(error, match=said):
        of(build, **options)
    assert not dist.is_initialized()


def reordered(*orders: str) -> Callable[[], Any]:
    """A schedule of two microbatches whose ranks do what is written."""

    def build() -> Any:
        schedule = _PipelineScheduleRuntime([stage(dist.get_rank(), 2)], 2, error_of)  # type: ignore[no-untyped-call]
        written = {rank: [_Action.from_str(text) for text in order.split()] for rank, order in enumerate(orders)}
        schedule._prepare_schedule_with_comms(written, format="compute_comms")
        return schedule

    return build


GOOD = ("0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1", "1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1")


def test_a_schedule_that_is_written_runs() -> None:
    assert of(reordered(*GOOD), rank=1).max_allocated > 0


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("replaced", "by", "said"),
    [
        ("0SEND_F1", "", "Rank 1 would wait for ever to receive the output of stage 0 for microbatch 1 from rank 0"),
        (
            "1SEND_B0",
            "",
            "rank 1 sends the gradient of stage 1 for microbatch 1 to rank 0 where that one receives the gradient of",
        ),
        ("0RECV_B0 0B0 0RECV_B1 0B1", "0RECV_B1 0B1 0RECV_B0 0B0", "between two ranks both must have the same order"),
        ("0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0", "0F0 0F1 0RECV_B0 0B0 0SEND_F0 0SEND_F1", "rank 0 would .* Rank 1 would"),
    ],
)
def test_a_schedule_whose_ranks_wait_for_each_other_is_named_on_each_of_them(
    replaced: str, by: str, said: str, rank: int
) -> None:
    orders = [order.replace(replaced, by) for order in GOOD]
    with pytest.raises(EstimateError, match=said):
        of(reordered(*orders), rank=rank)


class Talks(nn.Module):
    """Sends and receives in forward."""

    def __init__(self, talk: Callable[[Tensor, int], object]) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.talk = talk

    def forward(self, x: Tensor) -> Any:
        y = self.layer(x)
        self.talk(y.detach(), dist.get_rank())
        return y


def talking(talk: Callable[[Tensor, int], object], **options: Any) -> Estimate:
    return of(lambda: Talks(talk), torch.empty(4, WIDTH, device="meta"), **options)


def in_turn(y: Tensor, rank: int) -> None:
    for mine, does in enumerate((dist.send, dist.recv)):
        (does if rank == 0 else (dist.recv, dist.send)[mine])(y, 1 - rank)


def both_at_once(y: Tensor, rank: int) -> None:
    theirs = torch.empty_like(y)
    both = [dist.P2POp(dist.isend, y, 1 - rank), dist.P2POp(dist.irecv, theirs, 1 - rank)]
    for work in dist.batch_isend_irecv(both):
        work.wait()


@pytest.mark.parametrize("talk", [in_turn, both_at_once])
def test_ranks_whose_messages_meet_are_fine(talk: Callable[[Tensor, int], object]) -> None:
    assert [kind.count for kind in talking(talk, ranks="all").kinds_of_ranks] == [2]


def both_send(y: Tensor, rank: int) -> None:
    dist.send(y, 1 - rank)
    dist.recv(y, 1 - rank)


def one_receives(y: Tensor, rank: int) -> None:
    if rank == 0:
        dist.recv(y, 1)


@pytest.mark.parametrize(
    ("talk", "options", "said"),
    [
        (both_send, {"ranks": "all"}, "rank 0 would wait for ever to send 512 B to rank 1 .* Rank 1 would"),
        (one_receives, {"ranks": "all"}, "rank 0 would wait for ever to receive 512 B from rank 1 .*, which sends it no more"),
        (lambda y, rank: dist.isend(y, rank).wait(), {}, "to send 512 B to rank 0 .*, which is itself"),  # type: ignore[union-attr]
        (lambda y, rank: dist.send(y, 2), {}, "rank 0 sends to rank 2 of the group 'world', which has 2 ranks"),
        (lambda y, rank: dist.recv(y, 9), {"rank": 1}, "rank 1 receives from rank 9 of the group 'world', which has 2 ranks"),
        (lambda y, rank: dist.recv(y), {}, "rank 0 receives from any rank and asks which one it was"),
    ],
)
def test_a_rank_that_would_hang_is_named(talk: Callable[[Tensor, int], object], options: dict[str, Any], said: str) -> None:
    with pytest.raises(EstimateError, match=said):
        talking(talk, **options)


def test_what_is_sent_is_held_until_it_is_awaited_by_nccl_and_as_long_as_its_work_is_there_by_gloo() -> None:
    """Three tensors, each let go before the next one is made: with gloo the first is still held by its work."""
    rows = 1024

    def talk(y: Tensor, rank: int) -> None:
        sent = y.new_empty(rows, WIDTH)
        work = dist.isend(sent, 1 - rank)
        assert work is not None
        del sent
        if waits:
            work.wait()
        y.new_empty(rows, WIDTH)
        del work
        y.new_empty(rows, WIDTH)

    size = rows * WIDTH * 4
    found = {}
    for device in ("cpu", "cuda"):
        for waits in (False, True):
            held = talking(talk, device=device).memory.peak.bytes
            found[device, waits] = round(held / size)
    assert found == {("cpu", False): 2, ("cpu", True): 2, ("cuda", False): 2, ("cuda", True): 1}


def test_more_ranks_than_can_be_looked_at_are_said_to_be() -> None:
    def ring(y: Tensor, rank: int) -> None:
        work = dist.isend(y, (rank + 1) % 40)
        dist.recv(y, (rank - 1) % 40)
        work.wait()  # type: ignore[union-attr]

    found = talking(ring, world_size=40, ranks="all")
    assert [kind.count for kind in found.kinds_of_ranks] == [40]
    assert re.search("Not in it: whether ranks wait for each other for ever: more than 16", str(found))


def test_a_rank_that_does_something_else_than_one_it_sends_to_is_of_another_kind() -> None:
    def talk(y: Tensor, rank: int) -> None:
        if rank == 0:
            dist.send(y, 1)
        else:
            dist.recv(torch.empty(256, 1024)[:4, :WIDTH].contiguous(), 0)

    found = talking(talk, ranks="all")
    assert [(kind.rank, kind.count) for kind in found.kinds_of_ranks] == [(1, 1), (0, 1)]
    assert found.rank == 1


def test_where_pytorch_lacks_a_name_of_pipelines_only_they_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PIPELINES.names, "gone", "torch.distributed.pipelining.gone")
    assert of(lambda: nn.Linear(WIDTH, WIDTH), BATCH[0]).max_allocated > 0
    with pytest.raises(EstimateError, match=r"The estimate of a pipeline needs torch\.distributed\.pipelining\.gone, which"):
        of(pipeline)


def test_functions_of_pipelines_are_pytorchs_own_again() -> None:
    places: list[tuple[Any, str]] = [
        (dist.ProcessGroup, "send"),
        (dist.ProcessGroup, "recv"),
        (dist.ProcessGroup, "recv_anysource"),
        (PipelineStage, "_recv_meta"),
        (PipelineStage, "_prepare_backward_infra"),
        (PipelineScheduleMulti.__mro__[1], "_warmup_p2p"),
        (PipelineStage.__mro__[1], "__init__"),
    ]
    before = [vars(owner)[name] for owner, name in places]
    of(pipeline, rank=1)
    assert [vars(owner)[name] for owner, name in places] == before


ONE_PRODUCT = 2 * MICROBATCH * WIDTH * 4 * WIDTH
"""FLOPs of a layer of a stage, with one microbatch."""


def test_a_bound_has_the_bubble_that_is_counted_by_hand() -> None:
    """Forward is two products, backward four; of the first stage three, as nobody wants the gradient of the batch.

    With 1F1B the second of two stages begins once the first has worked on a microbatch, and waits for it once more, as that has
    backward between; the batch ends with the first stage, which waits for the second.
    """
    found = of(pipeline, device="cuda", capacity="H100-80GB", ranks="all")
    assert found.pipeline is not None
    assert found.pipeline.missing == ()
    counted = {name: sum(each.values()) / ONE_PRODUCT for name, each in found.pipeline.flops.items()}
    assert counted == {
        f"{name}{each}": size for each in range(4) for name, size in zip(("0F", "0B", "1F", "1B"), (2, 3, 2, 4), strict=True)
    }
    bound = found.bound()
    assert bound.compute is not None
    assert bound.bubble is not None
    busy, batch = (20, 24)[found.rank or 0], 29
    assert bound.bubble / bound.compute == pytest.approx((batch - busy) / busy, rel=1e-6)
    assert bound.step == pytest.approx(bound.compute + bound.bubble)
    assert "a bubble of" in str(found)


def test_gradients_of_weights_are_counted_by_themselves() -> None:
    found = of(partial(pipeline, ScheduleInterleavedZeroBubble), device="cuda", capacity="H100-80GB", ranks="all")
    assert found.pipeline is not None
    assert found.pipeline.missing == ()
    of_third = {name[1]: sum(each.values()) / ONE_PRODUCT for name, each in found.pipeline.flops.items() if name[0] == "2"}
    assert of_third == {"F": 2, "I": 2, "W": 2} or of_third == {"F": 2, "I": 2, "W": 2, "B": 4}


def test_of_a_rank_alone_the_bubble_is_said_not_to_be_counted() -> None:
    bound = of(pipeline, device="cuda", capacity="H100-80GB", rank=1).bound()
    assert bound.bubble is None
    assert bound.step == bound.compute
    assert "Not counted: the bubble of the pipeline: what is computed in stage 0 is known with ranks='all'" in str(bound)
