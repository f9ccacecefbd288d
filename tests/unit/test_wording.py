"""How messages shorten what they quote."""

from __future__ import annotations

import pytest

from torchprof.wording import shortened


@pytest.mark.parametrize(
    ("text", "longest", "said"),
    [
        ("short enough", 12, "short enough"),
        ("in  two\nlines", 20, "in two lines"),
        ("tp 2 does not divide num_attention_heads 3", 30, "tp 2 does not divide..."),
        ("one_word_that_is_far_too_long", 10, "one_wor..."),
        ("", 5, ""),
    ],
)
def test_a_text_is_shortened_between_words(text: str, longest: int, said: str) -> None:
    assert shortened(text, longest) == said
    assert len(said) <= longest
