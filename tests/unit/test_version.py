"""The version is written once, and everything that tells it agrees."""

from __future__ import annotations

from importlib.metadata import version

import torchprof
from torchprof import _version


def test_package_and_distribution_agree() -> None:
    assert torchprof.__version__ == _version.__version__ == version("torchprof-recorder")
