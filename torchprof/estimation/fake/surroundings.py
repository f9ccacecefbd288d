"""What of Python and PyTorch is switched off while a program is estimated."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["undisturbed"]

FAKE_TENSOR_LOGGER = "torch._subclasses.fake_tensor"


@contextmanager
def undisturbed(*, collect: bool = True) -> Iterator[None]:
    """No garbage collection, and no log of fake kernels that fail, until the block ends.

    Tensors in reference cycles would be freed at a moment that depends on all the program did before, so that the same step
    would need now more, now less. As it is they stay, which is the most it can need. And PyTorch logs the exceptions that it
    raises.

    Args:
        collect: collect garbage first, so that what the program left before does not count. It takes a quarter of a second.
    """
    if collect:
        gc.collect()
    collects = gc.isenabled()
    logger = logging.getLogger(FAKE_TENSOR_LOGGER)
    level = logger.level
    try:
        gc.disable()
        logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        logger.setLevel(level)
        if collects:
            gc.enable()
