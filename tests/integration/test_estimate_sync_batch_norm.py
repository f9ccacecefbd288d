"""SyncBatchNorm in an estimate: no CPU runs it, so what it allocates and sends is counted by hand, after PyTorch's sources."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

import torchprof
from torchprof import Estimate

RANKS, ROWS, CHANNELS, SIDE = 16, 8, 64, 32
ELEMENTS = ROWS * CHANNELS * SIDE * SIDE
NORM: dict[str, Any] = {"world_size": RANKS, "steps": 1}


def images(dtype: torch.dtype = torch.float32, **options: Any) -> Tensor:
    shape = (ROWS, CHANNELS, SIDE, SIDE)
    return torch.empty(shape, dtype=dtype, device="meta", requires_grad=True).to(**options)


def norm(**options: Any) -> nn.Module:
    return nn.SyncBatchNorm(CHANNELS, **options)


def of(build: Any = norm, given: Tensor | None = None, **options: Any) -> Estimate:
    return torchprof.estimate(build, images() if given is None else given, **{**NORM, **options})


def allocated(found: Estimate) -> dict[str, list[int]]:
    """The sizes of all blocks, by op."""
    names = [found.trace.strings[name] for name in found.trace.signatures["name"].tolist()]
    sizes: dict[str, list[int]] = {}
    rows = found.memory.allocations
    for op, size in zip(rows["op"].tolist(), rows["bytes"].tolist(), strict=True):
        if op >= 0:
            name = names[found.trace.ops[op]["signature"]].partition("::")[2]
            sizes.setdefault(name, []).append(size)
    return sizes


def sent(found: Estimate) -> dict[tuple[str, str], tuple[int, int, int]]:
    return {(each.collective, each.dimension): (each.ranks, each.calls, each.bytes) for each in found.communication}


def test_a_rank_gathers_statistics_in_forward_and_adds_up_two_sums_in_backward() -> None:
    assert sent(of()) == {
        ("all-gather", "world"): (RANKS, 1, RANKS * (2 * CHANNELS + 1) * 4),  # mean, deviation, and how many rows
        ("all-reduce", "world"): (RANKS, 1, 2 * CHANNELS * 4),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_allocate_what_they_return(dtype: torch.dtype) -> None:
    found = allocated(of(given=images(dtype)))
    statistics = [CHANNELS * 4] * 2  # in float32, whatever the input is in
    assert found["batch_norm_stats"] == statistics
    assert found["batch_norm_gather_stats_with_counts"] == statistics
    assert found["batch_norm_elemt"] == [ELEMENTS * dtype.itemsize]
    assert found["batch_norm_backward_reduce"] == [CHANNELS * 4] * 4  # two sums, and gradients of weight and bias
    assert found["batch_norm_backward_elemt"] == [ELEMENTS * dtype.itemsize]


def test_ranks_without_inputs_are_looked_for_among_those_that_are_gathered() -> None:
    """Which have inputs, where these are, and three tensors of them: every rank has some."""
    found = allocated(of())
    assert found["ge"] == [RANKS]
    assert found["index"] == [RANKS * 4, RANKS * CHANNELS * 4, RANKS * CHANNELS * 4]


def test_statistics_are_saved_for_backward_beside_the_input() -> None:
    counts = RANKS * 4  # as integers of 32 bits
    assert sum(of().memory.saved_by_module.values()) == 2 * CHANNELS * 4 + counts


def test_blocks_that_share_channels_leave_their_parts_in_a_buffer() -> None:
    """Of 8,192 rows of 64 channels: blocks of 32 channels and 16 threads that take 16 rows each, so 32 blocks for a channel."""
    last = images(memory_format=torch.channels_last)
    found = allocated(of(given=last, loss=lambda y: y.square().sum()))
    blocks, counters = 8192 // (16 * 16), CHANNELS // 32
    assert found["batch_norm_stats"] == [CHANNELS * 4] * 2 + [4 * CHANNELS * blocks * 4, counters * 4]
    assert found["batch_norm_backward_reduce"] == [CHANNELS * 4] * 4 + [2 * CHANNELS * blocks * 4, counters * 4]
    assert found["batch_norm_elemt"] == [ELEMENTS * 4]


def test_of_an_input_in_channels_last_and_a_gradient_that_is_not_one_is_copied() -> None:
    found = allocated(of(given=images(memory_format=torch.channels_last), loss=torch.sum))
    assert found["batch_norm_backward_reduce"] == [CHANNELS * 4] * 4 + [ELEMENTS * 4]
    assert found["batch_norm_backward_elemt"] == [ELEMENTS * 4] * 2


def test_few_rows_need_no_buffer() -> None:
    """Fewer than 8 blocks of 16 threads and 16 rows are not worth one."""
    rows = torch.empty(7 * 256, CHANNELS, device="meta", requires_grad=True)
    assert allocated(of(given=rows))["batch_norm_stats"] == [CHANNELS * 4] * 2
    more = torch.empty(7 * 256 + 1, CHANNELS, device="meta", requires_grad=True)
    assert len(allocated(of(given=more))["batch_norm_stats"]) == 4


def test_a_layer_without_weight_computes_no_gradients_of_it() -> None:
    assert allocated(of(lambda: norm(affine=False)))["batch_norm_backward_reduce"] == [CHANNELS * 4] * 2


def test_ranks_of_a_group_of_the_layer_s_own_are_those_that_are_asked() -> None:
    def build() -> nn.Module:
        mesh = init_device_mesh("cuda", (4, 4), mesh_dim_names=("replicas", "images"))
        return norm(process_group=mesh.get_group("images"))

    assert sent(of(build))["all-gather", "images"] == (4, 1, 4 * (2 * CHANNELS + 1) * 4)


def converted() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3), nn.BatchNorm2d(CHANNELS), nn.ReLU(), nn.Conv2d(CHANNELS, 8, 3))
    batch_norm: Any = nn.SyncBatchNorm
    made = batch_norm.convert_sync_batchnorm(model)
    return DistributedDataParallel(made.cuda(), device_ids=[0])


def test_a_converted_model_is_estimated_with_distributed_data_parallel() -> None:
    found = of(converted, steps=2, optimizer=torch.optim.SGD)
    parameters = (CHANNELS * CHANNELS * 9 + CHANNELS) + 2 * CHANNELS + (CHANNELS * 8 * 9 + 8)
    assert sent(found)["all-reduce", "world"] == (RANKS, 2, (parameters + 2 * CHANNELS) * 4)


def test_evaluation_and_one_rank_alone_ask_nobody() -> None:
    assert sent(of(lambda: norm().eval())) == {}
    assert sent(of(world_size=1)) == {}


def test_on_the_cpu_pytorch_refuses_it_in_its_own_words() -> None:
    for build in (norm, converted):
        with pytest.raises(ValueError, match="GPU"):
            of(build, device="cpu")


def test_nothing_is_left_of_it() -> None:
    before = nn.SyncBatchNorm.forward, torch._C._get_privateuse1_backend_name
    of()
    assert (nn.SyncBatchNorm.forward, torch._C._get_privateuse1_backend_name) == before
    assert not dist.is_initialized()
