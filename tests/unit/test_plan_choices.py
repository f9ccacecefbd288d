"""Which configurations a plan tries: the sizes of the mesh, the batch, and how often gradients are added up."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from torchprof import ArgumentError, ModuleTypeError
from torchprof.estimation.planner.choice import Choice
from torchprof.estimation.planner.choices import Choices, choices_of


def of(gpus: Any = 8, batch: Any = 1, sequence: Any = None, tokens_per_step: Any = None, **over: Any) -> Choices:
    return choices_of(gpus, batch, sequence, tokens_per_step, over)


def test_every_combination_is_tried_once() -> None:
    found = of((8, 16), (1, 2), tp=(1, 2, 2), checkpointing=("none", "full"))
    assert len(found.choices) == 2 * 2 * 2 * 2
    assert found.left_out == {}
    assert found.names == ("tp", "checkpointing")


def test_one_value_is_as_good_as_several() -> None:
    (choice,) = of(8, tp=2, precision="bf16").choices
    assert (choice.gpus, choice.tp, choice.precision, choice["tp"]) == (8, 2, "bf16", 2)


def test_an_ellipsis_is_the_ranks_that_the_others_leave() -> None:
    found = of((8, 16), fsdp=..., tp=(1, 2, 8))
    assert [(choice.gpus, choice.fsdp, choice.tp) for choice in found.choices] == [
        (8, 8, 1),
        (8, 4, 2),
        (8, 1, 8),
        (16, 16, 1),
        (16, 8, 2),
        (16, 2, 8),
    ]


def test_what_an_ellipsis_gives_twice_is_tried_once() -> None:
    assert [choice.fsdp for choice in of(8, fsdp=(8, ...)).choices] == [8]


def test_meshes_that_do_not_divide_the_gpus_are_left_out_and_counted() -> None:
    found = of((8, 12), tp=(1, 8), checkpointing=("none", "full"))
    assert {(choice.gpus, choice.tp) for choice in found.choices} == {(8, 1), (8, 8), (12, 1)}
    assert found.left_out == {"tp 8 does not divide 12 GPUs": 2}


def test_ranks_along_tp_cp_and_pp_have_the_same_samples() -> None:
    (choice,) = of(64, 2, 1000, fsdp=4, tp=2, cp=2, pp=2).choices
    assert choice.data_ranks == 8
    assert (choice.samples, choice.tokens) == (16, 16_000)


def test_gradients_are_added_up_until_a_step_has_its_tokens() -> None:
    found = of((8, 16), (1, 2), 1024, 64 * 1024, tp=(1, 2))
    passes = {(choice.gpus, choice.batch, choice.tp): choice.accumulation for choice in found.choices}
    assert passes[8, 1, 1] == 8
    assert passes[8, 1, 2] == 16
    assert passes[16, 2, 1] == 2
    assert {choice.tokens for choice in found.choices} == {64 * 1024}


def test_tokens_that_ranks_cannot_share_are_left_out() -> None:
    found = of((8, 12), 1, 100, 1600)
    assert [choice.gpus for choice in found.choices] == [8]
    assert found.left_out == {"1,600 tokens per step are no multiple of the 1,200 that 12 x batch 1 of 100 have at once": 1}


def test_names_of_ones_own_are_no_dimension_of_the_mesh() -> None:
    (choice,) = of(8, experts=3, fsdp=True).choices
    assert choice.mesh == {}
    assert choice.data_ranks == 8


def test_a_choice_is_a_mapping_and_travels() -> None:
    (choice,) = of(8, 1, 128, tp=2, dtype=torch.bfloat16).choices
    assert dict(choice) == {
        "gpus": 8,
        "batch": 1,
        "sequence": 128,
        "accumulation": 1,
        "tp": 2,
        "dtype": torch.bfloat16,
    }
    assert choice.to_dict()["dtype"] == "bfloat16"
    assert pickle.loads(pickle.dumps(choice)) == choice
    assert str(choice) == "8 GPUs, tp 2, dtype bfloat16, batch 1"
    with pytest.raises(AttributeError, match=r"has no 'tpp': it has gpus, .*, tp, dtype"):
        choice.tpp  # noqa: B018


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gpus": 0}, r"gpus=0 must be how many GPUs"),
        ({"gpus": (8, 10**9)}, r"gpus=\(8, 1000000000\) has more than the 1,048,576 GPUs"),
        ({"gpus": ()}, r"gpus=\(\) must be"),
        ({"gpus": (8, True)}, r"gpus=\(8, True\) must be"),
        ({"batch": "two"}, r"batch='two' must be"),
        ({"sequence": 1.5}, r"sequence=1.5 must be"),
        ({"sequence": 8, "tokens_per_step": 0}, r"tokens_per_step=0 must be"),
        ({"tokens_per_step": 64}, r"tokens_per_step=64 needs sequence="),
        ({"gpus": ...}, r"gpus=Ellipsis must be"),
        ({"tp": ()}, r"nothing to try for 'tp'"),
        ({"tp": 0}, r"'tp' is how many ranks there are along it, at least 1"),
        ({"tp": 3}, r"leave nothing to try: tp 3 does not divide 8 GPUs"),
        ({"tp": ..., "fsdp": ...}, r"has \.\.\. for 'tp' and 'fsdp'"),
        ({"checkpointing": ...}, r"has \.\.\. for 'checkpointing'"),
        ({"tokens": 3}, r"'tokens' is none that a value can have"),
        ({"a": range(101), "b": range(100)}, r"10,100 combinations, and at most 10,000"),
    ],
)
def test_what_cannot_be_tried_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        of(**given)


def test_over_is_a_mapping() -> None:
    with pytest.raises(ModuleTypeError, match="over must be a dict of values by name"):
        choices_of(8, 1, None, None, [("tp", 2)])


def test_choices_are_equal_where_all_of_them_is() -> None:
    assert Choice(8, 1, None, 1, {"tp": 2}) == Choice(8, 1, None, 1, {"tp": 2})
    assert Choice(8, 1, None, 1, {"tp": 2}) != Choice(8, 1, None, 1, {"tp": 4})
