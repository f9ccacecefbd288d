"""Rules of advice about memory and the model, on programs that run: what they find is there, and a good loop is told so."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

import torchprof
from torchprof.advice.finding import Finding
from torchprof.advice.rules import checkpoint_candidates as candidates
from torchprof.advice.rules.attention_fallback import attention_fallback
from torchprof.advice.rules.bias_before_norm import bias_before_norm
from torchprof.advice.rules.frozen_graph import frozen_graph
from torchprof.advice.rules.leaks import leaks
from torchprof.advice.rules.plain_attention import plain_attention
from torchprof.advice.rules.recomputation import recomputation
from torchprof.advice.rules.unused_parameters import unused_parameters
from torchprof.rendering.units import format_bytes

ABOUT_THE_MODEL = (
    *("attention_fallback", "bias_before_norm", "checkpoint_candidates", "fragmentation", "frozen_graph", "leaks"),
    *("plain_attention", "recomputation", "unused_parameters"),
)


def recorded(model: nn.Module, step: Callable[[], None], steps: int = 5) -> torchprof.Trace:
    with torchprof.profile(model) as prof:
        for _ in range(steps):
            step()
            prof.step()
    return prof.trace


def trained(model: nn.Module, make: Callable[[], torch.Tensor], steps: int = 5) -> torchprof.Trace:
    """A loop as it should be: the loss is the mean of what the model makes of the batch."""
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)

    def step() -> None:
        optimizer.zero_grad()
        model(make()).mean().backward()
        optimizer.step()

    return recorded(model, step, steps)


class Block(nn.Module):
    """Of a transformer, in short."""

    def __init__(self, width: int = 64, attends: bool = True) -> None:
        super().__init__()
        self.attends = attends
        self.norm = nn.LayerNorm(width)
        self.up, self.act, self.down = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.attends:
            heads = x.view(*x.shape[:-1], 4, -1).transpose(-2, -3)
            x = x + scaled_dot_product_attention(heads, heads, heads).transpose(-2, -3).flatten(-2)
        made: torch.Tensor = x + self.down(self.act(self.up(self.norm(x))))
        return made


class Blocks(nn.Module):
    def __init__(self, *blocks: nn.Module, checkpoints: bool = False) -> None:
        super().__init__()
        self.blocks, self.checkpoints = nn.ModuleList(blocks), checkpoints

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpoints else block(x)
        return x


def sequences() -> torch.Tensor:
    return torch.randn(4, 64, 64)


def images() -> torch.Tensor:
    return torch.randn(4, 3, 16, 16)


def found_about_the_model(trace: torchprof.Trace) -> list[str]:
    return [finding.rule for finding in torchprof.findings(trace) if finding.rule in ABOUT_THE_MODEL]


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


@pytest.mark.parametrize(
    ("model", "make"),
    [
        (Blocks(Block(), Block()), sequences),
        (nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()), images),
    ],
    ids=["transformer", "convolutions"],
)
def test_a_good_loop_is_told_nothing(model: nn.Module, make: Callable[[], torch.Tensor]) -> None:
    trace = trained(model, make)
    assert found_about_the_model(trace) == []


def test_fine_tuning_as_it_should_be() -> None:
    """The body is frozen and builds no graph, and evaluation runs without one."""
    model = nn.Sequential(Block(), nn.Linear(64, 64), nn.Linear(64, 2))
    model[:2].requires_grad_(False)
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)

    def step() -> None:
        optimizer.zero_grad()
        model(sequences()).mean().backward()
        optimizer.step()
        with torch.no_grad():
            model(sequences())

    assert found_about_the_model(recorded(model, step)) == []


def test_frozen_layers_whose_input_requires_a_gradient() -> None:
    model = nn.Sequential(Block(), nn.Linear(64, 2))
    model[0].requires_grad_(False)
    found = only(frozen_graph(trained(model, lambda: sequences().requires_grad_())))
    assert found.module == "0"
    assert found.worth is not None
    assert 0 < found.worth.high < found.worth.whole


def test_frozen_layers_after_what_is_trained_need_their_graph() -> None:
    model = nn.Sequential(nn.Linear(64, 64), Block(), nn.Linear(64, 2))
    model[1].requires_grad_(False)
    assert list(frozen_graph(trained(model, sequences))) == []


def test_evaluation_that_builds_a_graph() -> None:
    model = Blocks(Block())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    held: list[torch.Tensor] = []

    def step() -> None:
        optimizer.zero_grad()
        held[:] = [model(sequences())]  # for validation, without no_grad
        model(sequences()).mean().backward()
        optimizer.step()

    found = only(frozen_graph(recorded(model, step)))
    assert found.what.startswith("1 call in a step")
    saved = 4 * 64 * 64 * 4 * 4  # what GELU was given is the largest that it keeps
    assert found.worth is not None
    assert found.worth.high > saved


def test_inference_without_no_grad() -> None:
    model = Blocks(Block()).eval()
    assert only(frozen_graph(recorded(model, lambda: model(sequences())))).details == ("the model",)
    with torch.inference_mode():
        assert list(frozen_graph(recorded(model, lambda: model(sequences())))) == []
    in_training = Blocks(Block())
    assert list(frozen_graph(recorded(in_training, lambda: in_training(sequences())))) == []  # it may be half of a step


def test_a_loss_that_is_kept_with_its_graph() -> None:
    model, kept = Blocks(Block()), []

    def step() -> None:
        kept.append(model(sequences()).mean())

    found = only(leaks(recorded(model, step, steps=6)))
    assert any(line.startswith("test_advice_on_models.py:") for line in found.lines)
    assert ".detach()" in found.advice


def test_a_head_that_is_not_used_and_one_that_is_detached() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.unused, self.detached = nn.Linear(64, 64), nn.Linear(64, 8), nn.Linear(64, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.body(x)
            made: torch.Tensor = x.mean() + self.detached(x).detach().mean()
            return made

    found = only(unused_parameters(trained(Heads(), sequences)))
    assert found.details == ("detached: 4.1 KiB", "unused: 2.0 KiB, which no op reads")
    assert found.worth is not None
    assert found.worth.high == (64 * 8 + 8 + 64 * 16 + 16) * 4


def test_a_weight_that_two_layers_share_gets_one() -> None:
    model = nn.Sequential(nn.Embedding(100, 64), Block(), nn.Linear(64, 100, bias=False))
    model[2].weight = model[0].weight
    assert list(unused_parameters(trained(model, lambda: torch.randint(100, (4, 64))))) == []


def test_a_bias_that_belongs_to_two_modules_gets_one() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(8))
            self.decoder = nn.Linear(64, 8)
            self.decoder.bias = self.bias

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.decoder(x)
            return made

    assert list(unused_parameters(trained(Head(), sequences))) == []


def test_gradients_that_are_kept_and_zeroed() -> None:
    model = Blocks(Block())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(sequences()).mean().backward()

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        model(sequences()).mean().backward()
        optimizer.step()

    assert list(unused_parameters(recorded(model, step))) == []


def test_a_bias_before_a_batch_norm() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.BatchNorm2d(8)),  # this bias matters
        *(nn.Conv2d(8, 8, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(8)),  # and this
        *(nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8), nn.Flatten()),  # and this
        *(nn.Linear(512, 4), nn.BatchNorm1d(4)),
    )
    found = only(bias_before_norm(trained(model, images)))
    assert found.details == ("0 (Conv2d) before 1 (BatchNorm2d)", "12 (Linear) before 13 (BatchNorm1d)")
    assert found.worth is None


def test_a_residual_in_place_between_a_convolution_and_its_norm() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.conv(x)
            out += x
            made: torch.Tensor = self.norm(out)
            return made

    assert list(bias_before_norm(trained(Residual(), images))) == []


def test_attention_of_plain_products() -> None:
    model = Blocks(Block())

    def step() -> None:
        with sdpa_kernel(SDPBackend.MATH):
            model(torch.randn(4, 128, 64))

    found = only(attention_fallback(recorded(model, step)))
    assert found.module == "blocks.0"
    assert "float32 query [4, 4, 128, 16]" in found.details[0]
    assert "scores of 1,024.0 KiB" in found.details[0]


def test_what_a_checkpoint_would_save_is_what_it_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_blocks(*, checkpoints: bool) -> torchprof.Trace:
        blocks = (Block(attends=False) for _ in range(6))
        return trained(Blocks(*blocks, checkpoints=checkpoints), lambda: torch.randn(16, 64, 64), steps=2)

    kept, again = of_blocks(checkpoints=False), of_blocks(checkpoints=True)
    assert list(candidates.checkpoint_candidates(kept)) == []  # of so little memory it is not worth a word
    monkeypatch.setattr(candidates, "LEAST_PEAK", 0)
    found = only(candidates.checkpoint_candidates(kept))
    saved = torchprof.memory(kept).peak.bytes - torchprof.memory(again).peak.bytes
    assert found.worth is not None
    assert found.worth.low <= saved <= found.worth.high
    assert found.details[0].startswith("blocks.* (6 modules): ")


def test_the_price_of_checkpoints() -> None:
    blocks = (Block(attends=False) for _ in range(4))
    trace = trained(Blocks(*blocks, checkpoints=True), lambda: torch.randn(16, 64, 64), steps=2)
    found = only(recomputation(trace))
    of_block = sum(4 * 16 * 64 * width for width in (64, 4 * 64, 4 * 64)) + 2 * 4 * 16 * 64  # of the norm, and around GELU
    assert f"it saves up to {format_bytes(3 * of_block)} of activations" in found.what
    (detail,) = found.details
    assert detail.startswith(f"blocks.*: {format_bytes(4 * of_block)} of activations for ")
    by_step = torchprof.by_step(trace).rows
    assert found.worth is not None
    assert found.worth.high == sum(row["recompute"] for row in by_step) // len(by_step)


@pytest.mark.parametrize(("weights", "dropout", "is_told"), [(True, 0.0, True), (False, 0.0, False), (True, 0.1, False)])
def test_attention_that_is_asked_for_its_weights(weights: bool, dropout: float, is_told: bool) -> None:
    """No fused kernel of a CPU has dropout."""

    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(64, 4, dropout, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.attention(x, x, x, need_weights=weights)[0]
            return made

    found = list(plain_attention(trained(Attends(), lambda: torch.randn(4, 128, 64))))
    assert [finding.module for finding in found] == (["attention"] if is_told else [])
