"""Programs that make memory snapshots: the oracle of the allocator keeps the history, and stacks are those of PyTorch."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from oracle_allocator import Oracle

from torchprof.allocator.settings import AllocatorSettings

MIB = 2**20
TORCH = "/venv/lib/python3.11/site-packages/torch/"

Frame = dict[str, Any]
Frames = Sequence[Frame]


def frame(file: str, line: int, name: str) -> Frame:
    return {"filename": file, "line": line, "name": name}


def cpp(*names: str) -> Frames:
    return [frame("??", 0, name) for name in names]


def script(line: int) -> Frames:
    """The user's own file."""
    return [frame("/a/train.py", line, "train"), frame("/a/train.py", 99, "<module>")]


CALL = frame(f"{TORCH}nn/modules/module.py", 1784, "_call_impl")


def of_forward(layer: int, line: int = 12) -> Frames:
    inside = [frame(f"{TORCH}nn/functional.py", 9, "linear"), frame(f"{TORCH}nn/modules/linear.py", 134, "forward"), CALL]
    return [*inside, frame("/a/model.py", 20 + layer, "forward"), CALL, *script(line)]


ENGINE = cpp("torch::autograd::Engine::evaluate_function(std::shared_ptr<torch::autograd::GraphTask>&)", "start_thread")


RECORDING = cpp(
    "torch::unwind::unwind()",
    "torch::CapturedTraceback::gather(bool, bool, bool)",
    "torch::cuda::(anonymous namespace)::gather_with_cpp()",
    "c10::cuda::CUDACachingAllocator::Native::DeviceCachingAllocator::malloc(unsigned long, CUstream_st*)",
)
"""What is innermost in every stack that PyTorch records with ``stacks="all"``."""


def of_backward(node: str = "AddmmBackward0", op: str = "mm") -> Frames:
    """As with ``stacks="all"``; with ``stacks="python"``, the engine has no frames: ``[]``."""
    inside = cpp("at::detail::empty_cuda(c10::ArrayRef<long>)", f"at::_ops::{op}::call(at::Tensor const&, at::Tensor const&)")
    return [*inside, *cpp(f"torch::autograd::generated::{node}::apply(std::vector<at::Tensor>&&)"), *ENGINE]


def of_recomputation(layer: int) -> Frames:
    inside = [frame(f"{TORCH}nn/modules/linear.py", 134, "forward"), CALL, frame("/a/model.py", 20 + layer, "forward")]
    checkpoint = [frame(f"{TORCH}utils/checkpoint.py", 1124, name) for name in ("recompute_fn", "unpack_hook")]
    return [*inside, *checkpoint, *cpp("torch::autograd::generated::AddmmBackward0::apply(...)"), *ENGINE]


def of_optimizer(name: str = "_init_group", line: int = 15) -> Frames:
    inside = [frame(f"{TORCH}optim/{file}.py", 9, each) for file, each in (("adamw", name), ("adamw", "step"))]
    return [*inside, frame(f"{TORCH}optim/optimizer.py", 487, "wrapper"), *script(line)]


def of_loading() -> Frames:
    return [frame(f"{TORCH}nn/modules/module.py", 9, name) for name in ("convert", "_apply", "to")] + [*script(5)]


def of_zero_grad() -> Frames:
    return [frame(f"{TORCH}optim/optimizer.py", 990, "zero_grad"), *script(16)]


OF_CUBLAS = [*cpp("at::cuda::getNewWorkspace()", "at::cuda::getCurrentCUDABlasHandle(bool)"), *of_forward(0)]


class Program:
    """What allocates and frees, and what every block is in truth."""

    def __init__(self, text: str = "", capacity: int | None = None) -> None:
        self.oracle = Oracle(AllocatorSettings.parse(text), capacity, itertools.count(2**41, 2**41))
        self.what: dict[int, str] = {}
        """By number, of every block: its category."""
        self.address: dict[int, int] = {}
        self.at_peak: Counter[str] = Counter()
        """Bytes of blocks by category when the most was allocated."""
        self.annotations: list[dict[str, Any]] = []
        self.now = 1_700_000_000_000_000
        """Microseconds since 1970."""
        self._random = random.Random(1)
        self._frames: dict[int, Frames | None] = {}
        self._numbers = itertools.count()

    @property
    def history(self) -> list[dict[str, Any]]:
        return self.oracle.history

    def allocate(self, what: str, size: int, frames: Frames | None, metadata: str = "") -> int:
        """Allocate a block; its number."""
        number, before = next(self._numbers), len(self.history)
        assert self.oracle.allocate(number, size, 0)
        self.what[number], self._frames[number] = what, frames
        self.address[number] = self.oracle.held[number].begin
        self._say(before, frames, metadata)
        if self.oracle.allocated > self.at_peak.total():
            self.at_peak = self.held()
        return number

    def held(self) -> Counter[str]:
        """Bytes of the allocated blocks by category."""
        found: Counter[str] = Counter()
        for number, block in self.oracle.held.items():
            found[self.what[number]] += block.end - block.begin
        return found

    def free(self, *numbers: int, frames: Frames | None = None) -> None:
        for number in numbers:
            before = len(self.history)
            self.oracle.free(number)
            self._say(before, frames, "")

    @contextmanager
    def range(self, name: str) -> Iterator[None]:
        """As ``torch.profiler.record_function``."""
        for stage in ("START", "END"):
            self.now += 1
            self.annotations.append({"device": 0, "name": name, "stage": stage, "time_us": self.now})
            if stage == "START":
                yield

    def snapshot(self, first: int = 0) -> dict[str, Any]:
        """As ``torch.cuda.memory._snapshot()`` returns it, of a history that begins with this entry."""
        found = self.oracle.snapshot(self.history[first:])
        frames = {self.address[number]: self._frames[number] for number in self.oracle.held}
        for segment in found["segments"]:
            for block in segment["blocks"]:
                block["frames"] = list(frames.get(block["address"]) or ())
        return {**found, "external_annotations": self.annotations}

    def _say(self, first: int, frames: Frames | None, metadata: str) -> None:
        self.now += self._random.randint(5, 60)
        for entry in self.history[first:]:
            entry["time_us"] = self.now
            entry["user_metadata"] = metadata
            del entry["frames"]
            if frames is not None:
                entry["frames"] = list(frames)


class Training(Program):
    """A loop of four layers: parameters of 4 MiB, activations of 3."""

    LAYERS = 4

    def __init__(self, engine_is_seen: bool = True, **more: Any) -> None:
        super().__init__(**more)
        self.engine_is_seen = engine_is_seen
        self.state: list[int] = []
        self.gradients: list[int] = []
        self.batch: int | None = None
        self.loss: int | None = None
        for _ in range(self.LAYERS):
            self.allocate("parameters", 4 * MIB, of_loading())
        self.allocate("workspaces", 8 * MIB + 2**17, OF_CUBLAS)

    def in_backward(self, node: str = "AddmmBackward0") -> Frames:
        return of_backward(node) if self.engine_is_seen else []

    def forward(self) -> list[int]:
        """A batch, and the activations of the layers."""
        before = self.batch
        self.batch = self.allocate("inputs", 2 * MIB, script(11))
        if before is not None:
            self.free(before, frames=script(11))
        kept = []
        for layer in range(self.LAYERS):
            scratch = self.allocate("temporaries", MIB, of_forward(layer))
            kept.append(self.allocate("activations", 3 * MIB, of_forward(layer)))
            self.free(scratch, frames=of_forward(layer))
        return kept

    def step(self) -> None:
        kept = self.forward()
        before = self.loss
        self.loss = self.allocate("outputs", 4, script(13))
        if before is not None:
            self.free(before, frames=script(13))
        flowing = self.allocate("temporaries", 3 * MIB, self.in_backward())
        for layer in reversed(range(self.LAYERS)):
            self.gradients.append(self.allocate("gradients", 4 * MIB, self.in_backward()))
            after = self.allocate("temporaries", 3 * MIB, self.in_backward("ReluBackward0"))
            self.free(flowing, kept[layer], frames=self.in_backward())
            flowing = after
        self.free(flowing, frames=self.in_backward())
        with self.range("Optimizer.step#AdamW.step"):
            if not self.state:
                self.state = [self.allocate("optimizer state", 4 * MIB, of_optimizer()) for _ in range(2 * self.LAYERS)]
            scratch = self.allocate("temporaries", 4 * MIB, of_optimizer("_multi_tensor_adamw"))
            self.free(scratch, frames=of_optimizer("_multi_tensor_adamw"))
        with self.range("Optimizer.zero_grad#AdamW.zero_grad"):
            self.free(*self.gradients, frames=of_zero_grad())
        self.gradients.clear()
