"""Rows of modules say where their class is defined."""

from __future__ import annotations

import dataclasses
import inspect
import linecache
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from networks import Convolutional
from torch import Tensor, nn

import torchprof
from torchprof.record import definitions
from torchprof.record.definitions import definition_of


def line_of(text: str) -> str:
    """Where this file has this line."""
    lines = [number for number, line in enumerate(Path(__file__).read_text().splitlines(), start=1) if line.strip() == text]
    assert len(lines) == 1, text
    return f"{__file__}:{lines[0]}"


class Outer(nn.Module):
    class Inner(nn.Module):  # in a class
        def forward(self, x: Tensor) -> Tensor:
            return x

    def forward(self, x: Tensor) -> Tensor:
        return x


class Plain(nn.Linear):
    """It has no methods of its own."""


def a_class() -> type[nn.Module]:
    class Plain(nn.ReLU):  # in a function
        def extra_repr(self) -> str:
            return ""

    return Plain


def a_class_without_methods() -> type[nn.Module]:
    class Plain(nn.Tanh): ...  # in another

    return Plain


class Decorated(nn.Module):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return x


@dataclasses.dataclass(eq=False)
class Data(nn.Module):
    size: int = 3

    @property
    def half(self) -> int:
        return self.size // 2


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Outer, "class Outer(nn.Module):"),
        (Outer.Inner, "class Inner(nn.Module):  # in a class"),
        (Plain, "class Plain(nn.Linear):"),
        (a_class(), "class Plain(nn.ReLU):  # in a function"),
        (a_class_without_methods(), None),
        (Data, "class Data(nn.Module):"),
        (Decorated, "class Decorated(nn.Module):"),
        (type("Made", (nn.Module,), {"forward": lambda self, x: x}), None),
    ],
)
def test_a_class_is_where_its_statement_is(kind: type, text: str | None) -> None:
    assert definition_of(kind) == (line_of(text) if text is not None else None), "or nowhere, rather than in a wrong place"


def test_a_class_without_methods_is_found_by_its_name() -> None:
    file = inspect.getsourcefile(nn.Identity)
    assert (
        definition_of(nn.ConvTranspose2d)
        == f"{inspect.getsourcefile(nn.ConvTranspose2d)}:{inspect.findsource(nn.ConvTranspose2d)[1] + 1}"
    )
    assert definition_of(nn.Identity) == f"{file}:{inspect.findsource(nn.Identity)[1] + 1}"


def test_classes_of_a_notebook_go_by_their_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    text, file = (
        "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x\n",
        "/tmp/ipykernel_12/345.py",
    )
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, file, "exec"), names)
    monkeypatch.setitem(linecache.cache, file, (len(text), None, text.splitlines(True), file))
    compiler = SimpleNamespace(format_code_name=lambda name: ("Cell", "In[3]") if name == file else None)
    shell = SimpleNamespace(get_ipython=lambda: SimpleNamespace(compile=compiler))
    monkeypatch.setitem(sys.modules, "IPython", shell)  # type: ignore[arg-type]
    assert definition_of(names["Net"]) == "In[3]:2"


def test_a_file_that_is_gone_is_no_place() -> None:
    names: dict[str, Any] = {"__name__": "gone"}
    exec(compile("import torch\nclass Net(torch.nn.Module):\n    def forward(self, x): return x\n", "/gone.py", "exec"), names)
    assert definition_of(names["Net"]) is None


def test_a_class_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    definition_of(Outer)
    monkeypatch.setattr(definitions, "_definition", lambda kind: pytest.fail("again"))
    assert definition_of(Outer) == line_of("class Outer(nn.Module):")


def test_a_summary_shows_it_on_request() -> None:
    found = torchprof.summary(Convolutional(), (2, 3, 112, 112), columns=["params", "defined"], verbose=0)
    lines = {row["path"]: row["defined"] for row in found.table.rows}
    assert lines[""] == f"{inspect.getsourcefile(Convolutional)}:{inspect.findsource(Convolutional)[1] + 1}"
    assert lines["conv1"] == f"{inspect.getsourcefile(nn.Conv2d)}:{inspect.findsource(nn.Conv2d)[1] + 1}"
    assert f"networks.py:{inspect.findsource(Convolutional)[1] + 1}" in str(found)
    assert str(Path(__file__).parent) not in str(found), "folders are in the rows alone"
    assert "defined" not in torchprof.summary(Convolutional(), (2, 3, 112, 112), verbose=0).columns


def test_a_table_by_module_shows_it_on_request(tmp_path: Path) -> None:
    model = nn.Sequential(Outer(), nn.Linear(4, 4))
    with torchprof.profile(model) as prof:
        model(torch.ones(2, 4)).sum().backward()
    prof.trace.save(tmp_path / "saved")
    table = torchprof.by_module(torchprof.load(tmp_path / "saved"))
    places = {row["path"]: row["defined"] for row in table.rows if row["path"] or row["type"] == "Sequential"}
    assert places["0"] == line_of("class Outer(nn.Module):")
    assert {row["name"]: row["defined"] for row in table.rows}["outside modules"] is None
    assert "test_definitions.py:" in str(table.with_columns("defined"))


def test_modules_that_run_elsewhere_have_none() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2)))  # type: ignore[no-untyped-call]
    rows = torchprof.summary(scripted, (1, 2), verbose=0, columns=["defined"]).rows
    assert [row.defined for row in rows] == [None] * len(rows)


def test_places_of_one_class_fold_and_of_two_do_not() -> None:
    def other() -> nn.Module:
        class Outer(nn.Module):  # of the same name
            def forward(self, x: Tensor) -> Tensor:
                return x

        return Outer()

    found = torchprof.summary(nn.Sequential(Outer(), Outer(), other()), (1, 2), fold=True, verbose=0)
    assert [row.name for row in found.rows if row.depth == 1] == ["0..1", "2"]
