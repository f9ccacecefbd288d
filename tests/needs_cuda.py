"""The marker ``cuda``: skipped without a GPU, unless TORCHPROF_REQUIRE_CUDA=1 forbids it."""

from __future__ import annotations

import os

import pytest
import torch

__all__ = ["pytest_runtest_setup"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") is not None and not torch.cuda.is_available():
        if os.environ.get("TORCHPROF_REQUIRE_CUDA") == "1":
            pytest.fail("no CUDA device, and TORCHPROF_REQUIRE_CUDA=1 forbids skipping")
        pytest.skip("no CUDA device")
