"""`torchprof run --steps-by`: where nothing was a step, it is said what was missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_programs import TRAINING, by_run


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("range:nope", "no record_function('nope') was entered"),
        ("batches", "no DataLoader was iterated"),
    ],
)
def test_what_never_began_is_named(tmp_path: Path, by: str, said: str) -> None:
    done = by_run(tmp_path, TRAINING + "\n    train(2)", options=["--steps-by", by])
    assert (done.verdict, done.files) == (f"torchprof: nothing was recorded: {said}\n", [])


@pytest.mark.parametrize(("by", "said"), [("optimizer", "no optimizer stepped"), ("forward", "no model was called")])
def test_a_program_that_does_not_what_a_step_is_is_told(tmp_path: Path, by: str, said: str) -> None:
    done = by_run(tmp_path, "import torch; torch.ones(2).exp()", options=["--steps-by", by, "--steps", "3:8"])
    assert done.verdict == f"torchprof: nothing was recorded: {said}\n"


def test_calls_are_steps_because_it_was_asked_for(tmp_path: Path) -> None:
    asked = by_run(tmp_path, TRAINING + "\n    train(3)", options=["--steps-by", "forward"]).verdict
    assert "a step is a call of the model, as --steps-by forward says" in asked
    assert "no optimizer stepped" not in asked
    found = by_run(tmp_path, "import torch\nm = torch.nn.Linear(2, 2)\nfor _ in 'abc': m(torch.ones(1, 2))").verdict
    assert "a step is a call of the model: no optimizer stepped" in found
