"""The GPU of this machine, which an estimate is for where none is named: found without setting CUDA up.

Where CUDA is initialized, PyTorch knows it. Where it is not, the driver's library for management (NVML) is asked, which needs
no CUDA context, takes no memory of the GPU, and leaves CUDA to be initialized in processes that are forked.
"""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from typing import Any, Final

import torch

from torchprof.allocator.gpus import COMPUTE_CAPABILITY, GPUS, MULTIPROCESSORS

__all__ = ["Gpu", "gpu_here"]

LIBRARY: Final = "libnvidia-ml.so.1"
NAME_BYTES: Final = 96
MEMORY_VERSION: Final = 2 << 24
CORES: Final = {(7, 0): 64, (7, 2): 64, (7, 5): 64, (8, 0): 64}
"""CUDA cores of a multiprocessor by compute capability, from Volta on; of others, `OTHER_CORES`."""
OTHER_CORES: Final = 128


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that is there.

    Attributes:
        name: as the driver gives it, such as ``"NVIDIA H200"``.
        memory: bytes that a program sees.
        capability: compute capability, such as ``(9, 0)``.
        multiprocessors: how many it has.
    """

    name: str
    memory: int
    capability: tuple[int, int]
    multiprocessors: int

    @property
    def known_as(self) -> str | None:
        """Its name in ``torchprof.GPUS``; None where it is none of these.

        Example:
            >>> Gpu("NVIDIA H100 80GB HBM3", 85_028_765_696, (9, 0), 132).known_as
            'H100-80GB'
        """
        words = {*re.split(r"[ -]", self.name)}
        for known in GPUS:
            is_named = words.issuperset(re.split(r"[ -]", known))
            if is_named and (COMPUTE_CAPABILITY[known], MULTIPROCESSORS[known]) == (self.capability, self.multiprocessors):
                return known
        return None


def gpu_here() -> Gpu | None:
    """The GPU that CUDA would take in this process; None where there is none, or where it cannot be told."""
    if torch.version.hip is not None:
        return None
    if torch.version.cuda is not None and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found = torch.cuda.get_device_properties(torch.cuda.current_device())
        return Gpu(found.name, found.total_memory, (found.major, found.minor), found.multi_processor_count)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    first = "0" if visible is None else visible.split(",")[0].strip()
    try:
        return _managed(ctypes.CDLL(LIBRARY), first)
    except (OSError, AttributeError, _NvmlError):  # no driver, or one that is too old
        return None


class _NvmlError(Exception):
    """NVML cannot tell."""


class _Memory(ctypes.Structure):
    """``nvmlMemory_v2_t``: what is reserved is not seen by programs."""

    _fields_ = (
        ("version", ctypes.c_uint),
        ("total", ctypes.c_ulonglong),
        ("reserved", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


def _managed(nvml: Any, first: str) -> Gpu:
    """What NVML says of a GPU, given by number or by the beginning of its UUID, as in ``CUDA_VISIBLE_DEVICES``."""
    _checked(nvml.nvmlInit_v2())
    try:
        device = _device(nvml, first)
        name = ctypes.create_string_buffer(NAME_BYTES)
        _checked(nvml.nvmlDeviceGetName(device, name, ctypes.c_uint(NAME_BYTES)))
        memory = _Memory(version=ctypes.sizeof(_Memory) | MEMORY_VERSION)
        _checked(nvml.nvmlDeviceGetMemoryInfo_v2(device, ctypes.byref(memory)))
        major, minor, cores = ctypes.c_int(), ctypes.c_int(), ctypes.c_uint()
        _checked(nvml.nvmlDeviceGetCudaComputeCapability(device, ctypes.byref(major), ctypes.byref(minor)))
        _checked(nvml.nvmlDeviceGetNumGpuCores(device, ctypes.byref(cores)))
    finally:
        nvml.nvmlShutdown()
    capability = major.value, minor.value
    multiprocessors = cores.value // CORES.get(capability, OTHER_CORES)
    return Gpu(name.value.decode(errors="replace"), memory.total - memory.reserved, capability, multiprocessors)


def _device(nvml: Any, first: str) -> Any:
    """The handle of a device; one that ``CUDA_VISIBLE_DEVICES`` hides is none."""
    device = ctypes.c_void_p()
    if first.isdecimal():
        _checked(nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(first)), ctypes.byref(device)))
        return device
    if not first.startswith("GPU-"):
        raise _NvmlError(first)  # none is visible, or a part of one (MIG)
    count = ctypes.c_uint()
    _checked(nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)))
    for index in range(count.value):
        _checked(nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device)))
        uuid = ctypes.create_string_buffer(NAME_BYTES)
        _checked(nvml.nvmlDeviceGetUUID(device, uuid, ctypes.c_uint(NAME_BYTES)))
        if uuid.value.decode(errors="replace").startswith(first):
            return device
    raise _NvmlError(first)


def _checked(code: int) -> None:
    if code:
        raise _NvmlError(code)
