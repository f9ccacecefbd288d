"""Memory that runs out while something is recorded: the program does not notice, and what was lost is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from compiled import SANITIZERS, shared_library

HERE = Path(__file__).parent.parent

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the allocations of one library are told from those of others there"),
    pytest.mark.skipif(bool(SANITIZERS), reason="a sanitizer has an allocator of its own"),
]


def outcomes(*arguments: str) -> Counter[str]:
    """How often what came of a program of out_of_memory.py; where it is bad, with the numbers of the allocations."""
    variables = {**os.environ, "LD_PRELOAD": str(shared_library("failing_new.cpp")), "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, str(HERE / "out_of_memory.py"), *arguments]
    said = subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout
    found = json.loads(said.splitlines()[-1])
    assert found["allocations"] > 300
    bad = {number: outcome for number, outcome in found["outcomes"].items() if outcome.startswith("bad")}
    assert not bad
    return Counter(outcome.partition(":")[0] for outcome in found["outcomes"].values())


@pytest.mark.parametrize(
    ("program", "first", "stride"),
    [("plain", 3, 71), ("without_stacks", 5, 97), ("aggregated", 7, 199), ("cycles", 11, 139), ("summary", 13, 41)],
)
def test_one_allocation_that_fails_loses_rows_which_are_counted_or_the_recording_which_is_said(
    program: str, first: int, stride: int
) -> None:
    found = outcomes(program, str(first), str(stride))
    assert found["raised MemoryError"] > 0
    if program != "summary":  # which has no trace to show
        assert found["incomplete, and told"] > 0


@pytest.mark.parametrize(("program", "stride"), [("plain", 331), ("aggregated", 997)])
def test_where_all_memory_is_gone_the_program_goes_on_and_the_recording_says_so_at_its_end(program: str, stride: int) -> None:
    found = outcomes(program, "5", str(stride), "all")
    assert set(found) == {"raised MemoryError"}
