"""A fake GPU: tests/native/fake_cupti.cpp reports kernels as CUPTI would."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

from compiled import shared_library
from torch.utils._python_dispatch import TorchDispatchMode

SYNCHRONIZE, GET_DEVICE, LAUNCH_GRAPH = 131, 17, 311  # cudaStreamSynchronize, cudaGetDevice, cudaGraphLaunch


@functools.cache
def library() -> ctypes.CDLL:
    return ctypes.CDLL(str(shared_library("fake_cupti.cpp")))


class FakeGpu:
    """Makes the fake CUPTI report work. Times are nanoseconds; methods return the correlation id of the runtime call."""

    def __init__(self) -> None:
        self._library = library()
        self._names: list[bytes] = []  # CUPTI keeps pointers to names

    def launch(self, name: str, duration: int = 1000, *, stream: int = 7, graph: int = 0, launched_by: int = 1) -> int:
        self._names.append(name.encode())
        launch: Callable[..., int] = self._library.fake_launch
        return launch(self._names[-1], ctypes.c_uint64(duration), stream, graph, launched_by)

    def call(self, cbid: int, duration: int = 0, *, driver: bool = False) -> int:
        call: Callable[..., int] = self._library.fake_call
        return call(driver, cbid, ctypes.c_uint64(duration))

    def copy(self, kind: int, source: int, destination: int, count: int, duration: int = 1000) -> int:
        copy: Callable[..., int] = self._library.fake_copy
        return copy(kind, source, destination, ctypes.c_uint64(count), ctypes.c_uint64(duration))

    def memset(self, count: int, duration: int = 1000) -> int:
        memset: Callable[..., int] = self._library.fake_memset
        return memset(ctypes.c_uint64(count), ctypes.c_uint64(duration))

    def kernel_with_times(self, start: int, end: int) -> None:
        self._library.fake_kernel_with_times(ctypes.c_uint64(start), ctypes.c_uint64(end))

    def enabled(self) -> int:
        """The number of activity kinds and runtime calls that are enabled."""
        enabled: Callable[..., int] = self._library.fake_enabled
        return enabled()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, f"fake_{name}")


class KernelForEveryOp(TorchDispatchMode):
    """Every op of the dispatcher launches one kernel, named after it."""

    def __init__(self, gpu: FakeGpu, duration: int = 1000) -> None:
        super().__init__()
        self.gpu, self.duration = gpu, duration

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.gpu.launch(f"{func._schema.name.replace('::', '_')}_kernel", self.duration)
        return func(*args, **(kwargs or {}))
