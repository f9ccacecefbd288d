"""The gate to the compiled extension: loaded on first use, and only where it matches the PyTorch that runs.

    from torchprof import _native

    _native.storage(tensor)  # a function of torchprof._C

Saved traces are analyzed without it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from torchprof.errors import ExtensionError

if TYPE_CHECKING:
    from torchprof._C import *  # noqa: F403

REBUILD = "run `pip install --no-build-isolation --force-reinstall --no-deps .` in torchprof's source tree"


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    require_extension()
    from torchprof import _C

    found = globals()[name] = getattr(_C, name)
    return found


@functools.cache
def require_extension() -> None:
    """Load the extension.

    Raises:
        ExtensionError: it was not built, or was built for another PyTorch.
    """
    mismatch = build_mismatch()
    if mismatch:
        raise ExtensionError(mismatch)
    try:
        import torchprof._C  # noqa: F401
    except ImportError as error:
        raise ExtensionError(f"torchprof's compiled recorder cannot be loaded ({error}): {REBUILD}") from error


def build_mismatch() -> str:
    """What is wrong with the extension under this PyTorch; empty when nothing is.

    Told by a file written at build time: loading an extension into another libtorch than its own can crash.
    """
    try:
        from torchprof._built_for import TORCH_VERSION as built_for
    except ImportError:
        return f"torchprof's compiled recorder is not built: {REBUILD}"
    import torch

    running = str(torch.__version__)
    if built_for.partition("+")[0] == running.partition("+")[0]:
        return ""
    return f"torchprof was built for torch {built_for}, but torch {running} is running: {REBUILD}"
