"""Measures the best rates of a device, for rooflines and utilization."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from torchprof.errors import ArgumentError
from torchprof.record.cache_folder import cache_folder
from torchprof.trace.ceilings import Ceilings
from torchprof.wording import shown

__all__ = ["ceilings"]


def ceilings(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, *, refresh: bool = False) -> Ceilings:
    """Measure the best rates of a device: those of a large matrix product and of a large copy, in about a second.

    The result is cached in a file in the user's cache directory, by device, dtype, number of threads and version of torch; for
    float32 on CUDA, also by whether PyTorch may multiply in TF32. On a GPU, pass the dtype that the model computes in.

    Args:
        device: the device to measure, such as ``"cuda"``.
        dtype: a floating-point dtype, that of the matrices.
        refresh: measure again, even if there is a result in the cache.

    Raises:
        ArgumentError: there is no such device, or it cannot multiply matrices of this dtype.

    Example:
        >>> print(torchprof.by_op(prof.trace, ceilings=torchprof.ceilings()))
        >>> print(torchprof.gpu(prof.trace, ceilings=torchprof.ceilings("cuda", torch.bfloat16)))
    """
    if not isinstance(dtype, torch.dtype):
        raise ArgumentError(f"dtype={shown(dtype)} must be a torch.dtype, such as torch.float32 or torch.bfloat16")
    try:
        where = torch.device(device)
        name = _device_name(where)
        threads = torch.get_num_threads() if where.type == "cpu" else 0
        key = f"{name} | {_precision(where, dtype)} | {threads} threads | torch {torch.__version__}"
        cached = _read()
        if not refresh and (known := _known(cached.get(key))) is not None:
            return known
        measured = Ceilings(name, str(dtype).removeprefix("torch."), threads, _matmul(where, dtype), _copy(where))
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ArgumentError(
            f"device={device!r}, dtype={dtype!r} cannot be measured ({why}): name a device that is here"
        ) from None
    _write({**cached, key: asdict(measured)})
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
    """The dtype, with ``tf32`` where matrices of float32 are multiplied with less precision and several times as fast."""
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
    """The shortest time of several runs, in seconds."""

    def run() -> float:
        begin = time.perf_counter()
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter() - begin

    run()
    return min(run() for _ in range(8))


def _file() -> Path:
    return cache_folder() / "ceilings.json"


def _read() -> dict[str, dict[str, Any]]:
    try:
        cached = json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}
    return cached if isinstance(cached, dict) else {}


def _known(entry: Any) -> Ceilings | None:
    """What an entry of the cache says; None where there is none, or another program wrote it."""
    try:
        known = Ceilings(**entry)
    except TypeError:
        return None
    return known if all(isinstance(rate, int | float) for rate in (known.flops, known.bytes)) else None


def _write(cached: dict[str, dict[str, Any]]) -> None:
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        _file().write_text(json.dumps(cached, indent=1))
    except OSError:
        pass  # it is measured again next time
