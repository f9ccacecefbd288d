"""Estimates of several threads: they run one after another."""

from __future__ import annotations

import threading
from typing import Final

__all__ = ["ONE_AT_A_TIME"]

ONE_AT_A_TIME: Final = threading.RLock()
"""Held while a program runs on fake tensors: functions of PyTorch, its process groups and variables of the environment, which
all threads share, are others by then, and are put back as they were found."""
