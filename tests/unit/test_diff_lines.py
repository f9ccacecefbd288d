"""Which line of one program is which of another, after an edit."""

from __future__ import annotations

import numpy as np
import pytest
from stacked import training

from torchprof.analysis.lines.records import place_records
from torchprof.comparison.alignment.lines import align_lines
from torchprof.comparison.side import Row

Line = tuple[int, str]


def lines(*of: Line, file: str = "/a/train.py", function: str = "train", first: int = 10) -> list[Row]:
    """Rows of lines by number and text; an empty text is not known."""
    return [
        Row(
            {
                **{"name": f"train.py:{line}", "file": file, "line": line, "function": function},
                **{"first_line": first, "source": text},
            },
            {},
        )
        for line, text in of
    ]


def aligned(a: list[Row], b: list[Row], *, functions: bool = False) -> dict[str, str]:
    return {pair.row.label: pair.note or pair.how for pair in align_lines(a, b, functions=functions)}


LOOP = ((11, "x = f(a)"), (12, "y = g(x)"), (13, "h(y)"))


def test_lines_that_did_not_move_are_the_same() -> None:
    assert set(aligned(lines(*LOOP), lines(*LOOP)).values()) == {"same"}


def test_a_line_with_the_same_text_is_moved() -> None:
    b = lines((11, "x = f(a)"), (12, "check(x)"), (13, "y = g(x)"), (14, "h(y)"))
    assert aligned(lines(*LOOP), b) == {
        **{"train.py:11": "same", "train.py:12": "added"},
        **{"train.py:13": "moved from train.py:12", "train.py:14": "moved from train.py:13"},
    }


def test_a_line_that_was_edited_is_another_one() -> None:
    found = align_lines(lines(*LOOP), lines((11, "x = f(a, 2)"), (12, "y = g(x)"), (13, "h(y)")), functions=False)
    assert sorted((pair.how, pair.row.record["source"]) for pair in found if pair.how != "same") == [
        ("added", "x = f(a, 2)"),
        ("removed", "x = f(a)"),
    ]


def test_without_a_text_it_is_how_far_a_line_is_from_the_beginning_of_its_function() -> None:
    a, b = lines((11, ""), (12, "")), lines((21, ""), (22, ""), first=20)
    assert aligned(a, b) == {"train.py:21": "moved from train.py:11", "train.py:22": "moved from train.py:12"}


def test_a_file_in_another_folder_is_the_same_where_it_is_alone() -> None:
    assert set(aligned(lines(*LOOP), lines(*LOOP, file="C:\\b\\train.py")).values()) == {"same"}
    two = lines(*LOOP, file="/b/train.py") + lines(*LOOP, file="/c/train.py")
    found = [pair.how for pair in align_lines(lines(*LOOP), two, functions=False)]
    assert sorted(set(found)) == ["added", "removed"]


def test_functions_are_matched_by_name_wherever_they_begin() -> None:
    a, b = lines((11, "def train():")), lines((31, "def train():"), first=31)
    assert aligned(a, b, functions=True) == {"train.py:31": "same"}
    other = align_lines(a, lines((11, ""), function="test"), functions=True)
    assert sorted(pair.how for pair in other) == ["added", "removed"]


def test_the_times_of_single_steps_have_the_mean_that_is_shown() -> None:
    for functions in (False, True):
        found = 0
        for record in place_records(training().trace(), functions=functions, by_step=True):
            for name, values in record["by_step"].items():
                assert np.mean(values) == pytest.approx(record[name])
                found += 1
        assert found >= 2
