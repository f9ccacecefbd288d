"""`findings` of programs that really run: what each rule about time is there for, and loops that are written well.

What must be found takes nearly all of its step. What must not be found is not there at all: no limit of time plays a part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchprof
from torchprof.advice import loop
from torchprof.advice.registry import NotTold, all_rules
from torchprof.advice.rules import optimizer_loops, zeroed_gradients

ABOUT_TIME = ("copies", "index_loops", "optimizer_loops", "repeated_casts", "synchronizations", "zeroed_gradients")


def findings_of(step: Callable[[], Any], model: nn.Module | None = None, **options: Any) -> dict[str, torchprof.Finding]:
    """The findings of three steps about time, by rule, after two that are not recorded."""
    for _ in range(2):
        step()
    with torchprof.profile(model, **options) as prof:
        for _ in range(3):
            step()
            prof.step()
    found = [each for rule in all_rules() if rule.name in ABOUT_TIME for each in rule.find(prof.trace)]
    return {each.rule: each for each in found}


@pytest.fixture
def everything_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Findings are told however little they are worth."""
    for module in (loop, optimizer_loops, zeroed_gradients):
        monkeypatch.setattr(module, "LEAST", 0.0)


def line_of(function: Callable[..., Any], offset: int) -> str:
    return f"test_findings_of_programs.py:{function.__code__.co_firstlineno + offset}"


def test_a_loop_over_an_index() -> None:
    x = torch.randn(50, 8)

    def step() -> Tensor:
        return torch.stack([x[row] * 2 for row in range(50)])

    found = findings_of(step)["index_loops"]
    assert found.lines == (line_of(step, 1),)
    assert found.details[0].startswith(f"{line_of(step, 1)} aten::select of [50, 8]: 50 passes a step, of 2 ops")


def test_a_loop_over_rows() -> None:
    x = torch.randn(50, 8)

    def step() -> list[Tensor]:
        return [row.sum() for row in x]

    assert "aten::sum of [8]: 50 passes a step, of 1 op" in findings_of(step)["index_loops"].details[0]


def test_zeroed_gradients_by_an_optimizer_and_by_a_module() -> None:
    model = nn.Linear(512, 512)
    optimizer = torch.optim.SGD(model.parameters(), fused=True)

    def zero_by_optimizer() -> None:
        model(torch.ones(1, 512)).sum().backward()
        optimizer.zero_grad(set_to_none=False)

    def zero_by_module() -> None:
        model(torch.ones(1, 512)).sum().backward()
        model.zero_grad(set_to_none=False)

    for step in (zero_by_optimizer, zero_by_module):
        found = findings_of(step, model)["zeroed_gradients"]
        assert found.what.endswith(": 2 a step")
        assert found.lines == (line_of(step, 2),)


def test_an_optimizer_that_loops_and_one_that_does_not() -> None:
    parameters = nn.ParameterList([nn.Parameter(torch.ones(4)) for _ in range(40)])

    def step_of(**options: Any) -> Callable[[], Any]:
        optimizer = torch.optim.AdamW(parameters, **options)
        for parameter in parameters:
            parameter.grad = torch.ones(4)
        return optimizer.step

    found = findings_of(step_of(), parameters)["optimizer_loops"]
    assert "for 40 parameters" in found.what
    assert not findings_of(step_of(fused=True), parameters)
    assert not findings_of(step_of(foreach=True), parameters)


def test_a_dtype_and_a_layout_there_and_back() -> None:
    x = torch.randn(1000, 1000)

    def step() -> Tensor:
        x.double().float()
        return x.t().contiguous().t().contiguous()

    found = findings_of(step)["copies"]
    assert found.what.endswith(": 2 times a step")
    assert set(found.lines) == {line_of(step, 1), line_of(step, 2)}


def test_a_copy_that_is_used_is_none(everything_counts: None) -> None:
    x = torch.randn(100, 100)

    def step() -> Tensor:
        wide = x.double()
        wide.add_(1)
        narrow = wide.float()
        turned = narrow.t().contiguous()
        return (turned @ turned).t().contiguous()

    assert "copies" not in findings_of(step)


def test_a_buffer_that_is_converted_in_every_step() -> None:
    model = nn.Module()
    model.register_buffer("table", torch.randn(1000, 1000))

    def step() -> None:
        model.get_buffer("table").double()

    found = findings_of(step, model)["repeated_casts"]
    assert found.what == "Tensors that stay the same are converted again: 1 time a step"
    assert found.details[0].startswith(f"{line_of(step, 1)} float32 to float64, 1 a step")


def test_a_weight_that_is_converted_by_hand_for_every_use(everything_counts: None) -> None:
    model = nn.Linear(64, 64, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), fused=True)

    def by_hand(uses: int) -> Callable[[], None]:
        def step() -> None:
            x = torch.ones(4, 64, dtype=torch.bfloat16)
            for _ in range(uses):
                x = F.linear(x, model.weight.bfloat16())
            x.sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    assert "repeated_casts" not in findings_of(by_hand(1), model)
    found = findings_of(by_hand(3), model)["repeated_casts"]
    assert found.what == "Tensors that change once in a step are converted again: 2 times a step"


def test_autocast_keeps_what_it_converted(everything_counts: None) -> None:
    model = nn.Linear(64, 64, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(model(torch.ones(4, 64))).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    assert "repeated_casts" not in findings_of(step, model)


def language_model() -> tuple[nn.Module, Callable[[], Any]]:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=20, n_embd=16, n_head=2, vocab_size=64, n_positions=32, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    tokens = torch.randint(64, (2, 32))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(tokens, labels=tokens).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return model, step


def convolutions() -> tuple[nn.Module, Callable[[], Any]]:
    def block() -> nn.Module:
        return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())

    layers = nn.Sequential(*[block() for _ in range(20)], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    model = layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, fused=True)
    targets = torch.randint(4, (4,))

    def step() -> None:
        images = torch.randn(4, 8, 8, 8)
        F.cross_entropy(model(images.to(memory_format=torch.channels_last)), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, step


def recurrent() -> tuple[nn.Module, Callable[[], Any]]:
    model = nn.LSTM(8, 8, num_layers=2)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def step() -> None:
        model(torch.ones(50, 2, 8))[0].sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, step


@pytest.mark.parametrize("program", [language_model, convolutions, recurrent])
def test_no_rule_finds_anything_in_a_loop_that_is_written_well(
    program: Callable[[], tuple[nn.Module, Callable[[], Any]]], everything_counts: None
) -> None:
    model, step = program()
    assert findings_of(step, model) == {}


def test_an_aggregated_recording_says_what_it_does_not_tell() -> None:
    model, step = recurrent()
    with torchprof.profile(model, aggregate=True) as prof:
        step()
        prof.step()
    found = torchprof.findings(prof.trace)
    assert not [each for each in found if each.rule in ABOUT_TIME]
    assert set(found.not_told) >= {"copies", "index_loops", "repeated_casts"}
    with pytest.raises(NotTold, match="aggregated"):
        list(next(rule for rule in all_rules() if rule.name == "copies").find(prof.trace))
