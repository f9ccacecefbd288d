"""The private names of PyTorch that the plugin uses, by feature."""

from __future__ import annotations

import sys
from typing import Any

from torchprof._torch_private import private

__all__ = ["compile_counters"]


def compile_counters() -> Any:
    """What Dynamo counts, by kind and name; None where it is not loaded, and has counted nothing.

    Raises:
        UnsupportedTorchError: a name is missing.
    """
    if "torch._dynamo" not in sys.modules:
        return None
    return private("torch._dynamo.utils.counters", "counting graph breaks")
