"""Whether compiled code ran."""

from __future__ import annotations

from torchprof.trace.schema import CALL_COMPILED
from torchprof.trace.trace import Trace

__all__ = ["ran_compiled_code"]


def ran_compiled_code(trace: Trace) -> bool:
    """Whether ``torch.compile`` compiled anything, or what it had compiled before ran."""
    began = bool((trace.module_calls["flags"] & CALL_COMPILED != 0).any())
    return began or bool(trace.facts.get("compiled_outside_calls") or trace.facts.get("compiled"))
