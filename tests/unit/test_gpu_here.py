"""The GPU of this machine, told by a stand-in for the driver's library."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest
import torch

from torchprof.allocator.gpus import capacity_of, gpu_named
from torchprof.estimation import gpu_here as room
from torchprof.estimation import target as target_room
from torchprof.estimation.gpu_here import Gpu, gpu_here
from torchprof.estimation.target import Target

H200 = Gpu("NVIDIA H200", 150_109_880_320, (9, 0), 132)
UNKNOWN = Gpu("NVIDIA X900", 60 * 2**30, (12, 0), 170)
CORES = {(9, 0): 128, (8, 0): 64, (12, 0): 128}
RESERVED = 644_939_776
"""What an H200's driver keeps for itself."""


class Nvml:
    """As much of NVML as is asked."""

    def __init__(self, *gpus: Gpu, fails: str = "") -> None:
        self.gpus, self.fails, self.open = gpus, fails, 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        return lambda *args: 3 if name == self.fails else int(getattr(self, "_" + name)(*args) or 0)

    def _nvmlInit_v2(self) -> None:
        self.open += 1

    def _nvmlShutdown(self) -> None:
        self.open -= 1

    def _nvmlDeviceGetCount_v2(self, count: Any) -> None:
        count._obj.value = len(self.gpus)

    def _nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, device: Any) -> int:
        device._obj.value = index.value + 1
        return 0 if index.value < len(self.gpus) else 2

    def _of(self, device: ctypes.c_void_p) -> Gpu:
        assert device.value
        return self.gpus[device.value - 1]

    def _nvmlDeviceGetUUID(self, device: ctypes.c_void_p, text: Any, size: Any) -> None:
        text.value = b"GPU-%d-abc" % (device.value or 0)

    def _nvmlDeviceGetName(self, device: ctypes.c_void_p, text: Any, size: Any) -> None:
        text.value = self._of(device).name.encode()

    def _nvmlDeviceGetMemoryInfo_v2(self, device: ctypes.c_void_p, memory: Any) -> None:
        assert memory._obj.version == 40 | 2 << 24
        memory._obj.total, memory._obj.reserved = self._of(device).memory + RESERVED, RESERVED

    def _nvmlDeviceGetCudaComputeCapability(self, device: ctypes.c_void_p, major: Any, minor: Any) -> None:
        major._obj.value, minor._obj.value = self._of(device).capability

    def _nvmlDeviceGetNumGpuCores(self, device: ctypes.c_void_p, cores: Any) -> None:
        gpu = self._of(device)
        cores._obj.value = CORES[gpu.capability] * gpu.multiprocessors


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Nvml], None]:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)

    def has(nvml: Nvml) -> None:
        monkeypatch.setattr(room.ctypes, "CDLL", lambda name: nvml)

    return has


def test_it_is_the_first_one_whose_library_is_left_as_it_was(machine: Callable[[Nvml], None]) -> None:
    nvml = Nvml(H200, UNKNOWN)
    machine(nvml)
    assert gpu_here() == H200
    assert nvml.open == 0


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("1", UNKNOWN),
        ("1,0", UNKNOWN),
        ("GPU-2", UNKNOWN),
        ("", None),
        ("-1", None),
        ("7", None),
        ("GPU-9", None),
        ("MIG-1", None),
    ],
)
def test_it_is_the_first_that_cuda_may_see(
    visible: str, expected: Gpu | None, machine: Callable[[Nvml], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = Nvml(H200, UNKNOWN)
    machine(nvml)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_here() == expected
    assert nvml.open == 0


@pytest.mark.parametrize("call", ["nvmlInit_v2", "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetNumGpuCores"])
def test_it_is_not_told_where_the_library_fails(call: str, machine: Callable[[Nvml], None]) -> None:
    machine(Nvml(H200, fails=call))
    assert gpu_here() is None


def test_there_is_none_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(room.ctypes, "CDLL", missing)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert gpu_here() is None


def test_where_cuda_is_initialized_pytorch_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name, total_memory, major, minor, multi_processor_count = "NVIDIA H200", H200.memory, 9, 0, 132

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    assert gpu_here() == H200


@pytest.mark.parametrize(
    ("name", "capability", "multiprocessors", "known"),
    [
        ("NVIDIA H200", (9, 0), 132, "H200"),
        ("NVIDIA H100 80GB HBM3", (9, 0), 132, "H100-80GB"),
        ("NVIDIA A100-SXM4-40GB", (8, 0), 108, "A100-40GB"),
        ("NVIDIA A100 80GB PCIe", (8, 0), 108, "A100-80GB"),
        ("Tesla T4", (7, 5), 40, "T4"),
        ("NVIDIA GeForce RTX 3090", (8, 6), 82, "RTX 3090"),
        ("NVIDIA GeForce RTX 3090 Ti", (8, 6), 84, None),
        ("NVIDIA A10G", (8, 6), 80, None),
        ("NVIDIA H100 PCIe", (9, 0), 114, None),
    ],
)
def test_names_of_drivers_are_known(name: str, capability: tuple[int, int], multiprocessors: int, known: str | None) -> None:
    assert Gpu(name, 2**35, capability, multiprocessors).known_as == known


def target(here: Gpu | None, capacity: int | str | None, monkeypatch: pytest.MonkeyPatch, device: Any = "cuda") -> Target:
    monkeypatch.setattr(target_room, "gpu_here", lambda: here)
    limit = capacity_of(capacity) if capacity is not None else None
    return Target.of(device, gpu_named(capacity), limit, False)


def test_an_estimate_is_for_the_gpu_here_with_all_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    found = target(UNKNOWN, None, monkeypatch)
    assert (found.name, found.gpu, found.memory) == ("NVIDIA X900", None, 60 * 2**30)
    assert (found.capability, found.multiprocessors, found.threads_per_multiprocessor) == ((12, 0), 170, 1536)
    assert found.is_known
    assert found.why == "it is in this machine, and capacity= names none"
    assert target(H200, None, monkeypatch).gpu == "H200"


def test_what_is_named_counts_more_than_what_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    found = target(H200, "T4", monkeypatch)
    assert (found.name, found.capability, found.why) == ("T4", (7, 5), "capacity= names it")
    of_bytes = target(H200, 2**34, monkeypatch)
    assert (of_bytes.name, of_bytes.is_known) == ("A100-80GB", False)


def test_without_a_gpu_it_is_an_a100_and_on_the_cpu_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = target(None, None, monkeypatch)
    assert (found.name, found.capability, found.multiprocessors) == ("A100-80GB", (8, 0), 108)
    assert found.why == "capacity= names none, and none is found in this machine"
    on_the_cpu = target(H200, None, monkeypatch, "cpu")
    assert (on_the_cpu.name, on_the_cpu.why, on_the_cpu.here) == (None, None, None)
