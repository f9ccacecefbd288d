"""What is recorded of every module call, against what forward hooks see of the same pass."""

from __future__ import annotations

import copy
import inspect
import pickle
import threading
import types
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import networks
import pytest
import torch
import torch.fx
from reading import inputs, op_names, outputs, path_of_call
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.modeling_outputs import BaseModelOutput

import torchprof
from torchprof.record.nested import find_tensors
from torchprof.trace.schema import CALL_RAISED
from torchprof.trace.trace import Trace


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


class ByAttribute(nn.Module):
    """Calls two modules in every way that there is."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(4, 4), nn.ReLU()
        self.stored = self.act.__call__

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear.__call__(x)
        x = self.linear.__call__(input=x)
        x = nn.Module.__call__(self.linear, x)
        x = nn.Linear.__call__(self.linear, x)
        x = self.linear(x)
        x = self.stored(x)
        bound = self.act.__call__
        return next(map(self.act.__call__, [bound(*[x])]))


def calls_by_path(trace: Trace) -> dict[str, int]:
    return dict(Counter(path_of_call(trace, row) for row in range(len(trace.module_calls))))


def test_calls_by_attribute_stored_and_unbound_are_recorded_once_each() -> None:
    model = ByAttribute()
    with torchprof.profile(model) as prof:
        model.__call__(torch.ones(2, 4))
    assert calls_by_path(prof.trace) == {"": 1, "linear": 5, "act": 3}
    for call in prof.trace.module_calls:
        assert [shape for _, shape in inputs(prof.trace, call)] == [(2, 4)]
        assert [shape for _, shape in outputs(prof.trace, call)] == [(2, 4)]


def test_generate_of_transformers_calls_the_model_once_for_every_new_token() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=9, bos_token_id=0, eos_token_id=0)).eval()
    with torchprof.profile(model) as prof:
        made = model.generate(torch.zeros(1, 3, dtype=torch.long), max_new_tokens=6, pad_token_id=0, eos_token_id=None)
    assert made.shape == (1, 9)
    calls = calls_by_path(prof.trace)
    assert {calls[path] for path in ("", "transformer", "transformer.h.0", "transformer.h.1.mlp.c_fc", "lm_head")} == {6}


def test_calls_on_other_threads_are_recorded_with_calls_by_attribute_of_their_own() -> None:
    model = ByAttribute()
    with torchprof.profile(model) as prof:
        threads = [threading.Thread(target=lambda: model(torch.ones(2, 4))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert calls_by_path(prof.trace) == {"": 3, "linear": 15, "act": 9}
    assert (prof.trace.module_calls["parent"] < 0).sum() == 3


def test_calls_after_an_fx_trace_inside_a_recording_are_recorded() -> None:
    model = ByAttribute()
    with torchprof.profile(model) as prof:
        model(torch.ones(2, 4))
        torch.fx.symbolic_trace(nn.Sequential())
        model(torch.ones(2, 4))
    assert calls_by_path(prof.trace) == {"": 2, "linear": 10, "act": 6}


def test_a_class_made_while_recording_is_recorded() -> None:
    with torchprof.profile() as prof:

        class Late(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x

        assert Late()(torch.ones(1)).item() == 1
    assert len(prof.trace.module_calls) == 1
    assert prof.trace.facts["unobserved_classes"] == []
    assert Late()(torch.ones(1)).item() == 1


def test_a_class_made_while_recording_with_a_call_of_its_own_works_and_is_named_as_unobserved() -> None:
    with torchprof.profile() as prof:

        class Late(nn.Module):
            def __call__(self, x: Tensor) -> Tensor:
                return x

        assert Late()(torch.ones(1)).item() == 1
    assert len(prof.trace.module_calls) == 0
    assert prof.trace.facts["unobserved_classes"] == ["Late"]


def test_a_class_with_a_call_of_its_own_is_recorded_after_an_fx_trace() -> None:
    class Own(nn.Module):
        def __call__(self, x: Tensor) -> Tensor:
            return x

    model = Own()
    with torchprof.profile(model) as prof:
        torch.fx.symbolic_trace(nn.Sequential())
        model(torch.ones(1))
    assert calls_by_path(prof.trace) == {"": 1}


@pytest.mark.parametrize("by_slot", [True, False])
def test_a_class_with_a_call_of_its_own_works_and_is_recorded_once(by_slot: bool) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def __call__(self, x: Tensor) -> Tensor:
            return super().__call__(self.act(x)) + 1

        def forward(self, x: Tensor) -> Tensor:
            return x

    model = Own()
    with torchprof.profile(model) as prof:
        assert (model(torch.ones(1)) if by_slot else model.__call__(torch.ones(1))).item() == 2
    assert calls_by_path(prof.trace) == {"": 1, "act": 1}
    assert prof.trace.facts["unobserved_classes"] == []


def test_a_class_with_a_call_that_runs_forward_only_is_recorded_once() -> None:
    class Own(nn.Module):
        def __call__(self, x: Tensor) -> Tensor:
            return self.forward(x)

        def forward(self, x: Tensor) -> Tensor:
            return x

    with torchprof.profile() as prof:
        Own()(torch.ones(1))
    assert len(prof.trace.module_calls) == 1


def test_a_module_that_calls_itself_by_attribute_nests() -> None:
    class Countdown(nn.Module):
        def forward(self, x: Tensor, n: int) -> Tensor:
            return self.__call__(x, n - 1) if n else x

    model = Countdown()
    with torchprof.profile(model) as prof:
        model(torch.ones(1), 3)
    assert prof.trace.module_calls["parent"].tolist() == [-1, 0, 1, 2]


def test_the_function_of_modules_looks_and_works_as_ever_while_recording() -> None:
    function, model = nn.Module.__call__, nn.ReLU()
    before = repr(function), inspect.signature(function), function.__code__, function.__dict__
    with torchprof.profile():
        assert nn.Module.__call__ is function
        assert (repr(function), inspect.signature(function), function.__code__, function.__dict__) == before
        assert inspect.isfunction(function)
        assert function.__class__ is types.FunctionType
        assert type(model.__call__) is types.MethodType
        assert model.__call__ == model.__call__
        assert model.__call__.__func__ is function
        assert copy.deepcopy(function) is pickle.loads(pickle.dumps(function)) is function
        kept = model.__call__
    assert type(function) is types.FunctionType
    assert kept(torch.ones(1)).item() == 1


@pytest.mark.parametrize("arguments", [(), (3,)])
def test_wrong_calls_of_the_function_fail_as_ever(arguments: tuple[Any, ...]) -> None:
    def message() -> str:
        with pytest.raises((TypeError, AttributeError)) as caught:
            nn.Module.__call__(*arguments)
        return str(caught.value)

    with torchprof.profile() as prof:
        recorded = message()
    assert recorded == message()
    assert len(prof.trace.module_calls) == 0


def test_a_module_that_calls_itself_nests() -> None:
    class Countdown(nn.Module):
        def forward(self, x: Tensor, n: int) -> Tensor:
            return self(x, n - 1) if n else x

    model = Countdown()
    with torchprof.profile(model) as prof:
        model(torch.ones(1), 3)
    assert prof.trace.module_calls["parent"].tolist() == [-1, 0, 1, 2]
