"""How GPUs can be recorded: the backends that are possible in this process, the best first, and what their times mean."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

import torch

from torchprof import _native
from torchprof.errors import ArgumentError, RecordingError, UnsupportedTorchError
from torchprof.record import torch_private

__all__ = [
    "BACKENDS",
    "INTERRUPTED",
    "GpuBackend",
    "accelerator_in_use",
    "check_backend",
    "device_names",
    "gpu_backends",
    "may_wait",
]

BACKENDS: Final = ("auto", "cupti", "events", "off")

INTERRUPTED: Final = "; INCOMPLETE: another tool, such as torch.profiler, took CUPTI over, and what came after is missing"
KERNELS: Final = "kernels, copies and memsets, as the GPU timed them (CUPTI)"
INTERVALS: Final = "intervals on the GPU between events around outermost ops, or module calls: gaps in between included"
NOT_RECORDED: Final = "the GPU was not recorded"


@dataclass(frozen=True, slots=True)
class GpuBackend:
    """A way to record GPUs.

    Attributes:
        name: the value of ``trace.facts["gpu"]``.
        note: what its times mean; the value of ``trace.facts["gpu_note"]``.
        device_type: the number of the device type that it records, where there are several.
    """

    name: str
    note: str
    device_type: int = 0


def check_backend(gpu: Any) -> str:
    """The argument ``gpu`` of `torchprof.profile`.

    Raises:
        ArgumentError: it is none of ``BACKENDS``.
    """
    if not isinstance(gpu, str) or gpu not in BACKENDS:
        raise ArgumentError(f"gpu must be one of {', '.join(map(repr, BACKENDS))}, not {gpu!r:.80}")
    return gpu


def gpu_backends(gpu: str) -> list[GpuBackend]:
    """The backends to try, in order. The driver may refuse each but ``"off"``.

    ``"auto"`` records a GPU that is in use when the recording begins. If none is, CUDA is not initialized.

    Raises:
        RecordingError: ``gpu="cupti"`` where CUPTI cannot be used, or ``gpu="events"`` where there is no GPU.
    """
    if gpu == "off":
        return [GpuBackend("off", "")]
    if gpu == "events":
        device = torch.accelerator.current_accelerator()
        if device is None:
            raise RecordingError("gpu='events' is not possible: PyTorch finds no GPU here; use gpu='auto' to carry on without")
        return [_events(device)]
    if gpu == "auto" and not _cuda_is_in_use():
        device = accelerator_in_use()
        off = "no GPU was in use when the recording began" if device is None else NOT_RECORDED
        return [*([_events(device)] if device is not None else []), GpuBackend("off", off)]
    missing = _why_no_cupti()
    if gpu == "cupti":
        if missing:
            raise RecordingError(f"gpu='cupti' is not possible: {missing}; use gpu='auto' to carry on without")
        return [GpuBackend("cupti", KERNELS)]
    why = f": {missing}" if missing else ""
    device = accelerator_in_use()
    events = [_events(device, why and f"; no CUPTI{why}")] if device is not None else []
    return [*([] if missing else [GpuBackend("cupti", KERNELS)]), *events, GpuBackend("off", NOT_RECORDED + why)]


def _events(device: torch.device, why: str = "") -> GpuBackend:
    numbers = {name: number for number, name in _native.device_types().items()}
    return GpuBackend("events", INTERVALS + why, numbers[device.type])


def accelerator_in_use() -> torch.device | None:
    """The accelerator of this process, if it is in use. If it is not, nothing is called that could initialize it."""
    device = torch.accelerator.current_accelerator()
    if device is None or not getattr(getattr(torch, device.type, None), "is_initialized", lambda: True)():
        return None
    return device


def may_wait(backend: GpuBackend) -> bool:
    """Whether the recording may wait for devices now: not while a CUDA graph is captured, because waiting would break it."""
    if backend.name != "cupti" or not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return True
    return not torch.cuda.is_current_stream_capturing()


def _cuda_is_in_use() -> bool:
    return torch.version.cuda is not None and bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _why_no_cupti() -> str:
    """Why CUPTI cannot be used here; empty where it can."""
    if os.environ.get("TORCHPROF_CUPTI"):
        return ""
    if torch.version.cuda is None:
        return f"this PyTorch ({torch.__version__}) is not built for CUDA"
    try:
        if torch_private.is_in_bad_fork():
            return "this process was forked from one that uses CUDA"
        if not torch.cuda.is_available():
            return "PyTorch finds no NVIDIA GPU here"
        if torch_private.is_torch_profiler_active():
            return "torch.profiler is active, and CUPTI reports to one at a time"
    except UnsupportedTorchError as error:
        return str(error)
    return ""


def device_names() -> list[str]:
    """The names of the GPUs that CUDA, or ROCm, shows this process, by number; none where it has not begun to use that."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return []
    try:
        return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    except RuntimeError:  # in a fork of the process that uses it, or after an error on the device
        return []
