"""What a summary says of modules that were not called, raised, or ran where no call is seen."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import torchprof
from torchprof.analysis.model.rows import Row
from torchprof.analysis.model.summary import rows_and_totals

X = torch.ones(2, 4)


def rows(model: nn.Module, x: Any = X, call: Callable[..., Any] | None = None) -> dict[str, Row]:
    """The rows of one recorded pass, by path."""
    with torchprof.profile(model) as prof:
        (call or model)(x)
    return {row.path: row for row in rows_and_totals(prof.trace)[0]}


def notes(model: nn.Module, x: Any = X, call: Callable[..., Any] | None = None) -> dict[str, str]:
    """The notes that are not empty, by path."""
    return {path: row.note for path, row in rows(model, x, call).items() if row.note}


class Reads(nn.Module):
    """Has modules whose parameters it uses without calling them, and some that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = nn.ParameterList([nn.Parameter(torch.ones(4)) for _ in range(2)])
        self.named = nn.ParameterDict({"scale": nn.Parameter(torch.ones(4))})
        self.read = nn.Linear(4, 4)
        self.viewed = nn.Linear(4, 4)
        self.forwarded = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.dead = nn.Sequential(nn.Linear(4, 4))
        self.dead_list = nn.ParameterList([nn.Parameter(torch.ones(4))])
        self.no_parameters = nn.ReLU()
        self.view = self.viewed.weight.detach()[1:]

    def forward(self, x: Tensor) -> Tensor:
        for parameter in self.listed:
            x = x + parameter
        x = F.linear(x * self.named["scale"], self.read.weight)
        with torch.no_grad():
            x = x + self.frozen.weight.sum()
        y: Tensor = self.forwarded.forward(x) + self.view.sum()
        return y


def test_a_module_that_is_not_called_says_whether_its_parameters_are_used() -> None:
    assert notes(Reads()) == {
        "listed": "its parameters are used",
        "named": "its parameters are used",
        "read": "not called, but its parameters are used",
        "viewed": "not called, but its parameters are used",
        "frozen": "not called, but its parameters are used",
        "dead": "not called",
        "dead.0": "not called",
        "dead_list": "its parameters are not used",
        "no_parameters": "not called",
    }


@pytest.mark.parametrize("backward", [False, True])
def test_a_summary_says_the_same_as_a_recording_of_all_ops(backward: bool) -> None:
    model = Reads()
    found = torchprof.summary(model, input_data=X, backward=backward, verbose=0)
    assert {row.path: row.note for row in found.rows if row.note} == notes(model)


def test_a_summary_on_meta_does_not_call_used_parameters_dead() -> None:
    found = torchprof.summary(Outer().to("meta"), (2, 4), verbose=0)
    assert {row.path: row.note for row in found.rows}["inner.first"] == "not called, but its parameters are used"


def test_what_forward_calls_by_forward_has_calls_inside() -> None:
    found = rows(Reads())
    assert (found["forwarded"].calls, found["forwarded.0"].calls) == (0, 1)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.inner.first, self.inner.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.inner.first.weight)


def test_what_holds_used_parameters_below_says_so() -> None:
    assert notes(Outer()) == {
        "inner": "parameters below it are used",
        "inner.first": "not called, but its parameters are used",
        "inner.second": "not called",
    }


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_output_layer_of_attention_is_used_without_being_called(mode: str) -> None:
    model = getattr(nn.MultiheadAttention(4, 2, batch_first=True), mode)()
    found = notes(model, torch.ones(1, 3, 4), call=lambda x: model(x, x, x))
    assert found == {"out_proj": "not called, but its parameters are used"}


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(self.embed(tokens), self.embed.weight)


def test_a_tied_head_that_is_not_called_is_used() -> None:
    tokens = torch.zeros(2, dtype=torch.long)
    assert notes(Tied(), tokens) == {"head": "weight shared with embed; not called, but its parameters are used"}


def test_on_meta_parameters_are_seen_in_use_as_well() -> None:
    assert notes(Outer().to("meta"), X.to("meta"))["inner.first"] == "not called, but its parameters are used"


def test_where_ops_are_not_recorded_a_module_is_not_called_and_no_more_is_said() -> None:
    model = Outer()
    with torchprof.profile(model, ops=False) as prof:
        model(X)
    assert {row.note for row in rows_and_totals(prof.trace)[0] if row.path} == {"not called"}


class Catches(nn.Module):
    """Calls a layer that cannot take what it is given, and goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.other = nn.Linear(4, 3), nn.Sequential(nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        for size in (5, 4, 6):
            try:
                y: Tensor = self.layer(torch.ones(2, size))
            except RuntimeError:
                continue
        with contextlib.suppress(RuntimeError):
            self.other(x)
        return y


def test_calls_that_raised_are_counted_as_such_and_returned_nothing() -> None:
    found = rows(Catches())
    assert {path: (row.calls, row.note) for path, row in found.items()} == {
        "": (1, ""),
        "layer": (3, "raised in 2 of 3 calls"),
        "other": (1, "raised"),
        "other.0": (1, "raised"),
    }
    assert found["layer"].input_shapes == ((2, 5),)
    assert found["layer"].output_shapes == ((2, 3),)
    assert found["layer"].output_bytes == 24
    assert found["other.0"].input_shapes == ((2, 4),)
    assert found["other.0"].output_shapes == ("raised",)


def test_a_hook_that_raises_makes_the_call_one_that_raised() -> None:
    model = nn.Sequential(nn.ReLU())

    def hook(*_: Any) -> None:
        raise KeyError("on purpose")

    handle = model[0].register_forward_hook(hook)

    def call(x: Tensor) -> None:
        with pytest.raises(KeyError):
            model(x)

    assert notes(model, call=call) == {"": "raised", "0": "raised"}
    handle.remove()
    assert notes(model) == {}


def test_the_text_says_raised_where_the_output_would_be() -> None:
    text = str(torchprof.summary(Catches(), (2, 4), verbose=0))
    (line,) = [line for line in text.splitlines() if "other" in line]
    assert line.split("raised")[0].split()[-2:] == ["[2,", "4]"]
    assert line.endswith("raised")


# Compiled


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.linear(x))
        return y


class Decorated(Block):
    @torch.compile(backend="eager")
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.linear(x))
        return y


class CallsCompiled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.block = nn.Linear(4, 4), Block()
        self.function = torch.compile(lambda x: self.block(x), backend="eager")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.function(self.first(x))
        return y


@pytest.fixture(autouse=True)
def compiles_anew() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def by_method() -> nn.Module:
    model = Block()
    model.compile(backend="eager")
    return model


def by_assignment() -> nn.Module:
    model = Block()
    model.forward = torch.compile(model.forward, backend="eager")  # type: ignore[method-assign]
    return model


SEEN = "compiled: calls inside are not seen"
COMPILED = f"{SEEN}; this call compiled it"
INSIDE = "runs inside a compiled region"


@pytest.mark.parametrize("make", [by_method, by_assignment, Decorated])
def test_every_way_to_compile_a_module_is_recognized(make: Callable[[], nn.Module]) -> None:
    assert notes(model := make()) == {"": COMPILED, "linear": INSIDE, "act": INSIDE}
    assert notes(model) == {"": SEEN, "linear": INSIDE, "act": INSIDE}, "it is compiled already"
    assert notes(nn.Sequential(model)) == {"0": SEEN, "0.linear": INSIDE, "0.act": INSIDE}


def test_a_model_in_torch_compile_is_recognized() -> None:
    model = torch.compile(Block(), backend="eager")
    for note in (COMPILED, SEEN):
        found = notes(model)
        assert found[""] == note
        assert found["_orig_mod.linear"] == found["_orig_mod.act"] == INSIDE


def test_layers_of_a_compiled_function_are_not_said_to_be_dead() -> None:
    found = notes(CallsCompiled())
    assert found[""] == COMPILED
    assert found["block"] == found["block.linear"] == "not called outside compiled code"


def test_a_model_that_only_a_compiled_function_calls_is_not_said_to_be_dead() -> None:
    model = Block()
    function = torch.compile(lambda x: model(x), backend="eager")

    def call(x: Tensor) -> None:
        function(x)
        nn.ReLU()(x)

    assert set(notes(model, call=call).values()) == {"not called outside compiled code"}


def test_the_table_by_module_says_that_compiled_code_ran() -> None:
    said = "Compiled code ran: calls of modules inside it are not seen"
    for model, is_said in ((by_method(), True), (Block(), False)):
        with torchprof.profile(model) as prof:
            model(X)
        assert (said in str(torchprof.by_module(prof.trace))) == is_said


def test_what_is_kept_from_compiling_is_called_as_ever() -> None:
    model = Block()
    model.forward = torch.compiler.disable(model.forward)  # type: ignore[method-assign]
    assert notes(model) == {}
    by_stance = by_method()
    with torch.compiler.set_stance("force_eager"):
        found = rows(by_stance)
    assert [row.calls for row in found.values()] == [1, 1, 1]


@pytest.mark.parametrize("make", [torch.jit.script, lambda model: torch.jit.trace(model, X)])
def test_torchscript_is_recognized(make: Callable[[nn.Module], nn.Module]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make(Block())
    found = notes(model)
    assert found[""] == "TorchScript: calls inside are not seen"
    assert found["linear"] == found["act"] == "runs inside TorchScript"


def test_an_exported_module_is_recognized() -> None:
    model = torch.export.export(Block(), (X,)).module()
    found = notes(model)
    assert found[""] == "exported: calls inside are not seen"
    assert found["linear"] == "runs inside an exported graph"


# Modules on threads, and modules that are registered nowhere


class OnThreads(nn.Module):
    """Runs copies of a layer on threads of their own and waits, as ``nn.DataParallel`` does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.holder = nn.Sequential(nn.Linear(4, 4))

    def forward(self, x: Tensor) -> list[Any]:
        replicas = [copy.copy(self.layer) for _ in range(2)]
        with ThreadPoolExecutor(3) as threads:
            return list(threads.map(lambda module: module(x), [*replicas, self.holder]))


def test_modules_made_in_forward_and_called_on_other_threads_stand_below_their_caller() -> None:
    with torchprof.profile(model := OnThreads()) as prof:
        model(X)
    found = rows_and_totals(prof.trace)[0]
    assert [(row.path, row.calls, row.output_shapes) for row in found] == [
        ("", 1, ((2, 4),) * 3),
        ("layer", 0, ()),
        ("holder", 1, ((2, 4),)),
        ("holder.0", 1, ((2, 4),)),
        ("<Linear>", 1, ((2, 4),)),
        ("<Linear>", 1, ((2, 4),)),
    ]
    assert [row.note for row in found[-2:]] == ["not registered in the model"] * 2


class MakesOne(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = checkpoint(nn.Sequential(nn.Tanh()), x, use_reentrant=False)
        return y


def test_a_module_made_in_forward_and_run_again_in_backward_is_one_row() -> None:
    found = torchprof.summary(MakesOne(), input_data=X.clone().requires_grad_(), backward=True, verbose=0).rows
    assert [(row.path, row.calls) for row in found] == [("", 1), ("<Sequential>", 1), ("<Sequential>.<Tanh>", 1)]
    assert 0 < found[2].recompute <= found[1].recompute == found[0].recompute


def test_a_forward_that_is_a_generator_is_called_once_and_what_it_calls_later_is_seen() -> None:
    class Generates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Iterator[Tensor]:
            for _ in range(3):
                x = self.layer.__call__(x)
                yield x

    model = Generates()
    found = rows(model, call=lambda x: list(model(x)))
    assert {path: row.calls for path, row in found.items()} == {"": 1, "layer": 3}


def test_what_dynamo_leaves_uncompiled_is_not_said_to_be_unseen() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2))
    model[0].compile(backend="eager")  # the forward of nn.Sequential is not compiled
    found = torchprof.summary(model, (2, 4), verbose=0)
    assert [(row.path, row.calls, row.note) for row in found.rows] == [
        ("", 1, ""),
        ("0", 1, "compiled, except for the calls below"),
        ("0.0", 1, ""),
        ("0.1", 1, ""),
        ("1", 1, ""),
    ]
