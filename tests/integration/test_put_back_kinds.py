"""Every kind of tensor, model and generator is put back after a summary, or a warning names it."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from written import WRITES, Written, everything

import torchprof


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Sparse CSR")
        yield


def test_only_what_is_written_is_copied(tmp_path: Path) -> None:
    """A parameter larger than any memory."""

    class Huge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.from_file(str(tmp_path / "weight"), shared=True, size=2**38))
            self.register_buffer("cache", torch.from_file(str(tmp_path / "cache"), shared=True, size=2**38))
            self.writes = False

        def forward(self, x: Tensor) -> Tensor:
            if self.writes:
                self.weight.data[7] = 5.0
            return x * self.weight[:2] + self.cache[:2]

    model = Huge()
    torchprof.summary(model, (3, 2), verbose=0)
    model.writes = True
    with pytest.warns(UserWarning, match=r"could not be put back: weight \(there is no memory for a copy\)"):
        torchprof.summary(model, (3, 2), verbose=0)
    assert model.weight[7].item() == 5.0


class Sums(nn.Module):
    """Normalizes by statistics that are no buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.variance = torch.zeros(4), torch.ones(4)
        self.mean_parameter = nn.Parameter(torch.zeros(4), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.batch_norm(x, self.mean, self.variance, training=True)
        x = nn.functional.batch_norm(x, self.mean_parameter, self.variance, training=True)
        torch.batch_norm_update_stats(x, self.mean, self.variance, 0.1)
        x = torch.native_batch_norm(x, None, None, self.mean, self.variance, True, 0.1, 1e-5)[0]
        return nn.functional.instance_norm(x[..., None].expand(-1, -1, 2), self.mean, self.variance)


def test_running_statistics_are_put_back_wherever_they_are() -> None:
    model = Sums()
    before = everything(model)
    torchprof.summary(model, (3, 4), verbose=0)
    assert everything(model) == before


def test_sparse_tensors_are_put_back() -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.coo = nn.Parameter(torch.eye(3).to_sparse())
            self.register_buffer("csr", torch.eye(3).to_sparse_csr())

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.coo.mul_(3)
                self.coo._values().add_(1)
                self.csr.values().mul_(5)
            self.coo.data = torch.zeros(4, 4).to_sparse()
            return x

    model = Sparse()
    before = everything(model)
    torchprof.summary(model, (3, 3), verbose=0)
    assert everything(model) == before


class Twice(Tensor):
    """A wrapper of two tensors, as DTensor and quantized tensors are wrappers."""

    low: Tensor
    high: Tensor

    @staticmethod
    def __new__(cls, low: Tensor, high: Tensor, requires_grad: bool = False) -> Twice:
        made: Twice = Tensor._make_wrapper_subclass(cls, low.shape, dtype=low.dtype, requires_grad=requires_grad)  # type: ignore[attr-defined]
        made.low, made.high = low, high
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["low", "high"], None

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def part(name: str) -> Any:
            return function(*[getattr(arg, name) if isinstance(arg, Twice) else arg for arg in args], **(kwargs or {}))

        low, high = part("low"), part("high")
        return args[0] if low is getattr(args[0], "low", None) else Twice(low, high)


def test_parameters_that_are_wrappers_are_put_back() -> None:
    class Wrapping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(Twice(torch.ones(3), torch.zeros(3)))

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.weight.mul_(3)
                self.weight.high.add_(1)
            return x

    model = Wrapping()
    parts = (model.weight.low, model.weight.high)
    torchprof.summary(model, (3, 3), verbose=0)
    assert (parts[0].tolist(), parts[1].tolist()) == ([1.0] * 3, [0.0] * 3)
    assert (model.weight.low is parts[0], model.weight._version, parts[0]._version) == (True, 0, 0)


def test_generators_of_every_kind_are_put_back() -> None:
    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.torch = torch.Generator().manual_seed(1)
            self.inside = {"numpy": [np.random.default_rng(2), np.random.RandomState(3)]}
            self.python = (random.Random(4), random.SystemRandom())

        def forward(self, x: Tensor) -> Tensor:
            self.draw()
            return x

        def draw(self) -> list[float]:
            generator, state = self.inside["numpy"]
            return [
                float(torch.rand(1, generator=self.torch)),
                generator.random(),  # type: ignore[union-attr]
                state.rand(),  # type: ignore[union-attr]
                self.python[0].random(),
            ]

    model, same = Drawing(), Drawing()
    torchprof.summary(model, (3,), verbose=0)
    assert model.draw() == same.draw()


def test_what_cannot_be_put_back_is_named() -> None:
    def frees(model: Written, x: Tensor) -> None:
        model.layer.bias.untyped_storage().resize_(0)
        model.layer.bias.untyped_storage().resize_(16)

    model = Written(frees)
    with pytest.warns(UserWarning, match=r"could not be put back: layer\.bias \(its memory was freed\)"):
        torchprof.summary(model, (3, 4), verbose=0)


def test_a_write_that_does_not_go_through_the_dispatcher_is_named() -> None:
    def unseen(model: Written, x: Tensor) -> None:
        model.large.numpy()[:] = 1.0
        torch.autograd.graph.increment_version(model.large)  # as kernels of an extension do

    model = Written(unseen)
    with pytest.warns(UserWarning, match=r"put back: large \(it was written without going through the dispatcher\)"):
        torchprof.summary(model, (3, 4), verbose=0)
    assert model.large._version == 1, "what was saved of it is not valid any more"


def test_a_graph_that_saved_a_parameter_is_still_good() -> None:
    model = Written(WRITES["mul_"])
    loss = (model.bare * model.bare).sum()
    torchprof.summary(model, (3, 4), verbose=0)
    loss.backward()
    assert model.bare.grad is not None
    assert model.bare.grad.tolist() == [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]


def test_the_recording_does_not_show_the_copies() -> None:
    idle, writing = (
        torchprof.summary(Written(write), (3, 4), verbose=0) for write in (None, lambda model, x: model.large.zero_())
    )
    assert writing.totals.allocated == idle.totals.allocated
    assert writing.totals.peak == idle.totals.peak


def test_a_summary_inside_a_forward_puts_back_its_own_model_only() -> None:
    inner = Written(WRITES["mul_"])

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.weight.mul_(2)
            with pytest.raises(torchprof.RecordingError):
                torchprof.summary(inner, (3, 4), verbose=0)
            with torch.no_grad():
                self.weight.mul_(2)
                inner.bare.add_(1)
            return x

    model = Outer()
    torchprof.summary(model, (3,), verbose=0)
    assert (model.weight.tolist(), model.weight._version) == ([1.0, 1.0], 0)
    assert inner.bare.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def test_what_torchscript_holds_is_put_back() -> None:
    class Scripted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))
            self.register_buffer("steps", torch.zeros(1))
            self.register_buffer("replaced", torch.ones(3))
            self.count = 0
            self.sizes = [1, 2]
            self.inner = nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            self.steps.add_(1)
            self.replaced = self.replaced * 2
            self.count += 1
            self.sizes.append(3)
            return self.inner(x) * self.weight

    warnings.simplefilter("ignore")  # TorchScript is deprecated
    model = torch.jit.script(Scripted())
    for each in (model, nn.Sequential(model)):
        torchprof.summary(each, (2, 3), verbose=0)
        assert (model.steps.tolist(), model.replaced.tolist(), model.count, model.sizes) == ([0.0], [1.0] * 3, 0, [1, 2])
        assert (model.inner.running_mean.tolist(), int(model.inner.num_batches_tracked)) == ([0.0] * 3, 0)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_what_a_compiled_model_writes_is_put_back(backend: str) -> None:
    class Compiled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))
            self.register_buffer("large", torch.zeros(2**19))

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.weight.mul_(2)
                self.large.add_(1)
            return x * self.weight

    warnings.simplefilter("ignore")
    model = Compiled()
    compiled = torch.compile(model, backend=backend)
    before = everything(model)
    torchprof.summary(compiled, (2, 3), verbose=0)
    assert everything(model) == before
    torch._dynamo.reset()


def test_a_mode_of_the_program_does_not_see_the_copies() -> None:
    class Names(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            self.weight.data.mul_(2)
            return x * 2

    model = Small()
    with Names() as mode:
        torchprof.summary(model, input_data=torch.ones(3), verbose=0)
    assert [name for name in mode.names if name not in ("ones", "detach")] == ["mul_", "mul"]
    assert model.weight.tolist() == [1.0] * 3


def test_tensors_that_are_swapped_are_named() -> None:
    def swaps(model: Written, x: Tensor) -> None:
        torch.utils.swap_tensors(model.bare, nn.Parameter(torch.zeros(2, 3)))

    with pytest.warns(UserWarning, match=r"put back: bare \(it was swapped with another tensor\)"):
        torchprof.summary(Written(swaps), (3, 4), verbose=0)


def test_what_forward_does_to_its_inputs_is_put_back() -> None:
    class Rude(nn.Module):
        def forward(self, x: Tensor, more: list[Tensor], names: dict[str, Tensor]) -> Tensor:
            x.add_(1)
            more.append(x)
            more[0].data.mul_(2)
            names.pop("y")
            return x * 2

    inputs = {"x": torch.ones(3), "more": [torch.ones(2)], "names": {"y": torch.ones(1)}}
    before = everything(inputs)
    torchprof.summary(Rude(), input_data=inputs, verbose=0)
    assert everything(inputs) == before
