"""Golden files are compared, and written only on request."""

from __future__ import annotations

from pathlib import Path

import pytest
from goldens import Golden


def test_a_missing_file_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"there is no .*new\.txt: pytest --update-goldens"):
        Golden(update=False, folder=tmp_path)("text", "new.txt")


def test_a_difference_is_shown(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_text("same\nold\n")
    with pytest.raises(AssertionError, match=r"(?s)-old.*\+new.*--update-goldens"):
        Golden(update=False, folder=tmp_path)("same\nnew", "old.txt")


def test_an_update_writes_the_text(tmp_path: Path) -> None:
    Golden(update=True, folder=tmp_path)("text", "new.txt")
    Golden(update=False, folder=tmp_path)("text", "new.txt")


def test_every_golden_file_is_used() -> None:
    for folder in Path(__file__).parents[1].glob("*/golden"):
        tests = "".join(path.read_text(encoding="utf-8") for path in folder.parent.glob("test_*.py"))
        assert [path.name for path in folder.iterdir() if f'"{path.name}"' not in tests] == []
