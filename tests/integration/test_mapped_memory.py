"""Mapped and shared memory, whose end nobody may report, against what the kernel says is mapped of a file."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchprof

MIB = 2**20
ELEMENTS = MIB // 4
"""Of a float32 tensor of 1 MiB."""
PAGE = 4096

Load = Callable[[Path], dict[str, Tensor]]
Step = Callable[[int], None]

pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system does not tell what is mapped")


def mapped(file: Path) -> int:
    """Bytes of this process' mappings of a file, in pages: the kernel's word."""
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(file)):
            first, last = line.split()[0].split("-")
            total += int(last, 16) - int(first, 16)
    return total


def model_on(device: str | None = None) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(ELEMENTS, 1, bias=False, device=device) for name in "ab"})


def by_torch_load(file: Path) -> dict[str, Tensor]:
    return torch.load(file / "weights.pt", mmap=True)  # type: ignore[no-any-return]


def by_safetensors(file: Path) -> dict[str, Tensor]:
    return pytest.importorskip("safetensors.torch").load_file(file / "weights.safetensors")  # type: ignore[no-any-return]


def from_file(file: Path) -> dict[str, Tensor]:
    return {
        f"{name}.weight": torch.from_file(str(file / f"{name}.raw"), shared=False, size=ELEMENTS).view(1, ELEMENTS)
        for name in "ab"
    }


def storage_from_file(file: Path) -> dict[str, Tensor]:
    def load(name: str) -> Tensor:
        storage = torch.UntypedStorage.from_file(str(file / f"{name}.raw"), False, MIB)
        return torch.empty(0).set_(storage).view(1, ELEMENTS)  # type: ignore[arg-type]

    return {f"{name}.weight": load(name) for name in "ab"}


LOADS = {load.__name__: load for load in (by_torch_load, by_safetensors, from_file, storage_from_file)}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with the same two weights of 1 MiB in files of several formats."""
    weights = {f"{name}.weight": torch.ones(1, ELEMENTS) for name in "ab"}
    torch.save(weights, tmp_path / "weights.pt")
    if importlib.util.find_spec("safetensors"):
        importlib.import_module("safetensors.torch").save_file(weights, tmp_path / "weights.safetensors")
    for name in "ab":
        (tmp_path / f"{name}.raw").write_bytes(bytes(MIB))
    return tmp_path


@pytest.fixture(params=LOADS)
def load(request: pytest.FixtureRequest) -> Load:
    return LOADS[request.param]


@pytest.fixture(params=[False, True], ids=["whole", "aggregated"])
def aggregate(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def record(step: Step, folder: Path, model: nn.Module | None = None, count: int = 4, **options: Any) -> tuple[Any, list[int]]:
    """The recording of a loop, and what was mapped of the files in a folder at the ends of its steps."""
    truth = []
    with torchprof.profile(model or nn.Identity(), **options) as prof:
        for number in range(count):
            step(number)
            truth.append(sum(mapped(file) for file in folder.iterdir()))
            prof.step()
    return prof, truth


def check_held(prof: Any, truth: list[int]) -> None:
    """A mapping ends with a page, of which the file fills a part."""
    held = prof.trace.steps["held"].tolist()
    assert all(0 <= pages - found < 2 * PAGE for found, pages in zip(held, truth, strict=True)), (held, truth)


def forward(model: nn.ModuleDict, x: Tensor) -> None:
    with torch.no_grad():
        model["a"](x) + model["b"](x)


def in_thread(call: Callable[[], object]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_weights_that_are_mapped_and_assigned_at_each_step_count_once(
    load: Load, device: str, files: Path, aggregate: bool
) -> None:
    model, x = model_on(device), torch.ones(1, ELEMENTS)

    def step(_: int) -> None:
        model.load_state_dict(load(files), assign=True)
        forward(model, x)

    prof, truth = record(step, files, model, aggregate=aggregate)
    assert truth[-1] >= 2 * MIB
    check_held(prof, truth)
    peaks = prof.trace.steps["peak"].tolist()
    assert all(0 <= 2 * truth[0] - peak < 5 * PAGE for peak in peaks[1:]), (
        peaks
    )  # the new ones are mapped before the old ones go
    if not aggregate:
        account = torchprof.memory(prof.trace, device="cpu")
        assert 0 <= account.peak.bytes - (2 * truth[0] + x.nbytes) + 5 * PAGE < 5 * PAGE + 100
        assert account.leaks == []


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("options", [{}, {"ops": False}, {"shapes": False}], ids=["all", "no ops", "no shapes"])
def test_weights_that_are_mapped_and_assigned_once_count_once(
    load: Load, used: bool, options: dict[str, Any], files: Path
) -> None:
    model, x = model_on("meta"), torch.ones(1, ELEMENTS)

    def step(number: int) -> None:
        if number == 1:
            model.load_state_dict(load(files), assign=True)
        if used and number > 0:
            forward(model, x)

    prof, truth = record(step, files, model, **options)
    assert truth[0] == 0
    assert truth[1] == truth[3] >= 2 * MIB
    check_held(prof, truth)
    account = torchprof.memory(prof.trace, device="cpu")
    assert 0 <= account.peak.bytes - truth[3] - used * x.nbytes + 2 * PAGE < 2 * PAGE + 100
    if not options:
        assert 0 <= truth[3] - account.by_category["parameters"] < 2 * PAGE


@pytest.mark.parametrize("used", [True, False])
def test_mapped_weights_from_before_are_freed_where_they_are_replaced(load: Load, used: bool, files: Path) -> None:
    model, x = model_on("meta"), torch.ones(1, ELEMENTS)
    model.load_state_dict(load(files), assign=True)
    new = {name: torch.ones(1, ELEMENTS) for name in ("a.weight", "b.weight")}

    with torchprof.profile(model) as prof:
        for number in range(4):
            if number == 1:
                model.load_state_dict(new, assign=True)
            if used:
                forward(model, x)
            prof.mark(f"{number}")
            prof.step()
    rows = torchprof.memory(prof.trace, device="cpu").allocations
    rows = rows[rows["bytes"] >= MIB]
    held = []
    for number in range(4):
        time = prof.trace.mark(f"{number}")
        held.append(int(rows["bytes"][(rows["start"] <= time) & ((rows["end"] < 0) | (rows["end"] > time))].sum()))
    new_and_input = (2 + used) * MIB  # both were there before
    assert held == [2 * MIB + new_and_input, *[new_and_input] * 3]
    assert prof.trace.steps["held"].tolist() == [0] * 4  # of what is allocated meanwhile


def test_weights_are_freed_where_another_thread_frees_them(load: Load, files: Path, aggregate: bool) -> None:
    box: list[dict[str, Tensor]] = []

    def step(number: int) -> None:
        box.append(load(files))
        assert sum(float(weight.sum()) for weight in box[0].values()) >= 0
        if number != 2:
            in_thread(box.clear)

    prof, truth = record(step, files, aggregate=aggregate)
    assert truth[0] == 0
    assert truth[2] >= 2 * MIB
    check_held(prof, truth)


def test_a_model_in_a_cycle_is_freed_where_another_thread_collects_it(load: Load, files: Path, aggregate: bool) -> None:
    x = torch.ones(1, ELEMENTS)

    def step(_: int) -> None:
        model = model_on("meta")
        model.itself = [model]  # type: ignore[assignment]
        model.load_state_dict(load(files), assign=True)
        forward(model, x)
        del model
        in_thread(gc.collect)

    prof, truth = record(step, files, aggregate=aggregate)
    assert truth == [0] * 4
    assert prof.trace.steps["held"].tolist() == [0] * 4


@pytest.mark.parametrize("freed", ["here", "in another thread"])
def test_what_another_thread_maps_counts_from_its_use_until_it_is_freed(
    load: Load, freed: str, files: Path, aggregate: bool
) -> None:
    box: dict[str, Tensor] = {}

    def step(number: int) -> None:
        if number == 1:
            in_thread(lambda: box.update(load(files)))
            assert sum(float((weight + 0).sum()) for weight in box.values()) >= 0
        elif number == 3:
            box.clear() if freed == "here" else in_thread(box.clear)

    prof, _ = record(step, files, aggregate=aggregate)
    held = prof.trace.steps["held"].tolist()
    assert held[0] == held[3] == 0
    assert 0 <= held[1] - 2 * MIB < 2 * PAGE
    assert held[1] == held[2]
    if not aggregate:
        assert all(row["start"] >= 0 for row in torchprof.memory(prof.trace).allocations if row["bytes"] > 8)


def test_one_weight_of_many_that_is_kept_keeps_the_file(files: Path) -> None:
    box: dict[str, Tensor] = {}

    def step(number: int) -> None:
        if number == 0:
            box.update(by_torch_load(files))
            assert sum(float(weight.sum()) for weight in box.values()) == 2 * ELEMENTS
        else:
            in_thread(lambda: box.popitem())

    prof, truth = record(step, files, count=3)
    assert truth[0] == truth[1] >= 2 * MIB
    assert truth[2] == 0
    check_held(prof, truth)


# Shared memory


@pytest.fixture(params=["file_descriptor", "file_system"])
def strategy(request: pytest.FixtureRequest) -> Iterator[str]:
    before = torch.multiprocessing.get_sharing_strategy()  # type: ignore[no-untyped-call]
    torch.multiprocessing.set_sharing_strategy(request.param)  # type: ignore[no-untyped-call]
    yield request.param
    torch.multiprocessing.set_sharing_strategy(before)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("freed", ["here", "in another thread"])
def test_a_tensor_that_is_shared_is_held_until_it_is_freed(strategy: str, used: bool, freed: str, aggregate: bool) -> None:
    box: list[Tensor] = []

    def step(number: int) -> None:
        if number == 0:
            box.append(torch.ones(ELEMENTS))
            box[0].share_memory_()  # type: ignore[no-untyped-call]
        if number < 2 and used:
            box[0].add_(1)
        if number == 2:
            box.clear() if freed == "here" or not used else in_thread(box.clear)

    with torchprof.profile(nn.Identity(), aggregate=aggregate) as prof:
        for number in range(4):
            step(number)
            prof.step()
    assert all(0 <= held - MIB < PAGE for held in prof.trace.steps["held"][:2])
    assert prof.trace.steps["held"][2:].tolist() == [0, 0]
    assert all(0 <= peak - 2 * MIB < PAGE for peak in prof.trace.steps["peak"][:1])  # while it is copied
    assert (prof.trace.steps["allocated"][1:] < 100).all()  # it is one block; numbers that are added


@pytest.mark.parametrize("used", [True, False])
def test_a_model_that_is_shared_has_its_weights_once(strategy: str, used: bool) -> None:
    model, x = model_on(), torch.ones(1, ELEMENTS)

    def step(number: int) -> None:
        if number == 1:
            model.share_memory()
        if used:
            forward(model, x)

    with torchprof.profile(model) as prof:
        for number in range(3):
            step(number)
            prof.step()
    held = prof.trace.steps["held"].tolist()
    assert held[0] == 0
    assert all(0 <= found - 2 * MIB < PAGE for found in held[1:])
    account = torchprof.memory(prof.trace)
    # One after the other is copied.
    assert 0 <= account.peak.bytes - (3 + used) * MIB < PAGE
    assert account.leaks == []


class Batches(torch.utils.data.Dataset[Tensor]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        return torch.ones(ELEMENTS)


def test_batches_of_workers_are_held_while_their_tensors_are(strategy: str) -> None:
    with torchprof.profile(nn.Identity()) as prof:
        for batch in torch.utils.data.DataLoader(Batches(), batch_size=2, num_workers=1):
            assert batch.mul(1).sum() == 2 * ELEMENTS
            del batch
            prof.step()
    assert prof.trace.steps["held"].tolist() == [0, 0]
    assert 0 <= torchprof.memory(prof.trace).peak.bytes - 4 * MIB < PAGE  # a batch, and its double


# It observes


def test_a_storage_that_is_watched_is_as_it_was(files: Path) -> None:
    with torchprof.profile(nn.Identity()) as prof:
        weight = from_file(files)["a.weight"]
        storage = weight.untyped_storage()
        storage.note = "mine"  # type: ignore[attr-defined]
        address, identity = storage.data_ptr(), storage._cdata
        weight.add_(1)
        prof.mark("looked at")
        del storage
        assert weight.untyped_storage().note == "mine"  # type: ignore[attr-defined]
        assert (weight.untyped_storage().data_ptr(), weight.untyped_storage()._cdata) == (address, identity)
        assert weight.sum() == ELEMENTS
        assert mapped(files / "a.raw") == MIB
        del weight
        assert mapped(files / "a.raw") == 0  # its memory is gone when it is, though the object that it was is kept


def test_storages_in_numbers_are_forgotten_when_they_have_ended(files: Path) -> None:
    with torchprof.profile(nn.Identity()) as prof:
        for _ in range(3):
            kept = [torch.from_file(str(files / "a.raw"), shared=False, size=PAGE) for _ in range(300)]
            for weight in kept:
                weight.sum()
            del kept, weight
            prof.step()
    assert prof.trace.steps["held"].tolist() == [0, 0, 0]
    assert all(0 <= peak - 300 * 4 * PAGE < 100 for peak in prof.trace.steps["peak"])
