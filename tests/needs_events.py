"""The marker ``events``: the test records with gpu="events". Where PyTorch refuses that, the refusal is what it asserts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import torchprof

__all__ = ["CANNOT_TELL", "TELLS_CAPTURE", "pytest_runtest_call"]

TELLS_CAPTURE = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 12)  # 2.11 does not
CANNOT_TELL = "this version of PyTorch cannot tell whether a graph is being captured: a newer one is needed"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    if TELLS_CAPTURE or item.get_closest_marker("events") is None:
        yield
        return
    with pytest.raises(torchprof.RecordingError, match=CANNOT_TELL):
        yield
