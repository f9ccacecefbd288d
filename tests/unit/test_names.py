"""Long names are cut in the middle, and names that differ still do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from torchprof.rendering.cells import cells_of, joined, width_of
from torchprof.rendering.names import cut, shortened

PARTS = (
    "encoder",
    "decoder",
    "layer",
    "1",
    "10",
    "11",
    "attention",
    "self",
    "output",
    "query",
    "注意機構",
    "e\u0301tage",
    "(Linear)",
)


@pytest.mark.parametrize(
    ("size", "cut_to"),
    [
        (37, ["encoder.layer.1.attention.self.query", "encoder.layer.10.attention.self.query"]),
        (30, ["encoder.layer.1.att…self.query", "encoder.layer.10.at…self.query"]),
        (16, ["encoder.…1.…uery", "encoder.…10…uery"]),
        (10, ["enco…1.…ry", "enco…10…ry"]),
    ],
)
def test_what_differs_in_the_middle_stays(size: int, cut_to: list[str]) -> None:
    names = ["encoder.layer.1.attention.self.query", "encoder.layer.10.attention.self.query"]
    assert shortened(names, size) == cut_to


def test_names_that_differ_in_two_places_keep_both() -> None:
    names = [f"model.layers.{i}.a_block_with_a_long_name.{j}.attention.query_projection" for i in (1, 2, 10) for j in (0, 1)]
    assert shortened(names, 24) == [
        "model.layers.1.…0…ection",
        "model.layers.1.…1…ection",
        "model.layers.2…0…jection",
        "model.layers.2…1…jection",
        "model.layers.10…0…ection",
        "model.layers.10…1…ection",
    ]


def test_the_class_of_a_module_gives_way_before_its_name() -> None:
    assert cut("attention (BertAttention)", 25) == "attention (BertAttention)"
    assert cut("attention (BertAttention)", 20) == "attention (BertA…on)"
    assert cut("attention (BertAttention)", 15) == "attention"
    assert cut("a_rather_long_name (Net)", 16) == "a_rath…ame (Net)"


def test_siblings_of_one_class_are_told_apart_by_their_names() -> None:
    names = [f"encoder_layer_{at}_attention_projection (Linear)" for at in (1, 10)]
    assert shortened(names, 30) == ["encoder_layer_1_attent…jection", "encoder_layer_10_atten…jection"]


def test_a_name_that_is_the_beginning_of_another_is_told_from_it() -> None:
    short = "block_of_a_network_with_a_long_name"
    cut_to = shortened([short, f"{short}s"], 12)
    assert len(set(cut_to)) == 2


def test_names_with_no_room_for_what_tells_them_apart_are_numbered() -> None:
    names = [
        f"{a}aaaaaaaaaaaa{b}aaaaaaaaaaaaa{c}aaaaaaaaaaa{d}aaaaaaaa" for a in "xy" for b in "xy" for c in "xy" for d in "xy"
    ]
    cut_to = shortened(names, 6)
    assert len(set(cut_to)) == len(names)
    assert all(len(name) <= 6 for name in cut_to)


def test_wide_characters_are_not_cut_in_half() -> None:
    assert cut("漢字漢字漢字", 12) == "漢字漢字漢字"
    assert cut("漢字漢字漢字", 7) == "漢字…字"
    assert all(width_of(cut("漢字漢字漢字", size)) == size for size in range(1, 12))


def test_combining_characters_stay_with_theirs() -> None:
    assert list(cells_of("e\u0301a漢")) == ["e\u0301", "a", "漢", ""]
    assert joined(cells_of("e\u0301a漢")) == "e\u0301a漢"
    assert cut("e\u0301" * 10, 5) == "e\u0301e\u0301e\u0301…e\u0301"


@given(st.lists(st.lists(st.sampled_from(PARTS), min_size=1, max_size=9).map(".".join), unique=True), st.integers(8, 60))
def test_no_name_is_longer_than_there_is_room_for_and_different_names_stay_different(names: list[str], size: int) -> None:
    cut_to = shortened(names, size)
    assert all(cell_len(name) <= size for name in cut_to)
    assert [short for short, name in zip(cut_to, names, strict=True) if cell_len(name) <= size and short != name] == []
    assert len(set(cut_to)) == len(names)
