"""Where a model raises, the table up to there is shown, and its exception stays its own."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchprof
import torchprof.torchinfo
from torchprof import Summary


class Net(nn.Module):
    """``b.1`` wants 9 features and gets 8; ``c`` would come after it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 8)
        self.b = nn.Sequential(nn.ReLU(), nn.Linear(9, 2))
        self.c = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))


def so_far(model: nn.Module, *arguments: Any, error: type[Exception] = RuntimeError, **options: Any) -> Summary:
    with pytest.raises(error) as caught:
        torchprof.summary(model, *arguments, **{"verbose": 0, **options})
    found = caught.value.torchprof_summary  # type: ignore[attr-defined]
    assert isinstance(found, Summary)
    return found


def test_the_table_up_to_there_is_printed_with_the_row_that_raised(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        torchprof.summary(Net(), (3, 4))
    lines = capsys.readouterr().out.splitlines()
    assert [re.split("  +", line)[0] for line in lines[3:9]] == [
        "Net",
        "├─ a (Linear)",
        "├─ b (Sequential)",
        "│",
        "│",
        "└─ c (Linear)",
    ]
    assert "[3, 4]  [3, 8]      40      96 B" in lines[4]
    assert lines[7].endswith("raised RuntimeError: mat1 and mat2 shapes cannot be multiplied (3x8 and 9x2)")
    assert lines[8].endswith("not reached")
    said = (
        r"INCOMPLETE: forward raised in module 'b\.1' \(Linear\), at test_failure\.py:\d+, in forward: `return self.*`; figures"
    )
    assert re.match(said, lines[10])
    assert not any("Saved for backward" in line or "allocated" in line for line in lines), "these are not known"


def test_figures_are_of_what_ran() -> None:
    found = so_far(Net(), (3, 4))
    rows = {row.path: row for row in found.rows}
    assert [path for path, row in rows.items() if row.failed] == ["b.1"]
    assert {path: row.calls for path, row in rows.items()} == {"": 1, "a": 1, "b": 1, "b.0": 1, "b.1": 1, "c": 0}
    assert {path: row.output_bytes for path, row in rows.items() if row.calls} == {
        **{"a": 3 * 8 * 4, "b.0": 3 * 8 * 4},
        **dict.fromkeys(("", "b", "b.1")),
    }, "what did not return has no size, not 0 bytes"
    assert found.totals.input_bytes == 3 * 4 * 4
    assert found.totals.memory == "none"


def test_the_exception_is_the_models_own_and_says_where_the_table_is() -> None:
    class Own(Exception):
        pass

    raised = Own("no")

    class Raises(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise raised

    with pytest.raises(Own) as caught:
        torchprof.summary(nn.Sequential(Raises()), (2, 3), verbose=0)
    assert caught.value is raised
    assert raised.args == ("no",)
    assert "attribute torchprof_summary" in "\n".join(raised.__notes__)
    assert "torchprof.summary: raised in module '0' (Raises)" in "\n".join(raised.__notes__)


def test_an_exception_that_takes_no_attributes_comes_out_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    class Closed(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            if not name.startswith("__"):
                raise TypeError(name)

        def __str__(self) -> str:
            raise ValueError("no message either")

    class Raises(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise Closed

    with pytest.raises(Closed):
        torchprof.summary(nn.Sequential(Raises()), (2, 3))
    assert capsys.readouterr().err == ""


def test_what_a_broken_output_raises_does_not_hide_the_models_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        flush = write

    monkeypatch.setattr(sys, "stdout", Broken())
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        torchprof.summary(Net(), (3, 4))


def test_with_a_limit_on_depth_the_row_above_is_marked() -> None:
    found = so_far(Net(), (3, 4), depth=1)
    assert [(row.path, row.failed) for row in found.rows] == [("", False), ("a", False), ("b", True), ("c", False)]
    assert found.rows[2].note.startswith("raised RuntimeError: mat1")


def test_columns_width_and_parameters_are_as_they_were_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError):
        torchprof.summary(Net(), (3, 4), columns=["params"], width=90, verbose=2)
    lines = capsys.readouterr().out.splitlines()
    assert re.split("  +", lines[1]) == ["Layer (type)", "Params"]
    assert any("weight [8, 4] float32" in line for line in lines)
    assert all(len(line) <= 90 for line in lines)


def test_a_pass_that_warms_up_may_raise_too() -> None:
    found = so_far(Net(), (3, 4), warmup=2)
    assert [row.path for row in found.rows if row.failed] == ["b.1"]
    assert found.rows[0].calls == 1


class Refuses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise ValueError("no\ngradient")


def test_where_backward_raises_forward_is_shown() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.unused = nn.Linear(4, 8), nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return Refuses.apply(self.a(x))  # type: ignore[no-any-return, no-untyped-call]

    found = so_far(Model(), (3, 4), backward=True, error=ValueError)
    assert [row.failed for row in found.rows] == [False] * 3
    assert found.rows[0].output_shapes == ((3, 8),)
    assert found.rows[2].note == "not called"
    said = (
        r"INCOMPLETE: backward raised ValueError: no, at test_failure\.py:\d+, in backward: `raise .*`; figures are of what ran"
    )
    assert re.search(said, str(found))
    assert "Saved for backward" not in str(found)


def test_a_module_that_is_registered_nowhere_is_named_by_its_class() -> None:
    class Inside(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.Linear(9, 9)(x)

    found = so_far(Inside(), (3, 4))
    assert [(row.name, row.failed) for row in found.rows] == [("Inside", False), ("<Linear>", True)]


def test_the_root_may_be_what_raised() -> None:
    class Raises(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError

    found = so_far(Raises(), (3, 4), error=ValueError)
    assert (found.rows[0].failed, found.rows[0].note) == (True, "raised ValueError")
    assert "INCOMPLETE: forward raised in the root module (Raises)" in str(found)


def test_an_exception_that_was_caught_is_no_failure() -> None:
    class Catches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(9, 9)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.inner(x)
            except RuntimeError:
                return x

    found = torchprof.summary(Catches(), (3, 4), verbose=0)
    assert not any(row.failed for row in found.rows)
    assert "INCOMPLETE" not in str(found)


@pytest.mark.parametrize("raises", ["later", "instead", "because"])
def test_what_was_caught_before_is_not_taken_for_what_was_raised(raises: str) -> None:
    class Catches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(9, 9)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.inner(x)
            except RuntimeError as error:
                if raises == "instead":
                    raise ValueError("no") from None
                if raises == "because":
                    raise ValueError("no") from error
            raise ValueError("no")

    found = so_far(nn.Sequential(Catches()), (3, 4), error=ValueError)
    assert [row.path for row in found.rows if row.failed] == ["0.inner" if raises == "because" else "0"]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupt_prints_nothing(interrupt: type[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise interrupt

    with pytest.raises(interrupt) as caught:
        torchprof.summary(Interrupted(), (3, 4))
    assert capsys.readouterr() == ("", "")
    assert not hasattr(caught.value, "__notes__")


def test_an_argument_that_cannot_be_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(torchprof.ArgumentError, match="nothing to differentiate"), torch.no_grad():
        torchprof.summary(nn.Sequential(nn.Linear(4, 2)), (3, 4), backward=True)
    assert capsys.readouterr().out == ""


def test_the_model_is_as_before_after_it_raised() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(5, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    so_far(model, (3, 4), warmup=1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_table_can_be_saved_and_read_again(tmp_path: Any) -> None:
    found = so_far(Net(), (3, 4))
    found.trace.save(tmp_path / "a.torchprof")
    assert str(Summary(torchprof.load(tmp_path / "a.torchprof"))) == str(found)


def test_functions_named_as_those_of_other_packages_print_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        torchprof.torchinfo.summary(Net(), (3, 4))
    assert "1 (Linear)" in (printed := capsys.readouterr().out)
    assert printed.count("INCOMPLETE: forward raised in module 'b.1' (Linear)") == 1
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        torchprof.torchinfo.summary(Net(), (3, 4), verbose=0)
    assert capsys.readouterr().out == ""
