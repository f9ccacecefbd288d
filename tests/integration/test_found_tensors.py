"""Tensors are found in whatever a module is given and returns, by recordings and by `find_tensors`, and no code of the program
runs for that."""

from __future__ import annotations

import collections
import dataclasses
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import torchprof
from torchprof.record.nested import tensors_in
from torchprof.tables.summary import Summary


class Returns(nn.Module):
    """Applies a function to the result of a layer."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self.linear(x))


def summary(function: Any, **options: Any) -> Summary:
    return torchprof.summary(Returns(function), input_data=torch.rand(2, 3), verbose=0, **options)


class Shy:
    """Whatever is asked of it runs code."""

    def __init__(self, **attributes: Any) -> None:
        object.__getattribute__(self, "__dict__").update(attributes)

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("it was iterated over")

    def __eq__(self, other: object) -> bool:
        raise AssertionError("it was compared")

    def __hash__(self) -> int:
        raise AssertionError("it was hashed")

    @property
    def data(self) -> Any:
        raise AssertionError("a property was read")


class ShyDict(dict[Any, Any]):
    def values(self) -> Any:
        raise AssertionError("values() was called")

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("it was iterated over")

    def __getitem__(self, key: Any) -> Any:
        raise AssertionError("an item was asked for")


class Slots:
    __slots__ = ("__private", "empty", "first")

    def __init__(self, first: Any, private: Any) -> None:
        self.first, self.__private = first, private


class SlotsAndMore(Slots):
    def __init__(self, first: Any, private: Any, more: Any) -> None:
        super().__init__(first, private)
        self.more = more


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    logits: Any
    hidden: Any = None


class ListWithAttributes(list[Any]):
    pass


Pair = collections.namedtuple("Pair", "a b")

A, B, C = torch.rand(1), torch.rand(2), torch.rand(3)


def with_cycle() -> list[Any]:
    cycle: list[Any] = [A]
    cycle.append(cycle)
    return [cycle, B]


def linked() -> Shy:
    shy = Shy(tensor=A)
    object.__getattribute__(shy, "__dict__")["itself"] = [shy]
    return shy


def list_with_attributes() -> ListWithAttributes:
    value = ListWithAttributes([A])
    value.same, value.other = A, B  # type: ignore[attr-defined]
    return value


def deep() -> Any:
    value: Any = A
    for _ in range(150):
        value = [value]
    return value


OBJECTS: dict[str, tuple[Any, list[torch.Tensor]]] = {
    "tensor": (A, [A]),
    "tuple": ((A, [B, {"c": C}]), [A, B, C]),
    "twice": ([A, A], [A, A]),
    "namedtuple": (Pair(A, B), [A, B]),
    "dict with methods": (ShyDict(a=A, b=B), [A, B]),
    "ordered": (collections.OrderedDict(a=A, b=B), [A, B]),
    "default": (collections.defaultdict(list, a=A), [A]),
    "user dict": (collections.UserDict(a=A, b=[B]), [A, B]),
    "user list": (collections.UserList([A, B]), [A, B]),
    "chain map": (collections.ChainMap({"a": A}, {"b": B}), [A, B]),
    "deque": (collections.deque([A, B]), [A, B]),
    "set": ({A}, [A]),
    "frozenset": (frozenset([A]), [A]),
    "values": ({"a": A, "b": B}.values(), [A, B]),
    "items": ({"a": A, "b": B}.items(), [A, B]),
    "mapping proxy": (types.MappingProxyType({"a": A}), [A]),
    "namespace": (types.SimpleNamespace(a=A, b=(B,)), [A, B]),
    "dataclass": (Output(A, [B]), [A, B]),
    "structseq": (torch.return_types.max([A, B]), [A, B]),
    "packed": (pack_sequence([A, A]), None),  # type: ignore[dict-item]
    "object": (Shy(a=A, b=[B], name="x", number=3), [A, B]),
    "object once": (Shy(a=A, again=A), [A]),
    "objects in objects": (Shy(a=Shy(b=A), c=B), [A, B]),
    "objects after containers": ((Shy(a=A), B), [B, A]),
    "slots": (Slots(A, [B]), [A, B]),
    "slots and more": (SlotsAndMore(A, B, C), [A, B, C]),
    "list with attributes": (list_with_attributes(), [A, B]),
    "cycle": (with_cycle(), [A, B]),
    "cycle of an object": (linked(), [A]),
    "deep": (deep(), [A]),
    "distribution": (torch.distributions.Normal(B, B + 1), None),  # type: ignore[dict-item]
    "independent": (torch.distributions.Independent(torch.distributions.Normal(B, B + 1), 1), None),  # type: ignore[dict-item]
    "none": (None, []),
    "plain values": ([1, "two", 3.0, torch.float32, torch.device("cpu"), torch.Size([2]), slice(1), ..., int], []),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_tensors_of_a_result_are_found(name: str) -> None:
    value, expected = OBJECTS[name]
    found = tensors_in(value)
    assert found.unread == []
    if expected is not None:
        assert sorted(map(id, found.tensors)) == sorted(map(id, expected))
    else:
        assert len(found.tensors) == 2
    # What a recording sees is the same.
    row = torchprof.summary(Returns(lambda x: value), input_data=torch.rand(2, 3), verbose=0).rows[0]
    shapes = tuple(shape for shape in row.output_shapes if not isinstance(shape, str))
    assert shapes == tuple(tuple(tensor.shape) for tensor in found.tensors)
    assert row.output_bytes == sum(tensor.nbytes for tensor in found.tensors)


@pytest.mark.parametrize("name", [name for name in OBJECTS if name not in ("set", "frozenset", "slots", "slots and more")])
def test_the_order_is_that_of_the_container_and_then_that_of_attributes(name: str) -> None:
    value, expected = OBJECTS[name]
    if expected is not None:
        assert [id(tensor) for tensor in tensors_in(value).tensors] == [id(tensor) for tensor in expected]


def test_tensors_of_arguments_are_found_in_objects_too() -> None:
    model = nn.Module()
    model.forward = lambda graph, scale=None: graph  # type: ignore[method-assign]
    row = torchprof.summary(model, input_data={"graph": Shy(x=B, edges=[C]), "scale": A}, verbose=0).rows[0]
    assert row.input_shapes == ((1,), (2,), (3,))
    assert row.inputs_in_objects == 2


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ((x for x in [A]), "generator"),
        (iter([A]), "list_iterator"),
        (map(torch.neg, [A]), "map"),
        (lambda: A, "function"),
        (nn.Linear(2, 2), "Linear"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_looked_into_stands_in_the_cell_and_its_bytes_are_unknown(value: Any, name: str) -> None:
    assert tensors_in(value).unread == [name]
    found = summary(lambda x: (x, value))
    assert found.rows[0].output_shapes == ((2, 3), name)
    assert found.rows[0].output_bytes is None
    line = str(found).splitlines()[3]
    assert f"[2, 3], {name}" in line
    assert " ? " in line
    assert found.totals.saved is None
    assert f"Saved for backward: unknown (the result has a {name} in it, which cannot be looked into)" in str(found)


def test_a_generator_stays_as_it_was() -> None:
    kept: list[Any] = []
    summary(lambda x: kept.append(iter([1, 2, 3])) or kept[0])
    assert list(kept[0]) == [1, 2, 3]


@pytest.mark.parametrize(
    ("make", "name"),
    [(lambda: 3.5, "float"), (lambda: "text", "str"), (lambda: {}, "dict"), (lambda: Shy(name="x"), "Shy")],
    ids="float str dict object".split(),
)
def test_a_result_without_tensors_is_named_by_its_class_and_takes_nothing(make: Any, name: str) -> None:
    row = summary(lambda x: make()).rows[0]
    assert (row.output_shapes, row.output_bytes) == ((name,), 0)


def test_a_result_of_none_has_no_shape() -> None:
    row = summary(lambda x: None).rows[0]
    assert (row.output_shapes, row.output_bytes) == ((), 0)


def test_more_tensors_than_are_read_are_said_to_be_there() -> None:
    row = summary(lambda x: [A] * 5000).rows[0]
    assert (len(row.output_shapes), row.output_shapes[-1], row.output_bytes) == (4097, "list", None)


def test_lists_that_are_too_deep_are_said_to_be_there() -> None:
    value: Any = A
    for _ in range(1000):
        value = [value]
    row = summary(lambda x: value).rows[0]
    assert (row.output_shapes, row.output_bytes) == (("list",), None)


def test_long_lists_of_numbers_are_no_problem() -> None:
    row = summary(lambda x: [list(range(100_000)), x]).rows[0]
    assert (row.output_shapes, row.output_bytes) == (((2, 3),), 24)


# What autograd keeps


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: Shy(hidden=x),
        lambda x: [Output(x)],
        lambda x: torch.distributions.Normal(x, torch.ones(3)),
        lambda x: collections.deque([x]),
    ],
    ids=["tensor", "object", "dataclass", "distribution", "deque"],
)
@pytest.mark.parametrize("backward", [False, True])
def test_what_autograd_keeps_does_not_depend_on_what_the_result_is_in(wrap: Any, backward: bool) -> None:
    found = summary(lambda x: wrap(x.exp().sin()), backward=backward)
    # The input of the layer, and what exp() and sin() were given or returned: y = exp(x) is both.
    assert found.totals.saved == 2 * 3 * 4 * 2


def test_a_result_that_something_refers_to_is_not_let_go_of_and_what_is_kept_is_unknown() -> None:
    kept: list[Any] = []
    found = summary(lambda x: kept.append(x.exp().sin()) or kept[-1])
    assert found.totals.saved is None
    assert "Saved for backward: unknown (something still refers to the result)" in str(found)
    kept[0].sum().backward()  # the graph is whole


def test_a_part_of_the_graph_that_something_refers_to_is_noticed_as_well() -> None:
    kept: list[Any] = []

    def function(x: torch.Tensor) -> torch.Tensor:
        kept.append(x.exp())
        return kept[-1].sin()

    assert summary(function).totals.saved is None
    assert summary(function, backward=True).totals.saved is None


def test_a_result_in_a_cycle_is_not_let_go_of() -> None:
    def function(x: torch.Tensor) -> Any:
        value = types.SimpleNamespace(x=x.exp())
        value.itself = value
        return value

    assert summary(function).totals.saved is None


def test_without_grad_nothing_is_kept_whatever_is_returned() -> None:
    with torch.no_grad():
        assert summary(lambda x: (y for y in [x])).totals.saved == 0


def test_an_inner_graph_from_before_does_not_matter() -> None:
    before = (nn.Parameter(torch.rand(3)) * 2).exp()
    assert summary(lambda x: x + before).totals.saved == 2 * 3 * 4


def test_siblings_that_are_given_a_growing_cache_fold() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor, cache: Any) -> torch.Tensor:
            cache.layers.append(x)
            return self.linear(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Block() for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            cache = types.SimpleNamespace(layers=[])
            for block in self.blocks:
                x = block(x, cache)
            return x

    rows = torchprof.summary(Net(), (2, 3), fold=True, verbose=0).rows
    assert [(row.name, row.copies) for row in rows[2:]] == [("0..3", 4), ("linear", 1)]


def test_a_large_cache_is_read_in_full_where_the_model_is_given_it_and_in_part_inside() -> None:
    class Inner(nn.Module):
        def forward(self, x: torch.Tensor, cache: Any) -> torch.Tensor:
            return x

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, x: torch.Tensor, cache: Any) -> torch.Tensor:
            result: torch.Tensor = self.inner(x, cache)
            return result

    outer, inner = torchprof.summary(
        Outer(), input_data=(A, Shy(layers=[B] * 3 + [torch.rand(3) for _ in range(99)])), verbose=0
    ).rows
    assert outer.input_shapes == ((1,), (2,), *[(3,)] * 99)
    assert inner.input_shapes == ((1,), (2,), *[(3,)] * 15, "list")
    assert (outer.inputs_in_objects, inner.inputs_in_objects) == (100, 17)


def test_backward_starts_from_an_object_only_where_there_is_nothing_else() -> None:
    class Net(nn.Module):
        def __init__(self, alone: bool) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.alone = alone

        def forward(self, x: torch.Tensor) -> Any:
            cache = Shy(layers=[self.first(x)])
            return cache if self.alone else (self.second(x), cache)

    def differentiated(alone: bool) -> list[str]:
        rows = torchprof.summary(Net(alone), (2, 3), backward=True, verbose=0).rows
        return [row.path for row in rows[1:] if row.backward]

    assert differentiated(alone=True) == ["first"]
    assert differentiated(alone=False) == ["second"]
