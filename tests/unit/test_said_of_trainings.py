"""What is said at the end of a training that a library ran."""

from __future__ import annotations

from pathlib import Path

import pytest
from handwritten import loop_trace

from torchprof import Trace
from torchprof.integrations.shown import show
from torchprof.running.verdict import lines_of


def test_a_file_that_was_moved_away_meanwhile_is_said_to_be_gone(tmp_path: Path) -> None:
    file = str(tmp_path / "uploaded.torchprof")
    said = lines_of(loop_trace(), file, "a step is a step")
    assert said[0].endswith("uploaded.torchprof (no longer there)")
    assert not any("torchprof show" in line for line in said)


def test_what_a_function_of_the_user_raises_is_said_and_the_training_has_ended(capsys: pytest.CaptureFixture[str]) -> None:
    def upload(trace: Trace) -> None:
        raise ConnectionError("no network")

    show([upload, lambda trace: f"{len(trace.steps)} steps"], loop_trace(), None, "a step is a step", "")
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("torchprof: ")
    assert said[0].endswith("raised ConnectionError: no network")
    assert said[1].endswith(" steps")
