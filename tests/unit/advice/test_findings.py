"""`findings`: what the rules found, in one list."""

from __future__ import annotations

import pytest
from handwritten import trace

import torchprof
from torchprof.advice.registry import all_rules


def test_what_is_worth_most_comes_first_and_a_good_loop_is_told_so() -> None:
    good = trace(steps=[{"start": 0, "end": 1000, "forward": 500}])
    found = torchprof.findings(good)
    assert not found
    assert "Nothing to improve was found" in str(found)


def test_what_is_no_trace_is_refused() -> None:
    with pytest.raises(torchprof.ModuleTypeError, match="not int"):
        torchprof.findings(5)  # type: ignore[arg-type]


def test_every_rule_stands_in_the_file_of_its_name() -> None:
    assert all(rule.find.__module__.endswith(f".{rule.name}") for rule in all_rules())
    assert len(all_rules()) > 0
