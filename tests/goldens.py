"""Golden files: what printed texts were when somebody looked at them, in ``golden`` beside the tests."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

__all__ = ["Golden"]

HINT = "pytest --update-goldens writes it anew; look at what git diff says of it"


@dataclass(frozen=True)
class Golden:
    """Asserts that a text is what the golden file of this name says: ``golden(str(table), "by_op.txt")``.

    Attributes:
        update: write the text there instead.
        folder: where the files are.
    """

    update: bool
    folder: Path

    def __call__(self, text: str, name: str) -> None:
        path = self.folder / name
        if self.update:
            path.write_text(f"{text}\n", encoding="utf-8")
        assert path.exists(), f"there is no {path}: {HINT}"
        expected = path.read_text(encoding="utf-8").splitlines()
        difference = "\n".join(unified_diff(expected, text.splitlines(), str(path), "the text", lineterm=""))
        assert not difference, f"{difference}\nIf that is meant, {HINT}"
