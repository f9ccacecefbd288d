"""Whatever forward does to a model is put back after a summary, or a warning names it."""

from __future__ import annotations

import contextlib
import random
import threading
import warnings
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import torchprof

Write = Callable[["Written", Tensor], object]


class Written(nn.Module):
    """Has a tensor of every kind, and does to itself what it is told."""

    def __init__(self, write: Write | None = None) -> None:
        super().__init__()
        self.write = write
        self.layer = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.layer.weight
        self.norm = nn.BatchNorm1d(4)
        self.bare = nn.Parameter(torch.arange(6.0).view(2, 3))
        self.flat = torch.arange(8.0)
        self.part = nn.Parameter(self.flat[2:6].view(2, 2))
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("large", torch.zeros(2**19))  # 2 MiB: not copied beforehand
        self.register_buffer("shown", torch.ones(3).expand(5, 3))
        self.register_buffer("none", None)
        self.cache = torch.zeros(3)
        self.queue = [torch.zeros(2)]
        self.nested = {"a": [{"b": torch.ones(2)}], "c": deque([1, 2], maxlen=3), "d": {1, 2}, "e": OrderedDict(x=1, y=2)}
        self.counts: defaultdict[str, int] = defaultdict(int)
        self.hidden = [nn.Linear(2, 2)]
        self.generator = torch.Generator().manual_seed(3)
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.tied(torch.relu(self.layer(x))))
        if self.write is not None:
            with torch.no_grad():
                self.write(self, x)
        return y


def looks(tensor: Tensor | None) -> Any:
    """All that there is to a tensor."""
    if tensor is None:
        return None
    plain = tensor.detach()
    dense = plain.to_dense() if plain.layout != torch.strided else plain
    return {
        "id": id(tensor),
        "type": type(tensor),
        "elements": dense.tolist() if tensor.device.type != "meta" else None,
        "shape": (tensor.shape, tensor.dtype, tensor.layout),
        "strides": (tensor.stride(), tensor.storage_offset()) if tensor.layout == torch.strided else None,
        "storage": tensor.untyped_storage().nbytes() if tensor.layout == torch.strided else None,
        "version": None if tensor.is_inference() else tensor._version,
        "requires_grad": (tensor.requires_grad, tensor.is_leaf, tensor.grad_fn),
        "grad": looks(tensor.grad) if tensor.is_leaf else None,
        "hooks": [len(hooks) for hooks in (tensor._backward_hooks, tensor._post_accumulate_grad_hooks) if hooks],
        "attributes": dict(vars(tensor)),
    }


def everything(value: Any) -> Any:
    """What a module, a container or a tensor consists of, found independently of the recorder."""
    if isinstance(value, Tensor):
        return looks(value)
    if isinstance(value, nn.Module):
        return type(value), id(value), [(name, everything(held)) for name, held in vars(value).items()]
    if isinstance(value, dict):
        return id(value), [(name, everything(held)) for name, held in value.items()]
    if isinstance(value, list | tuple | deque | set):
        return type(value), None if isinstance(value, tuple) else id(value), [everything(held) for held in value]
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    return value


def momentum(model: Written, x: Tensor) -> None:
    model.layer.bias.data = model.layer.bias.data * 0.9 + model.norm.bias.data * 0.1 + 1


def parameters_from_vector(model: Written, x: Tensor) -> None:
    nn.utils.vector_to_parameters(torch.ones(sum(p.numel() for p in model.parameters())), model.parameters())


def backward_inside(model: Written, x: Tensor) -> None:
    with torch.enable_grad():
        model.layer(x).sum().backward()


def step_inside(model: Written, x: Tensor) -> None:
    backward_inside(model, x)
    torch.optim.Adam(model.parameters()).step()
    torch.optim.SGD(model.parameters(), lr=1.0, foreach=True).step()


def buffer_with_history(model: Written, x: Tensor) -> None:
    with torch.enable_grad():
        model.steps.add_(model.layer.bias.sum())


def in_other_thread(model: Written, x: Tensor) -> None:
    def run() -> None:
        with torch.no_grad():
            model.bare.add_(1)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def removes_batch_norm(model: Written, x: Tensor) -> None:
    del model.norm
    model.norm = nn.BatchNorm1d(5)


def replaces_parameter(model: Written, x: Tensor) -> None:
    model.bare = nn.Parameter(torch.ones(2))
    model.bare.mul_(3)


WRITES: dict[str, Write] = {
    "a momentum encoder": momentum,
    "mul_": lambda model, x: model.bare.mul_(2),
    "mul_ through data": lambda model, x: model.bare.data.mul_(2),
    "mul_ through detach": lambda model, x: model.bare.detach().mul_(2),
    "mul_ through a view": lambda model, x: model.bare.view(-1)[1:3].mul_(2),
    "an element": lambda model, x: model.bare.__setitem__((0, 0), 7.0),
    "a mask": lambda model, x: model.bare.__setitem__(model.bare > 2, 7.0),
    "copy_": lambda model, x: model.tied.weight.copy_(torch.ones(4, 4)),
    "out=": lambda model, x: torch.add(model.bare, 1, out=model.bare.data),
    "foreach": lambda model, x: torch._foreach_add_(list(model.parameters()), 1.0),
    "foreach through data": lambda model, x: torch._foreach_mul_([p.data for p in model.parameters()], 0.0),
    "numpy and back": lambda model, x: torch.from_numpy(model.bare.detach().numpy()[1:]).fill_(5),
    "init": lambda model, x: nn.init.normal_(model.bare),
    "data of another size": lambda model, x: setattr(model.bare, "data", torch.ones(5)),
    "data of another dtype": lambda model, x: setattr(model.bare, "data", model.bare.data.double()),
    "data that is transposed": lambda model, x: setattr(model.bare, "data", model.bare.data.t()),
    "set_": lambda model, x: model.bare.set_(torch.ones(7)),
    "t_": lambda model, x: model.large.unsqueeze_(0).t_(),
    "larger": lambda model, x: model.bare.data.resize_(40).fill_(1),
    "smaller and larger": lambda model, x: model.large.resize_(1).resize_(2**20).fill_(1),
    "a storage that moved": lambda model, x: (model.bare.untyped_storage().resize_(4000), model.bare.data.zero_()),
    "a storage that grows": lambda model, x: model.bare.untyped_storage().resize_(4000),
    "requires_grad_": lambda model, x: model.requires_grad_(False),
    "requires_grad_ of a buffer": lambda model, x: model.steps.requires_grad_(),
    "grad": lambda model, x: setattr(model.bare, "grad", torch.ones(2, 3)),
    "no grad": lambda model, x: model.zero_grad(),
    "grad in place": lambda model, x: model.layer.weight.grad.mul_(2),  # type: ignore[union-attr]
    "backward": backward_inside,
    "optimizers": step_inside,
    "vector_to_parameters": parameters_from_vector,
    "a tied parameter": lambda model, x: model.tied.weight.zero_(),
    "a view of a storage": lambda model, x: model.part.data.zero_(),
    "the storage of a view": lambda model, x: model.flat.zero_(),
    "a buffer": lambda model, x: model.steps.add_(1),
    "a large buffer": lambda model, x: model.large.add_(1),
    "a buffer that is expanded": lambda model, x: model.shown[0].add_(1),
    "a new buffer": lambda model, x: setattr(model, "steps", model.steps + 1),
    "a buffer that was None": lambda model, x: setattr(model, "none", x),
    "a buffer with history": buffer_with_history,
    "data of a buffer": lambda model, x: setattr(model.steps, "data", torch.ones(3)),
    "a tensor attribute": lambda model, x: model.cache.add_(1),
    "a new tensor attribute": lambda model, x: setattr(model, "cache", x),
    "a list": lambda model, x: model.queue.append(x),
    "a tensor in a list": lambda model, x: model.queue[0].add_(1),
    "a tensor deep inside": lambda model, x: model.nested["a"][0]["b"].add_(1),  # type: ignore[index]
    "a dict deep inside": lambda model, x: model.nested["a"][0].clear(),  # type: ignore[index]
    "a deque": lambda model, x: model.nested["c"].extend([4, 5]),  # type: ignore[attr-defined]
    "a set": lambda model, x: model.nested["d"].add(9),  # type: ignore[attr-defined]
    "an order": lambda model, x: model.nested["e"].move_to_end("x"),  # type: ignore[attr-defined]
    "a defaultdict": lambda model, x: model.counts["calls"],
    "a module in a list": lambda model, x: model.hidden[0].weight.zero_(),
    "a mode": lambda model, x: model.hidden[0].eval(),
    "a module": removes_batch_norm,
    "a parameter": replaces_parameter,
    "a generator": lambda model, x: torch.rand(3, generator=model.generator),
    "a hook of a module": lambda model, x: model.layer.register_forward_hook(lambda *_: None),
    "a hook of a parameter": lambda model, x: model.bare.register_hook(lambda grad: grad),
    "a hook of gradients": lambda model, x: model.bare.register_post_accumulate_grad_hook(lambda p: None),
    "an attribute of a parameter": lambda model, x: setattr(model.bare, "note", 1),
    "a class": lambda model, x: setattr(model.layer, "__class__", nn.Identity),
    "another thread": in_other_thread,
}


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Sparse CSR")
        yield


def with_gradients(model: Written) -> Written:
    model(torch.rand(3, 4)).sum().backward()
    return model


@pytest.mark.parametrize("name", WRITES)
def test_what_forward_writes_is_put_back(name: str) -> None:
    model = with_gradients(Written())
    model.write = WRITES[name]
    before = everything(model)
    torchprof.summary(model, (3, 4), verbose=0)
    assert everything(model) == before


@pytest.mark.parametrize("name", WRITES)
def test_without_a_summary_it_stays_written(name: str) -> None:
    """The test above would pass for a write that does nothing."""
    model = with_gradients(Written())
    before = everything(model)
    with torch.no_grad():
        WRITES[name](model, torch.rand(3, 4))
    assert everything(model) != before


@pytest.mark.parametrize("options", [{"warmup": 2}, {"backward": True}, {"backward": True, "warmup": 1}])
@pytest.mark.parametrize(
    "name", ["a momentum encoder", "foreach through data", "a large buffer", "grad", "a tensor deep inside"]
)
def test_it_is_put_back_after_warmup_and_backward(name: str, options: dict[str, Any]) -> None:
    model = with_gradients(Written())
    model.write = WRITES[name]
    before = everything(model)
    torchprof.summary(model, (3, 4), verbose=0, **options)
    assert everything(model) == before


@pytest.mark.parametrize("name", WRITES)
def test_it_is_put_back_where_forward_raises(name: str) -> None:
    def write_and_raise(model: Written, x: Tensor) -> None:
        WRITES[name](model, x)
        raise KeyError("on purpose")

    model = with_gradients(Written())
    model.write = write_and_raise
    before = everything(model)
    with pytest.raises(KeyError, match="on purpose"):
        torchprof.summary(model, (3, 4), verbose=0)
    assert everything(model) == before


NOT_ON_META = {"a mask", "numpy and back", "optimizers", "a generator"}


@pytest.mark.parametrize("name", [name for name in WRITES if name not in NOT_ON_META])
def test_on_meta_everything_but_elements_is_put_back(name: str) -> None:
    with torch.device("meta"):
        model = with_gradients(Written())
    model.write = WRITES[name]
    before = everything(model)
    with torch.device("meta"):
        torchprof.summary(model, (3, 4), verbose=0)
    assert everything(model) == before


@pytest.mark.parametrize("name", ["mul_", "a buffer", "a large buffer", "data of another size", "a tensor in a list"])
def test_in_inference_mode_and_for_inference_tensors(name: str) -> None:
    with torch.inference_mode():
        model = Written(WRITES[name])
        before = everything(model)
        torchprof.summary(model, (3, 4), verbose=0)
        assert everything(model) == before


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


WRITTEN_IN_TURN = [name for name in WRITES if name not in ("optimizers", "a module", "a class", "t_")]


@settings(max_examples=50, deadline=None)
@example(names=["data of another size", "mul_"])
@given(names=st.lists(st.sampled_from(WRITTEN_IN_TURN), min_size=2, max_size=8))
def test_any_sequence_of_writes_is_put_back(names: list[str]) -> None:
    def write(model: Written, x: Tensor) -> None:
        for name in names:
            with contextlib.suppress(RuntimeError, ValueError, IndexError, AttributeError, TypeError, KeyError):
                WRITES[name](model, x)  # some do not fit what others leave

    model = with_gradients(Written())
    model.write = write
    before = everything(model)
    torchprof.summary(model, (3, 4), verbose=0)
    assert everything(model) == before


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
