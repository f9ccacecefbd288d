"""Traces of tests have file names that are safe, and no two the same."""

from __future__ import annotations

import re

import pytest

from torchprof.integrations.pytest_plugin.file_names import file_name

NODE_IDS = [
    "test_net.py::test_step",
    "tests/test_net.py::test_step",
    "tests/test_net.py::TestStep::test_step",
    "tests.test_net.py::test_step",
    "tests/test_net.py::test_step[1]",
    "tests/test_net.py::test_step_1",
    "tests/test_net.py::test_step[a/b]",
    "tests/test_net.py::test_step[a:b]",
    "tests/test_net.py::test_step[../../etc/passwd]",
    "tests/test_net.py::test_step[\\x00]",
    "tests/test_net.py::test_step[größe]",
    "tests/test_net.py::test_step[grösse]",
    "tests/test_net.py::test_step[" + "x" * 300 + "]",
    "tests/test_net.py::test_step[" + "x" * 301 + "]",
    "docs/guide.md::guide.md",
    ".",
]


def test_a_plain_name_stays_readable() -> None:
    assert file_name("tests/test_net.py::TestStep::test_step") == "tests.test_net.TestStep.test_step.torchprof"


@pytest.mark.parametrize("nodeid", NODE_IDS)
def test_a_name_is_safe_on_every_file_system(nodeid: str) -> None:
    name = file_name(nodeid)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]*\.torchprof", name)
    assert len(name) < 160


def test_no_two_tests_have_the_same_file() -> None:
    assert len({file_name(nodeid) for nodeid in NODE_IDS}) == len(NODE_IDS)
