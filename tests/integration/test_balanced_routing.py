"""Routers in ``estimate(routing="balanced")``: what they choose is known, and all that follows from it.

Ranks that send to each other: ``test_expert_parallel.py`` and, against gloo, ``test_sharded_truth.py``.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from sharded_programs import step_peaks
from torch import Tensor, nn
from transformers import MixtralConfig, MixtralForCausalLM

import torchprof
from torchprof import ArgumentError, Estimate, EstimateError
from torchprof.estimation.fake.routing import chosen_evenly

WIDTH, ROWS, EXPERTS = 16, 50, 4

Sizes = Callable[[Tensor], Any]
Choose = Callable[[Tensor], Tensor]

ANSWERS: list[Any] = []
"""Of the last estimate. A module is copied with all that it holds."""


@pytest.mark.parametrize(("rows", "count", "options"), [(8, 2, 4), (7, 3, 5), (1, 1, 8), (200, 2, 8), (3, 4, 4), (0, 2, 4)])
def test_what_is_chosen_evenly_is_chosen_equally_often_and_never_twice_by_a_row(rows: int, count: int, options: int) -> None:
    chosen = chosen_evenly(rows, count, options)
    assert chosen.shape == (rows, count)
    counts = chosen.flatten().bincount(minlength=options)
    assert int(counts.max() - counts.min()) <= 1
    assert len(counts) == options
    assert all(len(set(row)) == count for row in chosen.tolist())
    halves = counts[: options // 2].sum(), counts[(options + 1) // 2 :].sum()
    assert abs(int(halves[0] - halves[1])) <= 1, "what does not divide is spread over ranks"


class Reads(nn.Module):
    """Asks something of what a router chooses, and remembers the answer."""

    def __init__(self, asks: Sizes, choose: Choose) -> None:
        super().__init__()
        self.router, self.asks, self.choose = nn.Linear(WIDTH, EXPERTS), asks, choose

    def forward(self, x: Tensor) -> Tensor:
        scores = self.router(x)
        ANSWERS.append(self.asks(self.choose(scores)))
        return scores


def top_two(scores: Tensor) -> Tensor:
    chosen: Tensor = scores.softmax(-1).topk(2, dim=-1)[1]
    return chosen


def answer(asks: Sizes, choose: Choose = top_two, **options: Any) -> tuple[Any, Estimate]:
    ANSWERS.clear()
    asked = {"device": "cpu", "routing": "balanced", **options}
    found = torchprof.estimate(partial(Reads, asks, choose), (ROWS, WIDTH), **asked)
    return ANSWERS[-1], found


def selected(chosen: Tensor) -> list[int]:
    """Rows of each expert, by masks."""
    rows = torch.empty(ROWS, WIDTH)
    return [len(rows[(chosen == expert).any(-1)]) for expert in range(EXPERTS)]


def mapped(chosen: Tensor) -> list[int]:
    """As Megatron-LM counts."""
    of_rows = torch.zeros(ROWS, EXPERTS).scatter_(1, chosen, 1.0).bool()
    return [int(count) for count in of_rows.sum(0)]


def sorted_ends(chosen: Tensor) -> list[int]:
    counts = torch.histc(chosen.flatten().float(), EXPERTS, 0, EXPERTS - 1)
    return counts.cumsum(0).long().cpu().numpy().tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "asks",
    [
        selected,
        mapped,
        lambda chosen: chosen.flatten().bincount(minlength=EXPERTS).tolist(),
        lambda chosen: nn.functional.one_hot(chosen, EXPERTS).sum((0, 1)).tolist(),
        lambda chosen: [len(torch.where(chosen == expert)[0]) for expert in range(EXPERTS)],
        lambda chosen: [len((chosen == expert).nonzero()) for expert in range(EXPERTS)],
        lambda chosen: [(chosen == expert).sum().item() for expert in range(EXPERTS)],
        lambda chosen: (
            torch.zeros(EXPERTS, dtype=torch.long)
            .index_add_(0, chosen.flatten(), torch.ones(2 * ROWS, dtype=torch.long))
            .tolist()
        ),
        lambda chosen: chosen.unique(return_counts=True)[1].tolist(),
        lambda chosen: [len(torch.empty(ROWS, 2).masked_select(chosen == expert)) for expert in range(EXPERTS)],
    ],
    ids=["masks", "map", "bincount", "one_hot", "where", "nonzero", "item", "index_add", "unique", "masked_select"],
)
def test_each_expert_gets_as_many_tokens_however_a_program_counts_them(asks: Sizes) -> None:
    counts, found = answer(asks)
    assert [int(count) for count in counts] == [25, 25, 25, 25]
    assert len(found.assumed) == 1


def test_offsets_turn_into_arrays() -> None:
    assert answer(sorted_ends)[0] == [25, 50, 75, 100]


@pytest.mark.parametrize(
    "choose",
    [
        lambda scores: scores.argmax(-1),
        lambda scores: scores.max(dim=-1)[1],
        lambda scores: torch.multinomial(scores.softmax(-1), 1)[:, 0],
        lambda scores: scores.t().topk(1, dim=0)[1][0],
    ],
    ids=["argmax", "max", "multinomial", "another dimension"],
)
def test_routers_choose_by_other_ops_too(choose: Choose) -> None:
    counts, _ = answer(lambda chosen: chosen.bincount(minlength=EXPERTS).tolist(), choose)
    assert sorted(counts) == [12, 12, 13, 13]


def test_nothing_is_assumed_where_nothing_is_read() -> None:
    assert answer(lambda chosen: chosen.shape)[1].assumed == ()


def test_what_follows_from_other_values_is_an_error_all_the_same() -> None:
    with pytest.raises(EstimateError, match="reads the values"):
        answer(lambda chosen: (chosen + torch.randint(2, chosen.shape)).tolist())
    with pytest.raises(EstimateError, match="reads the values"):
        answer(lambda chosen: torch.empty_like(chosen).tolist())


def test_a_router_that_is_read_is_told_of_the_way_out() -> None:
    with pytest.raises(EstimateError, match=r"reads the values.*routing='balanced' takes it that all get as many"):
        answer(lambda chosen: chosen.tolist(), routing=None)


@pytest.mark.parametrize("routing", ["even", 0.5, True, float("inf"), [1]])
def test_other_routings_are_named(routing: Any) -> None:
    with pytest.raises(ArgumentError, match="must be 'balanced', a number of at least 1"):
        answer(lambda chosen: None, routing=routing)


def test_a_model_alone_is_sent_nothing() -> None:
    with pytest.raises(ArgumentError, match=r"routing=1.25 is how much more than its share a rank of many is sent"):
        answer(lambda chosen: None, routing=1.25)


def mixtral(how: str) -> nn.Module:
    config = MixtralConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=256,
        use_cache=False,
    )
    config._experts_implementation = how
    return MixtralForCausalLM(config)


TOKENS = torch.arange(200).view(2, 100)


def measured(monkeypatch: pytest.MonkeyPatch) -> int:
    """The peak of a real step in which each expert gets as many tokens."""
    topk = torch.topk

    def forced(scores: Tensor, count: int, **options: Any) -> Any:
        values, chosen = topk(scores, count, **options)
        chosen.data.copy_((torch.arange(len(scores))[:, None] * count + torch.arange(count)) % scores.shape[-1])
        return values, chosen

    monkeypatch.setattr(torch, "topk", forced)
    model = mixtral("eager")
    optimizer = torch.optim.AdamW(model.parameters())
    gc.collect()
    with torchprof.profile(model, memory=True, stacks=False) as prof:
        for _ in range(2):
            out = model(input_ids=TOKENS, labels=TOKENS)
            out.loss.backward()
            optimizer.step()
            del out
            optimizer.zero_grad()
            prof.step()
    peak: int = step_peaks(torchprof.memory(prof.trace, "cpu"))[-1]
    return peak


def test_a_loop_over_experts_needs_what_it_really_does(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"input_ids": TOKENS, "labels": TOKENS}
    found, grouped = (
        torchprof.estimate(partial(mixtral, how), given, optimizer=torch.optim.AdamW, device="cpu", routing="balanced")
        for how in ("eager", "grouped_mm")
    )
    assert found.max_allocated == pytest.approx(measured(monkeypatch), rel=0.001)
    assert found.flops == grouped.flops
    assert len(found.assumed) == 1
    assert grouped.assumed == ()
