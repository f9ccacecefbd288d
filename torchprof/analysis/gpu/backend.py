"""How the work of devices was recorded, and whether there is any."""

from __future__ import annotations

from torchprof.trace.trace import Trace

__all__ = ["gpu_backend", "has_kernels", "why_no_kernels"]


def gpu_backend(trace: Trace) -> str:
    """What recorded the devices: ``"cupti"``, ``"events"``, another tool, or ``"off"`` where nothing did."""
    backend = str(trace.facts.get("gpu", "off"))
    return "cupti" if backend == "off" and has_kernels(trace) else backend


def why_no_kernels(trace: Trace) -> str:
    """A sentence that says why the trace has no kernels, for one whose `gpu_backend` is ``"off"``."""
    note = trace.facts.get("gpu_note") or "facts['gpu'] is 'off'"
    return f"the trace has no kernels, because no device was recorded ({note})"


def has_kernels(trace: Trace) -> bool:
    """Whether any work of a device was recorded."""
    return len(trace.kernels) > 0 or len(trace.kernel_totals) > 0
