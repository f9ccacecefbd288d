"""Inputs made from sizes, and the caller's own data."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from transformers import BatchEncoding, DynamicCache
from transformers.modeling_outputs import BaseModelOutput

from torchprof import ArgumentError, ModuleTypeError
from torchprof.record.inputs import Inputs, make_inputs
from torchprof.record.nested import find_tensors


def made(input_size: Any = None, **options: Any) -> Inputs | None:
    defaults = {"batch_size": None, "input_data": None, "dtypes": None, "device": None}
    return make_inputs(options.pop("model", nn.Identity()), input_size, **{**defaults, **options})


def shapes(inputs: Inputs | None) -> list[tuple[int, ...]]:
    assert inputs is not None
    return [tuple(tensor.shape) for tensor in inputs.tensors()]


@pytest.mark.parametrize(
    ("size", "batch", "expected"),
    [
        ((3, 4), None, [(3, 4)]),
        ([3, 4], None, [(3, 4)]),
        (torch.Size([3, 4]), None, [(3, 4)]),
        ((3, 4), 5, [(5, 3, 4)]),
        ((3, 4), -1, [(2, 3, 4)]),
        ([(3,), (4, 5)], 2, [(2, 3), (2, 4, 5)]),
        ([(3,)], None, [(3,)]),
        ((), None, [()]),
        ((), 2, [(2,)]),
        ((0, 3), None, [(0, 3)]),
    ],
)
def test_sizes_become_tensors_of_these_shapes(size: Any, batch: int | None, expected: list[tuple[int, ...]]) -> None:
    assert shapes(made(size, batch_size=batch)) == expected


def test_nothing_given_means_nothing_to_run() -> None:
    assert made() is None


def test_floats_are_random_and_integers_are_valid_indices() -> None:
    inputs = made([(2, 3), (2,)], dtypes=[torch.float64, torch.long])
    assert inputs is not None
    assert inputs.args[0].dtype == torch.float64
    assert 0 <= inputs.args[0].min() < inputs.args[0].max() < 1
    assert inputs.args[1].tolist() == [0, 0]


@pytest.mark.parametrize("name", ["float16", "bfloat16", "complex64", "bool", "uint8", "float8_e4m3fn"])
def test_inputs_of_every_dtype_can_be_made(name: str) -> None:
    dtype = getattr(torch, name)
    inputs = made((2, 3), dtypes=dtype)
    assert inputs is not None
    assert inputs.args[0].dtype == dtype


def test_inputs_are_made_where_the_model_is() -> None:
    inputs = made((2, 3), model=nn.Linear(3, 3, device="meta"))
    assert inputs is not None
    assert inputs.args[0].is_meta


def test_data_is_moved_only_when_a_device_is_named() -> None:
    x = torch.ones(2)
    kept, moved = made(input_data=[x]), made(input_data=[x], device="meta")
    assert kept is not None
    assert kept.args[0] is x
    assert moved is not None
    assert moved.args[0].is_meta


def test_data_inside_containers_is_moved_and_containers_keep_their_type() -> None:
    Pair = namedtuple("Pair", "a b")
    inputs = made(input_data={"x": [torch.ones(1), {"y": Pair(torch.ones(2), "text")}]}, device="meta")
    assert inputs is not None
    pair = inputs.kwargs["x"][1]["y"]
    assert isinstance(pair, Pair)
    assert (pair.a.is_meta, pair.b) == (True, "text")


def test_a_device_that_is_not_here_is_named() -> None:
    with pytest.raises(ArgumentError, match="xpu"):
        made((2, 3), device="xpu")


def test_a_tensor_among_the_sizes_points_to_input_data_and_to_its_shape() -> None:
    with pytest.raises(ArgumentError, match=r"input_data=, or the shape of a tensor, tensor\.shape"):
        made((torch.ones(2), 3))


# Sizes


def test_whole_numbers_of_other_kinds_are_sizes() -> None:
    assert shapes(made((np.int64(3), np.int32(4)), batch_size=np.int64(5))) == [(5, 3, 4)]
    assert shapes(made([torch.Size([3]), torch.Size([4, 5])], batch_size=2)) == [(2, 3), (2, 4, 5)]
    assert shapes(made(torch.Size([]))) == [()]
    inputs = made((np.int64(3),))
    assert inputs is not None
    assert type(inputs.args[0].shape[0]) is int


@pytest.mark.parametrize("value", [True, np.bool_(True), 2.0, np.float32(2), "2", None, -1])
def test_what_is_no_size_is_named(value: Any) -> None:
    with pytest.raises(ArgumentError, match="every size must be a non-negative int"):
        made((value, 3))


@pytest.mark.parametrize("value", [0, -2, True, 2.0, "2"])
def test_what_is_no_batch_size_is_named(value: Any) -> None:
    with pytest.raises(ArgumentError, match="batch_size must be a positive int"):
        made((3,), batch_size=value)


@pytest.mark.parametrize(
    "data",
    [
        torch.ones(2, 3),
        [torch.ones(2, 3), torch.ones(2)],
        (torch.ones(2, 3),),
        [[torch.ones(2)]],
        {"input_ids": torch.ones(2, 3)},
        {"sizes": (2, 3)},
        UserDict(input_ids=torch.ones(2, 3)),
        np.ones((2, 3)),
        [np.ones((2, 3))],
        pack_sequence([torch.ones(2, 3)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_data_in_place_of_sizes_points_to_input_data(data: Any) -> None:
    with pytest.raises(ArgumentError, match=r"input_size is for sizes .* give it as input_data="):
        made(data)


# Arguments


Pair = namedtuple("Pair", "a b")


@dataclasses.dataclass(frozen=True)
class Batch:
    x: Any
    label: Any = "text"


class Graph:
    def __init__(self, x: torch.Tensor) -> None:
        self.nodes = {"x": x, "name": "graph"}


class Slots:
    __slots__ = ("__private", "empty", "x")

    def __init__(self, x: torch.Tensor) -> None:
        self.x, self.__private = x, [x]

    @property
    def private(self) -> Any:
        return self.__private


class Moves:
    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def to(self, device: Any) -> Moves:
        self.x = self.x.to(device)
        return self


def packed() -> PackedSequence:
    return pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(2),
        packed,
        lambda: Pair(torch.ones(2), 3),
        lambda: Batch(torch.ones(2)),
        lambda: Graph(torch.ones(2)),
        lambda: torch.max(torch.ones(2, 2), 1),
        lambda: {torch.ones(2)},
        lambda: deque([torch.ones(2)]),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    ],
    ids="tensor packed namedtuple dataclass object structseq set deque nested".split(),
)
def test_these_are_one_argument(make: Callable[[], Any]) -> None:
    value = make()
    inputs = made(input_data=value)
    assert inputs is not None
    assert len(inputs.args) == 1
    assert inputs.args[0] is value
    assert inputs.kwargs == {}


def test_tuples_and_lists_are_positional_arguments() -> None:
    x = torch.ones(1)
    for data in ((x, {"y": x}, None), [x, {"y": x}, None]):
        inputs = made(input_data=data)
        assert inputs is not None
        assert inputs.args == (x, {"y": x}, None)


@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict, BatchEncoding, lambda data: MappingProxyType(data)])
def test_mappings_are_keyword_arguments(kind: Any) -> None:
    x = torch.ones(1)
    inputs = made(input_data=kind({"input_ids": x, "flag": True}))
    assert inputs is not None
    assert (inputs.args, inputs.kwargs) == ((), {"input_ids": x, "flag": True})
    assert inputs.kwargs["input_ids"] is x


def test_a_dict_in_a_tuple_is_one_argument() -> None:
    data = {"x": torch.ones(1), 3: torch.ones(2)}
    inputs = made(input_data=(data,))
    assert inputs is not None
    assert (inputs.args, inputs.kwargs) == ((data,), {})


def test_a_key_that_is_no_name_points_to_the_tuple() -> None:
    with pytest.raises(ArgumentError, match=r"the key 3: keys are names of keyword arguments.* input_data=\(\{\.\.\.\},\)"):
        made(input_data={3: torch.ones(1)})


def test_an_array_points_to_a_tensor_and_another_value_to_a_tuple() -> None:
    with pytest.raises(ModuleTypeError, match=r"not ndarray: torch\.as_tensor\(array\) makes a tensor of it"):
        made(input_data=np.ones(3))
    with pytest.raises(ModuleTypeError, match="not str: an argument of it stands in a tuple"):
        made(input_data="text")
    inputs = made(input_data=("text", np.ones(3)))
    assert inputs is not None
    assert inputs.args[0] == "text"


# Moving


def devices(value: Any) -> list[str]:
    return [tensor.device.type for tensor in find_tensors(value)]


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: Pair(x, [x]),
        lambda x: Batch((x, {"x": x})),
        lambda x: Graph(x),
        lambda x: Slots(x),
        lambda x: Moves(x),
        lambda x: OrderedDict(x=x),
        lambda x: UserDict(x=[x]),
        lambda x: BatchEncoding({"x": x}),
        lambda x: BaseModelOutput(last_hidden_state=x, hidden_states=(x,)),
        lambda x: defaultdict(list, x=[x]),
        lambda x: {x},
        lambda x: deque([x], 3),
        lambda x: torch.max(x, 0),
        lambda x: SimpleNamespace(x=x),
        lambda x: [x, "text", None, 3],
        lambda x: DynamicCache([(x, x)]),
    ],
    ids=(
        "tensor namedtuple dataclass object slots to ordered userdict encoding modeloutput defaultdict set deque structseq "
        "namespace list cache"
    ).split(),
)
def test_everything_with_tensors_is_moved_as_a_copy_of_its_class(make: Callable[[torch.Tensor], Any]) -> None:
    value = make(torch.ones(1, 1, 2, 2))
    inputs = made(input_data=(value,), device="meta")
    assert inputs is not None
    (there,) = inputs.args
    assert type(there) is type(value)
    assert set(devices(there)) == {"meta"}
    assert len(devices(there)) == len(devices(value))
    assert set(devices(value)) == {"cpu"}


def test_a_packed_sequence_is_moved_by_its_own_method() -> None:
    inputs = made(input_data=packed(), device="meta")
    assert inputs is not None
    (there,) = inputs.args
    assert isinstance(there, PackedSequence)
    assert (there.data.device.type, there.batch_sizes.device.type) == ("meta", "cpu")


def test_what_is_moved_keeps_what_else_it_has() -> None:
    shared = [torch.ones(2)]
    data = (
        deque([torch.ones(1)], 3),
        Slots(torch.ones(1)),
        Graph(torch.ones(1)),
        shared,
        shared,
        Batch(torch.ones(1), "label"),
    )
    inputs = made(input_data=data, device="meta")
    assert inputs is not None
    moved_deque, slots, graph, first, second, batch = inputs.args
    assert moved_deque.maxlen == 3
    assert slots.private[0].is_meta
    assert not hasattr(slots, "empty")
    assert graph.nodes["name"] == "graph"
    assert first is second
    assert batch.label == "label"


def test_modules_and_what_has_no_tensors_are_not_copied_when_data_is_moved() -> None:
    model, config = nn.Linear(2, 2), SimpleNamespace(size=3)
    inputs = made(input_data=(torch.ones(1), model, config), device="meta")
    assert inputs is not None
    assert inputs.args[1] is model
    assert inputs.args[2] is config
    assert not model.weight.is_meta


def test_data_that_contains_itself_is_moved() -> None:
    cycle: list[Any] = [torch.ones(1)]
    cycle.append(cycle)
    inputs = made(input_data=(cycle,), device="meta")
    assert inputs is not None
    (there,) = inputs.args
    assert there[0].is_meta
    assert there[1] is there
