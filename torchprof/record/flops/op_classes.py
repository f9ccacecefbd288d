"""What every op is to a count of FLOPs: counted, free of them, or unknown.

==========  ======================================================================================================
counted     it has a formula
free        it has no FLOPs by convention (see `torchprof.record.flops.free_ops`), or leaves all work to ops inside it
unknown     everything else: ops of other packages, and ops that are new in PyTorch
==========  ======================================================================================================

An op that is unknown itself is counted by what runs inside it, where anything there counts.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import torch
from torch.utils import flop_counter
from torch.utils.flop_counter import flop_registry

from torchprof import _native
from torchprof.record.flops.formulas import FORMULAS
from torchprof.record.flops.free_ops import base, has_free_name

__all__ = ["OpClasses", "is_pytorchs", "op_classes", "op_classes_of", "users_formulas"]

FREE_TAGS: Final = ("pointwise", "reduction", "view_copy", "inplace_view")
PYTORCHS: Final = frozenset(
    """
    aten prim prims quantized _quantized quantization mkldnn mkldnn_prepacked mkl onednn sparse inductor inductor_prims
    static_runtime symm_mem c10d _c10d_functional _c10d_functional_autograd _dtensor profiler export rngprims debugprims
    debug_mode_ops fsdp higher_order torch_attn _native
    """.split()
)
"""The namespaces of PyTorch's own ops."""


class OpClasses(NamedTuple):
    """Names of ops by what they are; an op in neither set is unknown.

    Attributes:
        counted: with a formula that stands for the whole op.
        free: without FLOPs.
        with_arguments: whose arguments a formula needs, beside their tensors.
        users: formulas of the user's own, or of another package, by name.
    """

    counted: frozenset[str]
    free: frozenset[str]
    with_arguments: frozenset[str]
    users: dict[str, Any]


def is_pytorchs(name: str) -> bool:
    """Whether an op is one of PyTorch's own."""
    return name.partition("::")[0] in PYTORCHS


def users_formulas() -> dict[str, Any]:
    """The formulas that are registered now and not PyTorch's own, by name of the op; of its own, those that are not here.

    Higher-order operators are not ops of the dispatcher: what they run is.
    """
    found = {}
    for packet, formula in flop_registry.items():
        if isinstance(packet, torch._ops.OpOverloadPacket):
            name = str(packet).replace(".", "::", 1)
            if name not in FORMULAS or getattr(formula, "__module__", "") != flop_counter.__name__:
                found[name] = formula
    return found


_latest: tuple[dict[Any, Any], OpClasses] | None = None
_unknown: set[str] = set()
"""Ops of PyTorch's that were looked for among all that are registered."""


def op_classes() -> OpClasses:
    """The classes as of now; the compiled recorder has them too. Made again only where a formula was registered or removed."""
    global _latest
    if _latest is None or _latest[0] != flop_registry:
        users = users_formulas()
        counted = {name for name, formula in FORMULAS.items() if formula.only_outermost} | users.keys()
        arguments = {name for name, formula in FORMULAS.items() if formula.tensors is None} | users.keys()
        free = _free() - counted
        classes = OpClasses(frozenset(counted), free, frozenset(arguments), users)
        _native.set_op_classes(counted=set(counted), free=set(free), with_arguments=arguments)
        _latest = dict(flop_registry), classes
    return _latest[1]


def op_classes_of(names: Iterable[str]) -> OpClasses:
    """The classes, which know these ops: PyTorch registers some of its own when a part of it is imported."""
    global _latest
    classes = op_classes()
    new = {
        name
        for name in names
        if is_pytorchs(name) and name not in classes.free and name not in classes.counted and name not in _unknown
    }
    if new:
        _free.cache_clear()
        _latest = None
        _unknown.update(new)  # last: where an interrupt comes before, they are looked for again
    return op_classes()


@functools.cache
def _free() -> frozenset[str]:
    """All ops of PyTorch that are free: by their tags, by their schema or by their name."""
    tags = [int(getattr(torch.Tag, name)) for name in FREE_TAGS if hasattr(torch.Tag, name)]
    names, by_nature = _native.op_names(tags)
    natural = frozenset(by_nature)

    def is_free(name: str) -> bool:
        if name in natural or has_free_name(name):
            return True
        return name.startswith("aten::") and f"aten::{base(name[6:])}" in natural

    return frozenset(name for name in names if is_pytorchs(name) and is_free(name))
