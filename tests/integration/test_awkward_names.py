"""Names that programs give, with line breaks, escape sequences and markup in them, are escaped wherever they are printed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchprof
from torchprof.cli.main import main

NAME = "a\nb\x1b[31m\t\u202e<b>[red]注"
SHOWN = r"a\nb\x1b[31m\t\u202e<b>[red]注"


class Awkward(nn.Module):
    def __init__(self, *, raises: bool = False) -> None:
        super().__init__()
        self.add_module(NAME, nn.Linear(4, 4))
        self.register_parameter(NAME + "p", nn.Parameter(torch.ones(4)))
        self.register_buffer(NAME + "b", torch.ones(4))
        self.raises = raises

    def forward(self, x: Tensor) -> Tensor:
        with torch.profiler.record_function(NAME):
            y = self._modules[NAME](x) * self._parameters[NAME + "p"]  # type: ignore[misc, operator]
        if self.raises:
            raise ValueError(NAME)
        return y


Awkward.__name__ = Awkward.__qualname__ = NAME.replace(" ", "") + "C"


def model(**options: Any) -> nn.Module:
    return nn.Sequential(Awkward(**options))


@pytest.fixture(scope="module")
def recorded() -> torchprof.Trace:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with torchprof.profile(net, schedule=torchprof.schedule(active=3)) as prof:
        for _ in range(3):
            prof.mark(NAME)
            net(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            prof.step()
    return prof.trace


def texts(trace: torchprof.Trace) -> Iterator[str]:
    for table in (torchprof.by_module(trace), torchprof.by_op(trace, shapes=True), torchprof.by_step(trace)):
        yield from (str(table), table.to_text(60))
    yield str(torchprof.by_module(trace).sort("time"))
    yield str(torchprof.memory(trace))


def is_clean(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def test_tables_of_a_recording(recorded: torchprof.Trace) -> None:
    made = list(texts(recorded))
    assert all(map(is_clean, made))
    assert f"{SHOWN} (Linear)" in made[0]
    assert f"0 ({SHOWN}C)" in made[0]
    assert any(line.startswith(f"{SHOWN} ") for line in made[2].splitlines()), "the range of the user is a row"


@pytest.mark.parametrize("style", ["tree", "torchsummary"])
def test_summaries(style: Any, capsys: pytest.CaptureFixture[str]) -> None:
    torchprof.summary(model(), (2, 4), style=style, verbose=2)
    printed = capsys.readouterr().out
    assert is_clean(printed)
    assert f"{SHOWN}C" in printed
    if style == "tree":
        assert f"{SHOWN} (Linear)" in printed
        assert f"{SHOWN}p [4] float32" in printed


def test_errors_and_their_notes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="a\nb") as caught:
        torchprof.summary(model(raises=True), (2, 4))
    assert caught.value.args == (NAME,), "the exception is the model's own"
    assert is_clean("\n".join(caught.value.__notes__))
    assert f"({SHOWN}C)" in "\n".join(caught.value.__notes__)
    assert is_clean(capsys.readouterr().out)
    with pytest.raises(torchprof.ArgumentError) as wrong:
        torchprof.by_op(torchprof.summary(model(), (2, 4), verbose=0).trace, module=NAME)
    assert is_clean(str(wrong.value))


def test_an_estimate_and_its_errors() -> None:
    assert is_clean(str(torchprof.estimate(model(), (2, 4), device="cpu")))

    class Reads(Awkward):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * x.sum().item()

    Reads.__name__ = f"{NAME}R"
    with pytest.raises(torchprof.EstimateError) as caught:
        torchprof.estimate(nn.Sequential(Reads()), (2, 4), device="cpu")
    assert is_clean(str(caught.value))


def test_warnings() -> None:
    class Moves(Awkward):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self._parameters[NAME + "p"].data = torch.zeros(4)  # type: ignore[union-attr]
                self._buffers[NAME + "b"] = torch.zeros(5)
            return super().forward(x)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torchprof.summary(nn.Sequential(Moves()), (2, 4), verbose=0)
    assert all(is_clean(str(warning.message)) for warning in caught)


def test_files_and_the_command_line(recorded: torchprof.Trace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded.save(tmp_path / "a.torchprof")
    for arguments in (["show"], ["show", "--by", "op"], ["show", "--by", "op", "--width", "50"], ["info"]):
        assert main([*arguments[:1], str(tmp_path / "a.torchprof"), *arguments[1:]]) == 0
        assert is_clean(capsys.readouterr().out)
    torchprof.export_folded(recorded, tmp_path / "a.folded")
    assert is_clean((tmp_path / "a.folded").read_text(encoding="utf-8"))
    assert f"{SHOWN} (Linear)" in (tmp_path / "a.folded").read_text(encoding="utf-8")
