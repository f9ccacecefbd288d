"""What a reader of a summary must know about a module, in words."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import numpy as np

from torchprof.analysis.model.module_tree import ModuleNode
from torchprof.trace.model import UNKNOWN
from torchprof.trace.schema import CALL_COMPILED
from torchprof.trace.trace import Trace

__all__ = ["PARTLY", "RAISED", "Notes"]

OPAQUE: Final = {"compiled": "a compiled region", "exported": "an exported graph", "TorchScript": "TorchScript"}
"""What a module runs inside that shows no calls of its layers, by ``ModuleInfo.opaque``."""

HOLDERS: Final = frozenset(("Module", "ModuleDict", "ModuleList", "ParameterDict", "ParameterList"))
"""Classes of modules that cannot be called."""


RAISED: Final = "raised"
"""The note of a module whose only call raised, and what it returned."""

PARTLY: Final = "partly compiled"
"""In place of a ``ModuleInfo.opaque``: a function that forward calls is compiled, and which layers it has is not known."""


class Notes:
    """Writes the notes of the modules of a trace."""

    def __init__(self, trace: Trace, recomputed: Collection[int], raised: frozenset[int]) -> None:
        assert trace.model is not None
        flags = trace.module_calls["flags"]
        self.modules = trace.model.modules
        self.ran = len(flags) > 0
        self.compiled = frozenset(np.flatnonzero(flags & CALL_COMPILED).tolist())
        self.raised = raised
        self.recomputed = recomputed
        self.unobserved = frozenset(trace.facts.get("unobserved_classes", ()))
        self.compiled_meanwhile = bool(trace.facts.get("compiled"))
        self.compiled_outside = bool(trace.facts.get("compiled_outside_calls"))
        unread = trace.facts.get("unread_modules")
        self.unread = frozenset(self.modules[row].path for row in unread) if unread is not None else None

    def compiles(self, node: ModuleNode) -> bool:
        """Whether compiled code began in a call of it."""
        return bool(self.compiled) and not self.compiled.isdisjoint(node.calls)

    def of(self, node: ModuleNode, calls: list[int], inside: str, called: bool) -> str:
        """The note of a module.

        Args:
            node: the module.
            calls: its calls in forward.
            inside: the reason why calls inside the module around it are not seen; empty: they are.
            called: whether it, or a module below it, was called.
        """
        info = node.info
        notes = []
        if info is None:
            notes.append(
                "the graph of compiled code" if inside and node.type == "GraphModule" else "not registered in the model"
            )
        elif info.same_as >= 0:
            return f"same module as {self.modules[info.same_as].path or 'the root'}"
        else:
            if info.parameters and (shared := [tensor for tensor in info.parameters if tensor.owner is not None]):
                notes.append(f"{', '.join(t.name for t in shared)} shared with {shared[0].owner or 'the root'}")
            if any([tensor.lazy for tensor in info.parameters]):
                notes.append("lazy: no shape before the first call")
            if any([tensor.dtype == UNKNOWN for tensor in info.parameters]):
                notes.append("params unknown: packed in an object that cannot be read")
            if calls and info.opaque and info.opaque != "compiled":
                notes.append(f"{info.opaque}: calls inside are not seen")
        if calls and (self.compiles(node) or (info is not None and info.opaque == "compiled")):
            notes.append(self._compiled(node, inside))
        if self.raised and (raised := len(self.raised.intersection(calls))):
            notes.append(f"raised in {raised:,} of {len(calls):,} calls" if len(calls) > 1 else RAISED)
        if self.ran and not called and info is not None:
            notes.append(self._not_called(node, inside))
        return "; ".join(filter(None, notes))

    def _compiled(self, node: ModuleNode, inside: str) -> str:
        by_itself = node.info is not None and node.info.opaque == "compiled" and node.type != "OptimizedModule"
        # Dynamo leaves some code as it is, such as the forward of nn.Sequential.
        if by_itself and any([each.calls for child in node.children for each in child.walk() if each.info is not None]):
            return "compiled, except for the calls below"
        return "compiled: calls inside are not seen" + (
            "; this call compiled it" if self.compiled_meanwhile and not inside else ""
        )

    def _not_called(self, node: ModuleNode, inside: str) -> str:
        if not set(node.calls).isdisjoint(self.recomputed):
            return "called in backward only"
        if inside in OPAQUE:
            return f"runs inside {OPAQUE[inside]}"
        if node.type in self.unobserved:
            return "its calls are not seen"
        if inside or self.compiled_outside:
            return "not called outside compiled code"
        parameters, are_used = self._use(node)
        whose = "its parameters" if node.info is not None and node.info.parameters else "parameters below it"
        if are_used:
            return f"{whose} are used" if node.type in HOLDERS else f"not called, but {whose} are used"
        return f"{whose} are not used" if parameters and are_used is False and node.type in HOLDERS else "not called"

    def _use(self, node: ModuleNode) -> tuple[bool, bool | None]:
        """Whether it or a module below has parameters, and whether an op read any; None: not known."""
        infos = [each.info for each in node.walk() if each.info is not None and each.info.parameters]
        if self.unread is None or not infos:
            return bool(infos), None
        return True, any([info.path not in self.unread for info in infos])
