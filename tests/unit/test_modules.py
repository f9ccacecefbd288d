"""The module tree, read from models of every kind."""

from __future__ import annotations

import sys
from itertools import pairwise

import pytest
import torch
from torch import nn

from torchprof.record.modules import describe, is_lazy, walk
from torchprof.trace.model import Model


def test_modules_are_listed_as_named_modules_lists_them() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ModuleDict({"a": nn.ReLU()}))
    assert [(info.path, info.type, info.depth) for info in describe(model).modules] == [
        ("", "Sequential", 0),
        ("0", "Linear", 1),
        ("1", "ModuleDict", 1),
        ("1.a", "ReLU", 2),
    ]


def test_a_module_registered_twice_refers_to_its_first_place() -> None:
    layer = nn.Linear(2, 2)
    infos = describe(nn.Sequential(layer, nn.Tanh(), layer)).modules
    assert [info.same_as for info in infos] == [-1, -1, -1, 1]
    assert infos[3].parameters == ()


def test_a_parameter_shared_by_two_modules_belongs_to_the_first() -> None:
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    b.weight = a.weight
    model = describe(nn.Sequential(a, b))
    assert [p.owner for p in model.modules[2].parameters] == ["0", None]
    assert sum(p.numel for p in model.parameters()) == 4 + 2 + 2


def test_a_parameter_knows_its_size_dtype_device_and_whether_it_learns() -> None:
    layer = nn.Linear(3, 2, bias=False, dtype=torch.float16, device="meta").requires_grad_(False)
    (weight,) = describe(layer).modules[0].parameters
    assert weight == ("weight", (2, 3), "float16", "meta", 6, 12, False, None, False)


def test_a_lazy_parameter_has_no_size_yet() -> None:
    model = nn.Sequential(nn.LazyLinear(4))
    assert is_lazy(walk(model))
    assert all(p.lazy and p.numel == 0 for p in describe(model).parameters())
    model(torch.ones(1, 3))
    assert not is_lazy(walk(model))


def test_a_module_that_contains_itself_is_read_once() -> None:
    loop = nn.Sequential(nn.Tanh())
    loop.add_module("again", loop)
    assert [info.same_as for info in describe(loop).modules] == [-1, -1, 0]


def test_a_tree_survives_json() -> None:
    model = describe(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)))
    assert Model.from_json(model.to_json()) == model


def test_a_chain_of_modules_deeper_than_the_recursion_limit_raises_and_leaves_the_limit_as_it_was() -> None:
    chain = [nn.Module() for _ in range(2 * sys.getrecursionlimit())]
    for outer, inner in pairwise(chain):
        outer.child = inner
    for _ in range(3):
        with pytest.raises(RecursionError):
            describe(chain[0])
    assert len(describe(nn.Sequential(nn.Linear(2, 3))).modules) == 2
