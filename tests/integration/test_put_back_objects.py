"""What forward does to objects of any class, and to modes of the process, is put back, or a warning names it."""

from __future__ import annotations

import array
import collections
import dataclasses
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchprof


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


class Loud(dict[str, int]):
    """A class of the program's, whose methods do more than those of a dict."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.sets = 0

    def __setitem__(self, key: str, value: int) -> None:
        self.sets += 1
        super().__setitem__(key, value)

    def clear(self) -> None:
        raise AssertionError("nobody may call this")


class Numbers(list[int]):
    def __len__(self) -> int:
        raise AssertionError("nobody may call this")


class Names(set[str]):
    def __iter__(self) -> Iterator[str]:
        raise AssertionError("nobody may call this")

    def add(self, name: str) -> None:
        super().add(name)

    def update(self, *names: Any) -> None:
        raise AssertionError("nobody may call this")


class Recent(collections.deque[int]):
    def clear(self) -> None:
        raise AssertionError("nobody may call this")


class Ordered(collections.OrderedDict[str, int]):
    def clear(self) -> None:
        raise AssertionError("nobody may call this")


@dataclasses.dataclass
class State:
    step: int = 0
    seen: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True)
class Slotted:
    step: int = 0
    seen: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Frozen:
    step: int = 0


class Own:
    def __init__(self) -> None:
        self.inner = State()
        self.tensor = torch.zeros(3)


class Derived(Own):
    __slots__ = ("more",)


class Calls(nn.Module):
    """Does something to what it holds whenever it is called."""

    def __init__(self, held: Any, change: Callable[[Any], object]) -> None:
        super().__init__()
        self.held = held
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        self.change(self.held)
        return x + 1


def set_step(state: Any) -> None:
    state.step += 1
    state.seen.append(7)


def change_own(own: Own) -> None:
    set_step(own.inner)
    own.tensor += 1
    own.new = 1  # type: ignore[attr-defined]


def change_derived(own: Derived) -> None:
    change_own(own)
    own.more = own.inner


HELD: dict[str, tuple[Callable[[], Any], Callable[[Any], object], Callable[[Any], Any]]] = {
    "Counter": (lambda: collections.Counter("aab"), lambda held: held.update("abc"), dict),
    "OrderedDict": (
        lambda: collections.OrderedDict(a=1, b=2),
        lambda held: held.move_to_end("a"),
        lambda held: [*held.items()],
    ),
    "defaultdict": (lambda: collections.defaultdict(int, a=1), lambda held: held["b"], dict),
    "UserDict": (lambda: collections.UserDict(a=1), lambda held: held.update(b=2), lambda held: held.data),
    "UserList": (lambda: collections.UserList([1]), lambda held: held.append(2), lambda held: held.data),
    "ChainMap": (lambda: collections.ChainMap({"a": 1}), lambda held: held.update(b=2), lambda held: held.maps),
    "a dict of ones own": (
        lambda: Loud({"a": 1}),
        lambda held: held.__setitem__("a", 2),
        lambda held: (dict.items(held), held.sets),
    ),
    "a list of ones own": (lambda: Numbers([1]), lambda held: held.append(2), lambda held: held[:]),
    "a set of ones own": (lambda: Names("a"), lambda held: held.add("b"), lambda held: set.copy(held)),
    "a deque of ones own": (lambda: Recent([1, 2], maxlen=2), lambda held: held.append(3), lambda held: [*held]),
    "an OrderedDict of ones own": (
        lambda: Ordered(a=1, b=2),
        lambda held: held.move_to_end("a"),
        lambda held: [*held.items()],
    ),
    "bytearray": (lambda: bytearray(b"abc"), lambda held: held.extend(b"d"), bytes),
    "array.array": (lambda: array.array("i", [1, 2]), lambda held: held.append(3), list),
    "an array of numpy": (lambda: np.arange(4.0), lambda held: np.multiply(held, 2, out=held), lambda held: held.tolist()),
    "a scalar of numpy": (lambda: np.array(1.0), lambda held: np.add(held, 2, out=held), lambda held: held.tolist()),
    "SimpleNamespace": (lambda: types.SimpleNamespace(step=0, seen=[]), set_step, lambda held: (held.step, held.seen)),
    "a dataclass": (State, set_step, lambda held: (held.step, held.seen)),
    "a dataclass with slots": (Slotted, set_step, lambda held: (held.step, held.seen)),
    "a frozen dataclass": (Frozen, lambda held: object.__setattr__(held, "step", 1), lambda held: held.step),
    "an object": (Own, change_own, lambda held: (sorted(vars(held)), vars(held.inner), held.tensor.tolist())),
    "an object with slots": (
        Derived,
        change_derived,
        lambda held: (sorted(vars(held)), vars(held.inner), held.tensor.tolist(), hasattr(held, "more")),
    ),
    "objects in a list": (lambda: [State(), (State(),)], lambda held: set_step(held[1][0]), repr),
}


def copied(value: Any) -> str:
    return repr(value)


@pytest.mark.parametrize("name", HELD)
def test_what_forward_does_to_an_object_is_put_back(name: str) -> None:
    make, change, contents = HELD[name]
    model = Calls(make(), change)
    before, held = copied(contents(model.held)), model.held
    torchprof.summary(model, (2, 3), verbose=0, warmup=1)
    assert model.held is held
    assert copied(contents(model.held)) == before
    model(torch.rand(2, 3))
    assert copied(contents(model.held)) != before


def test_an_optimizer_that_a_module_holds_is_put_back() -> None:
    class Learns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.optimizer = torch.optim.Adam(self.layer.parameters())

        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                loss = self.layer(x).sum()
                loss.backward()
            self.optimizer.step()
            self.optimizer.param_groups[0]["lr"] = 1.0
            return self.layer(x)

    model = Learns()
    model(torch.rand(2, 3))
    weight = model.layer.weight.detach().clone()
    state = {key: value.clone() for key, value in model.optimizer.state[model.layer.weight].items()}
    model.optimizer.param_groups[0]["lr"] = 0.5
    torchprof.summary(model, (2, 3), verbose=0)
    assert torch.equal(model.layer.weight, weight)
    assert model.optimizer.param_groups[0]["lr"] == 0.5
    now = model.optimizer.state[model.layer.weight]
    assert now.keys() == state.keys()
    assert all(torch.equal(now[key], state[key]) for key in state)


def test_an_array_that_is_too_large_to_copy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchprof.record.arrays.MOST_COPIED", 16)
    model = Calls(np.zeros(4), lambda held: None)
    torchprof.summary(model, (2, 3), verbose=0)  # nothing is written
    model.change = lambda held: held.__setitem__(1, 5.0)
    with pytest.warns(UserWarning, match=r"could not be put back: ndarray of 4 elements"):
        torchprof.summary(model, (2, 3), verbose=0)


MODES: dict[str, tuple[Callable[[], Any], Callable[[], object]]] = {
    "gradients": (torch.is_grad_enabled, lambda: torch.set_grad_enabled(False)),
    "default dtype": (torch.get_default_dtype, lambda: torch.set_default_dtype(torch.float64)),
    "default device": (torch.get_default_device, lambda: torch.set_default_device("meta")),
    "threads": (torch.get_num_threads, lambda: torch.set_num_threads(torch.get_num_threads() + 1)),
    "precision": (torch.get_float32_matmul_precision, lambda: torch.set_float32_matmul_precision("high")),
    "determinism": (torch.are_deterministic_algorithms_enabled, lambda: torch.use_deterministic_algorithms(True)),
    "autocast": (lambda: torch.is_autocast_enabled("cpu"), lambda: torch.set_autocast_enabled("cpu", True)),
    "dtype of autocast": (
        lambda: torch.get_autocast_dtype("cpu"),
        lambda: torch.set_autocast_dtype("cpu", torch.float16),
    ),
    "anomalies": (torch.is_anomaly_enabled, lambda: torch.autograd.set_detect_anomaly(True)),
}


@pytest.mark.parametrize("name", MODES)
def test_a_mode_that_forward_sets_is_put_back(name: str) -> None:
    read, change = MODES[name]
    before = read()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torchprof.summary(Calls(None, lambda _: change()), (2, 3), verbose=0)
    assert read() == before


def test_memory_that_is_shared_meanwhile_is_put_back() -> None:
    model = nn.Linear(3, 3)
    before = model.weight.detach().clone()

    class Shares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = model

        def forward(self, x: Tensor) -> Tensor:
            self.layer.weight.data.share_memory_()
            return self.layer(x)

    torchprof.summary(Shares(), (2, 3), verbose=0)
    assert torch.equal(model.weight, before)
    assert not model.weight.is_shared()


def test_objects_of_pythons_own_machinery_are_left_alone() -> None:
    import threading

    class Starts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.thread = threading.Thread(target=lambda: None)

        def forward(self, x: Tensor) -> Tensor:
            self.thread.start()
            self.thread.join()
            return x

    model = Starts()
    torchprof.summary(model, (2, 3), verbose=0)
    assert not model.thread.is_alive()
    with pytest.raises(RuntimeError, match="only be started once"):
        model.thread.start()
