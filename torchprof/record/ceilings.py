"""What this machine can do at best, measured: the ceilings of a roofline.

The roofline model (Williams, Waterman, Patterson: "Roofline: an insightful visual performance model for multicore
architectures", 2009) bounds what an op can reach by ``min(flops, intensity * bytes)``, with its FLOPs per byte as intensity.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from torchprof.errors import ArgumentError

__all__ = ["Ceilings", "ceilings"]


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The best rates seen on one device.

    Attributes:
        device: its name.
        dtype: of the matrices that were multiplied, as in ``float32``.
        threads: of PyTorch, where the device is the CPU; 0 elsewhere.
        flops: FLOPs per second of a large matrix product.
        bytes: bytes per second, read and written, of a large copy.
    """

    device: str
    dtype: str
    threads: int
    flops: float
    bytes: float

    def attainable(self, intensity: float) -> float:
        """FLOPs per second that an op with so many FLOPs per byte can reach."""
        return min(self.flops, intensity * self.bytes)

    def reached(self, flop_rate: float | None, byte_rate: float | None, intensity: float | None) -> float | None:
        """How near a rate comes to what is attainable; by bytes where there are no FLOPs. Above 1 where caches help."""
        if flop_rate is not None and intensity is not None:
            return flop_rate / self.attainable(intensity)
        return byte_rate / self.bytes if byte_rate is not None else None


def ceilings(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, *, refresh: bool = False) -> Ceilings:
    """Measure what a device can do: a large matrix product and a large copy, the best of several, about a second.

    The result is kept in a file of the user's cache directory, for this device, dtype, number of threads and version of torch;
    and for float32 on CUDA, for whether PyTorch is allowed to multiply in TF32. On a GPU, measure what the model computes in.

    Args:
        device: the device to measure, such as ``"cuda"``: work is timed until the device is done with it.
        dtype: a floating-point dtype, of the matrices.
        refresh: measure again.

    Raises:
        ArgumentError: the device is not there, or cannot multiply matrices of this dtype.

    Example:
        >>> print(torchprof.by_op(prof.trace, ceilings=torchprof.ceilings()))
        >>> print(torchprof.gpu(prof.trace, ceilings=torchprof.ceilings("cuda", torch.bfloat16)))
    """
    try:
        where = torch.device(device)
        name = _device_name(where)
        threads = torch.get_num_threads() if where.type == "cpu" else 0
        key = f"{name} | {_precision(where, dtype)} | {threads} threads | torch {torch.__version__}"
        known = _read()
        if key in known and not refresh:
            return Ceilings(**known[key])
        measured = Ceilings(name, str(dtype).removeprefix("torch."), threads, _matmul(where, dtype), _copy(where))
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ArgumentError(f"device={device!r}, dtype={dtype!r} cannot be measured: {str(error).splitlines()[0]}") from None
    _write({**known, key: asdict(measured)})
    return measured


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        try:
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        except (OSError, StopIteration):
            return platform.processor() or platform.machine()
    return str(device)


def _precision(device: torch.device, dtype: torch.dtype) -> str:
    """The dtype, and ``tf32`` where matrices of float32 are multiplied with less precision, several times as fast."""
    name = str(dtype).removeprefix("torch.")
    tf32 = dtype == torch.float32 and device.type == "cuda" and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return f"{name}, tf32" if tf32 else name


def _matmul(device: torch.device, dtype: torch.dtype) -> float:
    size = 2048 if device.type == "cpu" else 8192
    a, b = torch.ones(size, size, dtype=dtype, device=device), torch.ones(size, size, dtype=dtype, device=device)
    with torch.no_grad():
        return 2 * size**3 / _best(lambda: a @ b, device)


def _copy(device: torch.device) -> float:
    count = 2**26 if device.type == "cpu" else 2**30
    a, b = (torch.zeros(count, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * count / _best(lambda: b.copy_(a), device)


def _best(work: Callable[[], object], device: torch.device) -> float:
    def run() -> float:
        begin = time.perf_counter()
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter() - begin

    run()
    return min(run() for _ in range(8))


def _file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torchprof" / "ceilings.json"


def _read() -> dict[str, dict[str, Any]]:
    try:
        known = json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(known: dict[str, dict[str, Any]]) -> None:
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        _file().write_text(json.dumps(known, indent=1))
    except OSError:
        pass  # measured again next time
