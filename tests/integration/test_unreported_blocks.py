"""Blocks whose allocation nobody reports: memory of others, mapped and shared memory, storages without data."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchprof
from torchprof.tables.memory import Memory

MIB = 2**20
ELEMENTS = MIB // 4
"""Of a float32 tensor of 1 MiB."""


def held(prof: Any) -> list[int]:
    return prof.trace.steps["held"].tolist()


def time_of(prof: Any, mark: str) -> int:
    time = prof.trace.mark(mark)
    assert time is not None
    return int(time)


def from_before(account: Memory) -> list[int]:
    """Bytes of the blocks that count as from before the recording, but for scalars."""
    return [int(row["bytes"]) for row in account.allocations if row["start"] == -1 and row["bytes"] > 8]


class Wrapper(Tensor):
    """Says that it has a gigabyte, and has nothing."""

    @staticmethod
    def __new__(cls) -> Wrapper:
        return torch.Tensor._make_wrapper_subclass(cls, (2**28,))  # type: ignore[return-value, attr-defined]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return torch.zeros(2) if func is torch.ops.aten.sum.default else Wrapper()


def test_a_wrapper_without_data_has_no_bytes() -> None:
    model = nn.Identity()
    with torchprof.profile(model) as prof:
        for _ in range(4):
            model(Wrapper() + 1).sum()
            prof.step()
    account = torchprof.memory(prof.trace)
    assert 8 <= account.peak.bytes < 100  # numbers
    assert from_before(account) == []
    assert account.leaks == []


def test_an_array_of_numpy_is_held_while_its_tensor_is() -> None:
    model = nn.Linear(ELEMENTS, 1, bias=False)
    with torchprof.profile(model) as prof:
        for _ in range(4):
            x = torch.from_numpy(np.ones((1, ELEMENTS), dtype=np.float32))
            model(x).sum()
            prof.mark("held")
            del x
            prof.step()
    account = torchprof.memory(prof.trace)
    assert held(prof) == [0, 0, 0, 0]
    assert account.leaks == []
    assert from_before(account) == [MIB]  # the weight
    assert MIB <= account.peak.bytes - MIB <= MIB + 8
    assert account.by_category["inputs"] == MIB


def test_two_tensors_on_one_array_are_one_block() -> None:
    array = np.ones(ELEMENTS, dtype=np.float32)
    with torchprof.profile() as prof:
        first = torch.from_numpy(array)
        first.add_(1)
        second, third = torch.from_numpy(array), torch.from_numpy(array[100:])
        second.add_(1)
        third.add_(1)
        prof.step()
        del first, third
        second.add_(1)
        prof.step()
        del second
        prof.step()
    assert held(prof) == [MIB, MIB, 0]
    assert 0 <= torchprof.memory(prof.trace).peak.bytes - MIB < 100  # numbers that are added


def test_memory_that_came_by_dlpack_or_a_buffer_is_held_while_its_tensor_is() -> None:
    with torchprof.profile() as prof:
        x = torch.from_dlpack(np.ones(ELEMENTS, dtype=np.float32))
        y = torch.frombuffer(bytearray(MIB), dtype=torch.uint8)
        x.add_(1)
        y.add_(1)
        prof.step()
        del x
        prof.step()
        del y
        prof.step()
    assert held(prof) == [2 * MIB, MIB, 0]


def test_an_array_that_later_recordings_meet_again_is_followed_by_each() -> None:
    x = torch.from_numpy(np.ones(ELEMENTS, dtype=np.float32))
    for _ in range(3):
        with torchprof.profile() as prof:
            x.add_(1)
            prof.step()
        assert held(prof) == [MIB]
    with torchprof.profile() as prof:
        x.add_(1)
        prof.step()
        del x
        prof.step()
    assert held(prof) == [MIB, 0]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file with two weights of 1 MiB each."""
    torch.save({"a": torch.ones(1, ELEMENTS), "b": torch.ones(1, ELEMENTS)}, tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def test_weights_of_a_mapped_file_are_counted_once(weights: Path) -> None:
    with torchprof.profile() as prof:
        for _ in range(3):
            state = torch.load(weights, mmap=True)
            assert state["a"].sum() + state["b"].sum() == 2 * ELEMENTS
            prof.mark("loaded")
            del state
            prof.step()
    account = torchprof.memory(prof.trace)
    assert held(prof) == [0, 0, 0]
    assert 0 <= account.peak.bytes - weights.stat().st_size < 1000  # the file is mapped as a whole
    assert account.leaks == []


def test_a_model_on_a_mapped_file_has_its_weights_once(weights: Path) -> None:
    model = nn.ModuleDict({name: nn.Linear(ELEMENTS, 1, bias=False, device="meta") for name in "ab"})
    state = torch.load(weights, mmap=True)
    model.load_state_dict({f"{name}.weight": state[name] for name in "ab"}, assign=True)
    del state
    x = torch.ones(1, ELEMENTS)
    with torchprof.profile(model) as prof, torch.no_grad():
        model["a"](x) + model["b"](x)
    account = torchprof.memory(prof.trace)
    assert account.by_category["parameters"] == 2 * MIB
    assert 3 * MIB <= account.peak.bytes < 3 * MIB + 100


def test_weights_of_safetensors_are_counted_once(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    file = tmp_path / "weights.safetensors"
    safetensors.save_file({"a": torch.ones(ELEMENTS), "b": torch.ones(ELEMENTS)}, file)
    with torchprof.profile() as prof:
        for _ in range(3):
            state = safetensors.load_file(file)
            assert state["a"].sum() + state["b"].sum() == 2 * ELEMENTS
            del state
            prof.step()
    assert held(prof) == [0, 0, 0]
    assert 2 * MIB <= torchprof.memory(prof.trace).peak.bytes <= file.stat().st_size + 100


def test_memory_that_is_shared_replaces_what_was_there() -> None:
    with torchprof.profile() as prof:
        x = torch.ones(ELEMENTS)
        x.share_memory_()
        x.add_(1)
        prof.step()
        del x
        prof.step()
    assert held(prof) == [MIB, 0]
    assert torchprof.memory(prof.trace).peak.bytes == 2 * MIB  # while it is copied


@pytest.mark.parametrize("made", ["before", "in"])
def test_a_storage_that_is_resized_is_followed(made: str) -> None:
    x = torch.ones(ELEMENTS)
    with torchprof.profile() as prof:
        x = torch.ones(ELEMENTS) if made == "in" else x
        x.add_(1)
        for name, size in {"full": MIB, "empty": 0, "again": MIB, "twice": 2 * MIB}.items():
            x.untyped_storage().resize_(size)
            if size:
                x.add_(1)
            prof.mark(name)
    account = torchprof.memory(prof.trace)
    found = []
    for name in ("full", "empty", "again", "twice"):
        time = time_of(prof, name)
        rows = account.allocations
        alive = (rows["start"] <= time) & ((rows["end"] < 0) | (rows["end"] > time))
        found.append(int(rows["bytes"][alive].sum()))
    assert found == [MIB, 0, MIB, 2 * MIB]
    assert account.peak.bytes == 3 * MIB  # while it is copied


def test_a_storage_of_python_is_held_while_it_is() -> None:
    with torchprof.profile() as prof:
        storage = torch.UntypedStorage(MIB)
        x = torch.empty(0).set_(storage)
        x.zero_()
        prof.step()
        del x, storage
        prof.step()
    assert held(prof) == [MIB, 0]
    assert from_before(torchprof.memory(prof.trace)) == []


def test_a_jagged_tensor_has_the_bytes_of_its_values() -> None:
    parts = [torch.ones(length, 256) for length in (400, 624)]
    with torchprof.profile() as prof:
        for _ in range(3):
            x = torch.nested.nested_tensor(parts, layout=torch.jagged)
            y = x * 2
            del x, y
            prof.step()
    account = torchprof.memory(prof.trace, device="cpu")
    assert all(count < 100 for count in held(prof))  # on meta, for the cached shapes
    assert account.leaks == []
    # The parts from before, and their values side by side, twice; offsets are small.
    assert 0 <= account.peak.bytes - 3 * MIB < 2000


# What existed before


def test_what_existed_before_and_no_module_reads_is_in_the_peak() -> None:
    x = torch.ones(1, ELEMENTS)
    model = nn.Linear(ELEMENTS, 1)
    with torchprof.profile(model) as prof:
        model(x / 255).sum().backward()
    without = torch.ones(1, ELEMENTS) / 255
    with torchprof.profile(model) as other:
        model.zero_grad()
        model(without).sum().backward()
    peak, of_other = torchprof.memory(prof.trace).peak.bytes, torchprof.memory(other.trace).peak.bytes
    assert peak - of_other == x.nbytes


def test_a_data_set_from_before_is_in_the_peak_once() -> None:
    data = torch.ones(16, ELEMENTS)
    model = nn.Linear(ELEMENTS, 1)
    with torchprof.profile(model) as prof, torch.no_grad():
        for index in range(4):
            model(data[torch.tensor([index])])
            prof.step()
    account = torchprof.memory(prof.trace)
    assert sorted(from_before(account)) == [MIB, 16 * MIB]
    assert 18 * MIB <= account.peak.bytes < 18 * MIB + 100


def test_what_existed_before_and_is_freed_inside_is_not_held_from_then_on() -> None:
    box = [torch.ones(ELEMENTS), torch.ones(2 * ELEMENTS)]
    with torchprof.profile() as prof:
        for block in box:
            block.sum()
        del block
        box.pop(0)
        prof.mark("one")
        box.pop(0)
        prof.mark("none")
        torch.ones(ELEMENTS).sum()
    account = torchprof.memory(prof.trace)
    assert 3 * MIB <= account.peak.bytes < 3 * MIB + 100
    ends = {int(row["bytes"]): int(row["end"]) for row in account.allocations if row["start"] == -1}
    assert 0 < ends[MIB] < time_of(prof, "one") < ends[2 * MIB] < time_of(prof, "none")


# Sharded


SHARDED = textwrap.dedent("""
    import sys, torch, torchprof
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    model, x = torch.nn.Linear(1024, 1024, bias=False), torch.rand(8, 1024)
    if sys.argv[1] == "fsdp":
        fully_shard(model, mesh=mesh)
    else:
        model.weight = torch.nn.Parameter(distribute_tensor(model.weight.detach(), mesh, [Shard(0)]))
        x = DTensor.from_local(x, mesh, [Replicate()])
    update = torch.optim.AdamW(model.parameters())
    with torchprof.profile(model) as prof:
        for step in range(6):
            model(x).sum().backward()
            update.step()
            prof.mark(f"{step}")
            update.zero_grad()
            prof.step()
    account = torchprof.memory(prof.trace)
    rows = account.allocations
    for step in range(6):
        time = prof.trace.mark(f"{step}")
        alive = (rows["start"] <= time) & ((rows["end"] < 0) | (rows["end"] > time)) & (rows["bytes"] > 8)
        held = {name: rows["bytes"][alive & (account.category == index)] for index, name in enumerate(torchprof.CATEGORIES)}
        parameters = held["parameters"].sum() + held["sharded parameters"].sum()
        print(int(parameters), int(held["optimizer state"].sum()), int(rows["bytes"][alive].sum()))
    print([leak for leak in account.leaks if leak.bytes > 1000])
    dist.destroy_process_group()
""")


@pytest.mark.parametrize("kind", ["fsdp", "dtensor"])
def test_the_state_of_an_optimizer_on_one_rank_is_two_times_the_weights(kind: str) -> None:
    if not torch.distributed.is_available():
        pytest.skip("this PyTorch has no torch.distributed")
    done = subprocess.run([sys.executable, "-c", SHARDED, kind], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    held = 16 * MIB + 8 * 1024 * 4  # weights, gradients, state; and the batch
    assert done.stdout.splitlines() == [*[f"{4 * MIB} {8 * MIB} {held}"] * 6, "[]"]
