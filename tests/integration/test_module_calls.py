"""What is recorded of every module call, against what forward hooks see of the same pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import networks
import pytest
import torch
from reading import inputs, op_names, outputs, path_of_call
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

import torchprof
from torchprof.record.nested import find_tensors
from torchprof.trace.schema import CALL_RAISED


class Returns(nn.Module):
    """Returns what it was made with."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Any, **kwargs: Any) -> Any:
        return self.make(x)


@dataclass
class Answer:
    first: Tensor
    rest: list[Tensor]
    note: str = "not a tensor"


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (lambda x: x, [(2, 3)]),
        (lambda x: (x, x[0]), [(2, 3), (3,)]),
        (lambda x: [x[0], [x]], [(3,), (2, 3)]),
        (lambda x: {"a": x, "b": {"c": x[0]}}, [(2, 3), (3,)]),
        (lambda x: Answer(x, [x[0], x[1]]), [(2, 3), (3,), (3,)]),
        (lambda x: BaseModelOutput(last_hidden_state=x, hidden_states=(x[0],)), [(2, 3), (3,)]),
        (lambda x: torch.max(x, 1), [(2,), (2,)]),
        (lambda x: None, []),
        (lambda x: "text", []),
    ],
    ids="tensor tuple list dict dataclass ModelOutput namedtuple None str".split(),
)
def test_output_tensors_are_found_wherever_they_are(make: Callable[[Tensor], Any], shapes: list[tuple[int, ...]]) -> None:
    model = Returns(make)
    with torchprof.profile(model) as prof:
        model(torch.ones(2, 3))
    (call,) = prof.trace.module_calls
    assert [shape for _, shape in outputs(prof.trace, call)] == shapes


def test_input_tensors_are_found_among_positional_and_keyword_arguments() -> None:
    model = Returns(lambda x: None)
    with torchprof.profile(model) as prof:
        model([torch.ones(1), torch.ones(2)], mask={"a": torch.ones(3)})
    assert [shape for _, shape in inputs(prof.trace, prof.trace.module_calls[0])] == [(1,), (2,), (3,)]


@pytest.mark.parametrize("name", networks.FOR_TORCHSUMMARY)
def test_calls_are_those_that_forward_hooks_see(name: str) -> None:
    make, size = networks.FOR_TORCHSUMMARY[name]
    model = make()
    sizes = size if isinstance(size, list) else [size]
    data = [torch.rand(2, *each) for each in sizes]
    paths = {module: path for path, module in model.named_modules()}
    seen: list[tuple[str, list[tuple[int, ...]]]] = []
    hooks = [
        module.register_forward_hook(
            lambda module, args, result: seen.append((paths[module], [tuple(t.shape) for t in find_tensors(result)]))
        )
        for module in paths
    ]
    with torchprof.profile(model) as prof:
        model(*data)
    for hook in hooks:
        hook.remove()
    calls = prof.trace.module_calls
    by_end = sorted(range(len(calls)), key=lambda row: calls["end"][row])
    assert [(path_of_call(prof.trace, row), [s for _, s in outputs(prof.trace, calls[row])]) for row in by_end] == seen


def test_a_call_knows_the_call_it_was_made_in() -> None:
    model = nn.Sequential(nn.Sequential(nn.ReLU()), nn.ReLU())
    with torchprof.profile(model) as prof:
        model(torch.ones(1))
    assert prof.trace.module_calls["parent"].tolist() == [-1, 0, 1, 0]


def test_ops_know_the_call_they_ran_in() -> None:
    model = nn.Sequential(nn.ReLU())
    x = torch.ones(1)
    with torchprof.profile(model) as prof:
        model(x).sin()
    calls = dict(zip(op_names(prof.trace), prof.trace.ops["module_call"].tolist(), strict=True))
    assert (calls["aten::relu"], calls["aten::clamp_min"], calls["aten::sin"]) == (1, 1, -1)


def test_a_call_that_raises_is_marked_and_closed() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(RuntimeError), torchprof.profile(model) as prof:
        model(torch.ones(1, 4))
    assert [int(flags) & CALL_RAISED for flags in prof.trace.module_calls["flags"]] == [CALL_RAISED] * 2
    assert (prof.trace.module_calls["end"] > 0).all()


def test_a_class_made_while_recording_works_and_is_named_as_unobserved() -> None:
    with torchprof.profile() as prof:

        class Late(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x

        assert Late()(torch.ones(1)).item() == 1
    assert prof.trace.facts["unobserved_classes"] == ["Late"]
    assert Late()(torch.ones(1)).item() == 1


def test_a_class_with_a_call_of_its_own_works_and_is_named_as_unobserved() -> None:
    class Own(nn.Module):
        def __call__(self, x: Tensor) -> Tensor:
            return super().__call__(x) + 1

        def forward(self, x: Tensor) -> Tensor:
            return x

    with torchprof.profile() as prof:
        assert Own()(torch.ones(1)).item() == 2
    assert len(prof.trace.module_calls) == 1


def test_a_module_that_calls_itself_nests() -> None:
    class Countdown(nn.Module):
        def forward(self, x: Tensor, n: int) -> Tensor:
            return self(x, n - 1) if n else x

    model = Countdown()
    with torchprof.profile(model) as prof:
        model(torch.ones(1), 3)
    assert prof.trace.module_calls["parent"].tolist() == [-1, 0, 1, 2]
