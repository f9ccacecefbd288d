"""``torch.cuda`` in a program: what is known of the GPU is answered, what only a GPU could tell is an error that names it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, NoReturn

import torch

from torchprof.allocator.gpus import GPUS
from torchprof.errors import EstimateError
from torchprof.estimation.fake.callers import forget_remarks, in_an_estimate, remark, remarked, replaced
from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.sharding.hosts import ranks_of_a_host
from torchprof.estimation.target import Target
from torchprof.trace.trace import Trace

DOES_NOTHING: Final = (
    "synchronize ipc_collect init reset_peak_memory_stats reset_max_memory_allocated "
    "reset_max_memory_cached reset_accumulated_memory_stats set_rng_state set_rng_state_all set_sync_debug_mode "
    "manual_seed manual_seed_all seed seed_all"
).split()
NEEDS_A_GPU: Final = (
    "memory_allocated max_memory_allocated memory_reserved max_memory_reserved memory_cached max_memory_cached memory_stats "
    "memory_snapshot memory_summary mem_get_info device_memory_used memory_usage utilization temperature power_draw clock_rate "
    "list_gpu_processes current_blas_handle cudart CUDAGraph graph make_graphed_callables"
).split()
CHANGES_MEMORY: Final = ("empty_cache", "stream", "set_stream")
"""Functions that change what the allocator reserves, which is simulated as without them."""
IN_FORWARD: Final = "another stream in forward"
"""What is remarked where the program computes what it needs gradients of on a stream that is known by its number."""
STATE_BYTES: Final = 16
"""Of a random number generator: a seed and an offset, on the host."""


@rule(
    Kind.PATCH,
    "torch.cuda",
    on="cuda",
    when="the program asks for the GPU: there is one, and in a world of ranks one for each rank of the host",
    source="torch/cuda/__init__.py, torch/cuda/memory.py and torch/cuda/streams.py",
)
@contextmanager
def cuda_queries(target: Target) -> Iterator[None]:
    """``torch.cuda`` answers as on the target, until the block ends."""
    forget_remarks()
    with ExitStack() as stack:
        for name, answer in _answers(target).items():
            if hasattr(torch.cuda, name):
                stack.enter_context(replaced(torch.cuda, name, in_an_estimate(getattr(torch.cuda, name), answer)))
        for name in ("range_push", "range_pop", "range_start", "range_end", "mark"):
            nvtx = torch.cuda.nvtx
            stack.enter_context(replaced(nvtx, name, in_an_estimate(getattr(nvtx, name), lambda *args: 0)))
        yield


def _answers(target: Target) -> dict[str, Callable[..., Any]]:
    capability, chosen = target.capability, _Chosen()
    known: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": _count,
        "current_device": chosen.current,
        "set_device": chosen.choose,
        "get_device_capability": _of_the_only(lambda: capability),
        "get_device_name": _of_the_only(lambda: Properties(target).name),
        "get_device_properties": _of_the_only(lambda: Properties(target)),
        "is_bf16_supported": lambda including_emulation=True: including_emulation or capability >= (8, 0),
        "is_current_stream_capturing": lambda: False,
        "is_tf32_supported": lambda: target.has_tf32,
        "initial_seed": torch.initial_seed,  # torch.manual_seed gives all devices the same
        "get_rng_state": lambda device="cuda": _host_bytes(),
        "get_rng_state_all": lambda: [_host_bytes()],
        "device": InPlace,
        "device_of": InPlace,
        "Stream": InPlace,
        "ExternalStream": InPlace,
        "Event": Event,
        "stream": InPlace,
        "StreamContext": InPlace,
        "current_stream": InPlace,
        "default_stream": InPlace,
    }
    known.update({name: lambda *args, **options: None for name in DOES_NOTHING})
    known.update({name: _noted(name, known.get(name, lambda *args: None)) for name in CHANGES_MEMORY})
    known.update({name: refusing(f"torch.cuda.{name}") for name in NEEDS_A_GPU})
    return known


def _host_bytes() -> torch.Tensor:
    return torch.zeros(STATE_BYTES, dtype=torch.uint8)


def _of_the_only(answer: Callable[[], Any]) -> Callable[..., Any]:
    def of_device(device: Any = None) -> Any:
        _only(device)
        return answer()

    return of_device


def _only(device: Any) -> None:
    """Raises where this is not the first GPU. A rank of many has one of those of its host, by its number there."""
    index = _number(device)
    if not _are_ranks() and index not in (None, 0, -1):
        raise EstimateError(
            f"the program asks for GPU {index}, and an estimate is for one, 'cuda:0': leave it out with a step= of your own"
        )


def _number(device: Any) -> int | None:
    return device if isinstance(device, int) else torch.device(device).index if device is not None else None


def _are_ranks() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _count() -> int:
    """How many GPUs there are: one for each rank on the host, in a world that the estimate has made."""
    of_estimate = _are_ranks() and torch.distributed.get_backend() == "fake"
    return ranks_of_a_host(torch.distributed.get_world_size()) if of_estimate else 1


class _Chosen:
    """The GPU that a program has chosen, by its number on the host."""

    def __init__(self) -> None:
        self._number = 0

    def choose(self, device: Any) -> None:
        _only(device)
        number = _number(device)
        if number is not None and number >= 0:
            self._number = number

    def current(self) -> int:
        return self._number


def _noted(name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
    """The same, which stands in the trace."""

    def call(*args: Any, **options: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            remark(f"torch.cuda.{name}")
            return answer(*args, **options)
        with torch.profiler.record_function(f"torch.cuda.{name}"):
            return answer(*args, **options)

    return call


def refusing(name: str) -> Callable[..., NoReturn]:
    """A function in place of one that has no answer without a GPU."""

    def refuse(*args: Any, **options: Any) -> NoReturn:
        raise EstimateError(
            f"the program calls {name}, which only a GPU can answer: leave it out with a step= of your own. "
            "The device, its name, capability and memory, streams and events are known"
        )

    return refuse


class Properties:
    """What is known of a GPU, as ``torch.cuda.get_device_properties`` returns it."""

    def __init__(self, target: Target) -> None:
        self.major, self.minor = target.capability
        self.multi_processor_count = target.multiprocessors
        if target.here is not None:
            self.name, self.total_memory = target.here.name, target.here.memory
        elif target.gpu is not None:
            self.name, self.total_memory = f"NVIDIA {target.gpu}", GPUS[target.gpu]
        elif target.memory is not None:
            self.total_memory = target.memory

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        way_out = "name the GPU with capacity=" if name in ("name", "total_memory") else "leave it out with a step= of your own"
        raise EstimateError(f"the program asks for {name!r} of the GPU, which is not known: {way_out}")


class InOrder:
    """A stream, in which all is done at once and in order: nobody has to wait."""

    def wait_stream(self, stream: Any) -> None:
        """There is nothing to wait for."""

    def wait_event(self, event: Any) -> None:
        """There is nothing to wait for."""

    def synchronize(self) -> None:
        """There is nothing to wait for."""

    def record_event(self, event: Any = None) -> Any:
        return event or Event()

    def query(self) -> bool:
        return True

    def is_capturing(self) -> bool:
        """No graph is made of what it does."""
        return False


class InPlace(InOrder):
    """A stream, or a block in which another stream or device is the current one."""

    cuda_stream, stream_id, device_index, idx, prev_idx = 0, 0, 0, 0, 0

    def __init__(self, *args: Any, **options: Any) -> None:
        self.device = torch.device("cuda", 0)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        return None


class Event:
    """An event: it has happened."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.device = torch.device("cuda", 0)

    def record(self, stream: Any = None) -> None:
        """It has happened."""

    def wait(self, stream: Any = None) -> None:
        """It has happened."""

    def synchronize(self) -> None:
        """It has happened."""

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: Any) -> float:
        return refusing("torch.cuda.Event.elapsed_time")()


@rule(
    Kind.NOTE,
    "torch.cuda.empty_cache",
    "torch.cuda.stream",
    on="cuda",
    when="the program empties the allocator's cache, or uses other streams, which have numbers only in a world of ranks",
    source="release_cached_blocks and get_pool in c10/cuda/CUDACachingAllocator.cpp: a block is for one stream",
)
def cuda_reserved(trace: Trace, target: Target) -> str | None:
    called = [f"torch.cuda.{name}" for name in CHANGES_MEMORY if f"torch.cuda.{name}" in {*trace.strings, *remarked()}]
    said = [f"what {', '.join(called)} changes of what is reserved"] if called else []
    if IN_FORWARD in remarked():
        said.append("blocks of backward on the stream that forward ran on: they count on the one that backward is called on")
    return "; ".join(said) or None
