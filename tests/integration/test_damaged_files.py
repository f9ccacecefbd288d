"""Damaged files of each kind: they are refused in one way, or all that is made of them comes to an end."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpus import corpus_in
from fuzz import Fuzzer


@pytest.mark.parametrize("seed", [1, 2])
def test_a_damaged_file_is_refused_or_everything_of_it_is_shown(tmp_path: Path, seed: int) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "damaged").mkdir()
    fuzzer = Fuzzer(corpus_in(tmp_path / "corpus"), tmp_path / "damaged", seed)
    for _ in range(100):
        fuzzer.one()
    assert fuzzer.first == {}
    assert fuzzer.outcomes["refused"] > 33
    assert fuzzer.outcomes["whole"] > 13


def test_a_fault_is_told_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fuzzer that finds nothing must be one that could."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "damaged").mkdir()
    fuzzer = Fuzzer(corpus_in(tmp_path / "corpus"), tmp_path / "damaged", seed=3)
    monkeypatch.setattr("torchprof.trace.file.find_damage", lambda *_: None)
    for _ in range(150):
        fuzzer.one()
        if fuzzer.first:
            return
    pytest.fail("the rows of tables were not checked, and nothing was found")
