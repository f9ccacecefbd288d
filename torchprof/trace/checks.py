"""The check of what must be a trace."""

from __future__ import annotations

import os
from typing import Any

from torchprof.errors import ModuleTypeError
from torchprof.trace.ranks import check_is_one
from torchprof.trace.trace import Trace
from torchprof.wording import shown

__all__ = ["check_trace"]


def check_trace(trace: Any) -> None:
    """Raise ModuleTypeError unless this is a trace, and ArgumentError of `Ranks`."""
    check_is_one(trace)
    if isinstance(trace, Trace):
        return
    if isinstance(trace, str | bytes | os.PathLike):
        raise ModuleTypeError(f"trace={shown(trace)} is a path, and no torchprof.Trace: torchprof.load(path) reads one")
    hint = ": give its trace, such as prof.trace" if hasattr(type(trace), "trace") else ""
    raise ModuleTypeError(f"trace must be a torchprof.Trace, not {type(trace).__name__}{hint}")
