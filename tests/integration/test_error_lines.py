"""What a model raises names the line of its own code, and no line inside PyTorch or torchprof."""

from __future__ import annotations

import importlib
import linecache
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchprof
from torchprof import EstimateError
from torchprof.record.error_lines import line_of_error


class Net(nn.Module):
    """A layer, and what a function makes of its result."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 8)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.layer(x))  # the call


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = x + 1
        return x


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branches = Branches()

    def forward(self, x: Tensor) -> Any:
        return self.branches(x)


def reshapes(x: Tensor) -> Tensor:
    return x.view(-1, 7)


def reshapes_rows(x: Tensor) -> list[Tensor]:
    return [row.view(-1, 7) for row in x]


def raises_from(x: Tensor) -> Tensor:
    try:
        return reshapes(x)
    except RuntimeError as error:
        raise ValueError("no such shape") from error


def raises_while_handling(x: Tensor) -> Tensor:
    try:
        return reshapes(x)
    except RuntimeError:
        raise ValueError("no such shape")  # noqa: B904


def raises_instead(x: Tensor) -> Tensor:
    try:
        return reshapes(x)
    except RuntimeError:
        raise ValueError("no such shape") from None


def reads_and_raises(x: Tensor) -> Any:
    try:
        return x.tolist()
    except Exception as error:
        raise ValueError("no list") from error


def place(text: str, name: str) -> str:
    """``test_error_lines.py:12, in name: `text```."""
    lines = [number for number, line in enumerate(Path(__file__).read_text().splitlines(), start=1) if line.strip() == text]
    assert len(lines) == 1, text
    return f"{Path(__file__).name}:{lines[0]}, in {name}: `{text}`"


RESHAPES = place("return x.view(-1, 7)", "reshapes")


def note_of(model: nn.Module, error: type[Exception] = RuntimeError, **options: Any) -> str:
    """What is said of the place."""
    with pytest.raises(error) as caught:
        torchprof.summary(model, **{"input_size": (2, 4), "verbose": 0, **options})
    said = re.search(r"^at (.*)$", caught.value.__notes__[0], re.MULTILINE)
    assert said, caught.value.__notes__
    return said[1]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (reshapes, RESHAPES),
        (reshapes_rows, place("return [row.view(-1, 7) for row in x]", "reshapes_rows")),
    ],
)
def test_a_function_of_the_program_that_a_model_calls_is_named(function: Callable[[Tensor], Any], says: str) -> None:
    assert note_of(Net(function)) == says


def test_a_lambda_is_named() -> None:
    function = lambda x: x.view(-1, 9)  # noqa: E731
    assert note_of(Net(function)) == place("function = lambda x: x.view(-1, 9)  # noqa: E731", "<lambda>")


def test_where_a_layer_raises_it_is_the_line_that_called_it() -> None:
    said = place("return self.function(self.layer(x))  # the call", "forward")
    assert note_of(Net(reshapes), input_size=(2, 5)) == said


def test_models_of_layers_alone_have_no_line() -> None:
    with pytest.raises(RuntimeError) as caught:
        torchprof.summary(nn.Sequential(nn.Linear(4, 8)), (2, 5), verbose=0)
    assert caught.value.__notes__[0].splitlines() == [
        "torchprof.summary: raised in module '0' (Linear), called with float32[2, 5]",
        "the inputs were made from input_size=(2, 5): check these and dtypes, or pass your own as input_data",
    ]


def test_the_table_says_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError):
        torchprof.summary(Net(reshapes), (2, 4))
    said = f"INCOMPLETE: forward raised in the root module (Net), at {RESHAPES}; figures are of what ran until then"
    assert said in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("function", "text", "earlier"),
    [
        (raises_from, 'raise ValueError("no such shape") from error', f", after {RESHAPES}"),
        (raises_while_handling, 'raise ValueError("no such shape")  # noqa: B904', f", after {RESHAPES}"),
        (raises_instead, 'raise ValueError("no such shape") from None', ""),
    ],
)
def test_of_chained_exceptions_every_line_is_named(function: Callable[[Tensor], Any], text: str, earlier: str) -> None:
    assert note_of(Net(function), ValueError) == place(text, function.__name__) + earlier


def test_exceptions_in_a_circle_end() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert line_of_error(first) == "", "they were never raised"


@pytest.mark.parametrize("fullgraph", [False, True])
def test_compiled_code_names_the_line_that_it_was_compiled_from(fullgraph: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(Net(reshapes), backend="eager", fullgraph=fullgraph)
    assert note_of(compiled, Exception) == RESHAPES  # type: ignore[arg-type]


def test_after_a_graph_break_the_function_has_its_own_name() -> None:
    def breaks(x: Tensor) -> Tensor:
        x = x + 1
        torch._dynamo.graph_break()
        raise ValueError(x.shape)

    torch._dynamo.reset()
    said = note_of(torch.compile(Net(breaks), backend="eager"), ValueError)  # type: ignore[arg-type]
    assert said == place("raise ValueError(x.shape)", "breaks")


def test_a_condition_that_cannot_be_compiled_is_named() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(Nested(), backend="eager", fullgraph=True)
    assert note_of(compiled, Exception) == place("if x.sum() > 0:", "forward")  # type: ignore[arg-type]


def test_scripted_code_names_the_line_that_it_was_written_in() -> None:
    class Scripted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(-1, 11)

    scripted = torch.jit.script(Scripted())  # type: ignore[no-untyped-call]
    assert note_of(scripted) == place("return x.view(-1, 11)", "forward")


def test_code_without_a_file_has_a_line_without_text() -> None:
    names: dict[str, Any] = {}
    exec("def double(x):\n    return x.view(-1, 7)\n", names)
    assert note_of(Net(names["double"])) == "<string>:2, in double"


def test_cells_of_a_notebook_go_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    text, file = "def doubles(x):\n    return x.view(-1, 7)\n", "/tmp/ipykernel_12/345.py"
    names: dict[str, Any] = {}
    exec(compile(text, file, "exec"), names)
    monkeypatch.setitem(linecache.cache, file, (len(text), None, text.splitlines(True), file))
    compiler = SimpleNamespace(format_code_name=lambda name: ("Cell", "In[3]") if name == file else None)
    shell = SimpleNamespace(get_ipython=lambda: SimpleNamespace(compile=compiler))
    monkeypatch.setitem(sys.modules, "IPython", shell)  # type: ignore[arg-type]
    assert note_of(Net(names["doubles"])) == "In[3]:2, in doubles: `return x.view(-1, 7)`"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package that is installed, with a function and a model that calls it."""
    package = tmp_path / "site-packages" / "layers_of_others"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from torch import nn\n\ndef flat(x):\n    return x.view(-1, 7)\n\n"
        "class Flat(nn.Module):\n    def forward(self, x):\n        return flat(x)\n"
    )
    monkeypatch.syspath_prepend(package.parent)
    yield importlib.import_module("layers_of_others")
    del sys.modules["layers_of_others"]


def test_of_libraries_the_line_that_called_them_comes_first(library: Any) -> None:
    own = place("return self.function(self.layer(x))  # the call", "forward")
    assert note_of(Net(library.flat)) == f"{own}, in which layers_of_others/__init__.py:4, in flat: `return x.view(-1, 7)`"


def test_a_model_of_a_library_has_the_line_of_the_library(library: Any) -> None:
    assert note_of(library.Flat()) == "layers_of_others/__init__.py:4, in flat: `return x.view(-1, 7)`"


def test_on_meta_the_line_that_asked_for_a_value_is_named() -> None:
    assert note_of(Nested(), device="meta", input_size=None, input_data=torch.ones(2, 4, device="meta")) == place(
        "if x.sum() > 0:", "forward"
    )


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize(
    ("model", "where"),
    [
        (Nested(), f"module 'branches' (Branches), at {place('if x.sum() > 0:', 'forward')}"),
        (Net(reads_and_raises), f"the root module (Net), at {place('return x.tolist()', 'reads_and_raises')}"),
    ],
)
def test_an_estimate_names_the_line_that_asked_for_a_value(model: nn.Module, where: str, compile: bool) -> None:
    torch._dynamo.reset()
    with pytest.raises(EstimateError) as caught:
        torchprof.estimate(model, torch.ones(2, 4, requires_grad=True), device="cpu", compile=compile)
    assert str(caught.value).startswith(f"aten::_local_scalar_dense in {where}, reads the values of a tensor")


def test_an_estimate_names_the_line_of_what_the_program_raises_itself() -> None:
    with pytest.raises(RuntimeError) as caught:
        torchprof.estimate(Net(reshapes), (2, 4), device="cpu")
    assert caught.value.__notes__[-1] == (
        f"torchprof.estimate: raised in the root module (Net), at {RESHAPES}, on fake tensors, which say they are on the CPU"
    )


def test_the_loss_of_an_estimate_is_a_place_too() -> None:
    def loss(returned: Tensor) -> Tensor:
        return returned.view(-1, 13).sum()

    with pytest.raises(RuntimeError) as caught:
        torchprof.estimate(nn.Sequential(nn.Linear(4, 8)), (2, 4), loss=loss, device="cpu")
    said = place("return returned.view(-1, 13).sum()", "loss")
    assert caught.value.__notes__[-1].startswith(f"torchprof.estimate: raised in the step, at {said}, on fake tensors")
