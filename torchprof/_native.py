"""The gate to the compiled extension, which is loaded on first use, and only into the PyTorch that it was built for.

    from torchprof import _native

    _native.use_counts(tensor)  # a function of torchprof._C

Saved traces are read without it.
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
        ExtensionError: PyTorch is not installed, or the extension was not built, or was built for another PyTorch.
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

    The version that it was built for is in a file that the build writes: loading an extension into another libtorch can crash.

    Raises:
        ExtensionError: PyTorch is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise torch_is_missing("torchprof's compiled recorder") from error
    try:
        from torchprof._built_for import TORCH_VERSION as built_for
    except ImportError:
        return f"torchprof's compiled recorder is not built: {REBUILD}"
    running = str(torch.__version__)
    if built_for.partition("+")[0] == running.partition("+")[0]:
        return ""
    return f"torchprof was built for torch {built_for}, but torch {running} is running: {REBUILD}"


def torch_is_missing(what: str) -> ExtensionError:
    """The error for something that needs PyTorch where it is not installed."""
    return ExtensionError(
        f"{what} needs PyTorch, which is not installed here: run `pip install torch`. Without it, saved traces can be read: "
        "load, by_module, by_op, by_step, by_kernel, memory, gpu, export_chrome, export_folded and export_speedscope work"
    )
