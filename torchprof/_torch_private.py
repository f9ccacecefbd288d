"""Finds private names of PyTorch, which any version may rename or remove.

Packages that need some keep them together in one module, with a function for each feature that looks its names up when it is
used: where one is missing, that feature says so and everything else works.
"""

from __future__ import annotations

from typing import Any

from torchprof.errors import UnsupportedTorchError

__all__ = ["private"]


def private(name: str, feature: str) -> Any:
    """What PyTorch has under a dotted name, such as ``torch._C._DisableTorchDispatch``.

    Raises:
        UnsupportedTorchError: this PyTorch has no such name, which ``feature`` needs.
    """
    import torch

    found: Any = torch
    for part in name.split(".")[1:]:
        try:
            found = getattr(found, part)
        except AttributeError:
            raise UnsupportedTorchError(
                f"torch {torch.__version__} has no {name}, which {feature} needs: use a version of torch that this "
                "torchprof was tested with, or a newer torchprof"
            ) from None
    return found
