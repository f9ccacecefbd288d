"""The classes of all ops of the running PyTorch: see `torchprof.flops.classes`. The compiled recorder has them too."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, Final

import torch
from torch.utils.flop_counter import flop_registry

from torchprof import _native
from torchprof.flops.classes import OpClasses, is_pytorchs
from torchprof.flops.formulas import FORMULAS
from torchprof.flops.free_ops import base, has_free_name
from torchprof.flops.registered import users_formulas

__all__ = ["op_classes", "op_classes_of"]

FREE_TAGS: Final = ("pointwise", "reduction", "view_copy", "inplace_view")


_latest: tuple[dict[Any, Any], OpClasses] | None = None
_unknown: set[str] = set()
"""Ops of PyTorch's that were looked for among all that are registered."""
_were_free: set[str] = set()
"""Ops that were free before. They stay so where an estimate gives them kernels meanwhile: the ops of a recording are told by
these classes more than once."""


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

    _were_free.update(name for name in names if is_pytorchs(name) and is_free(name))
    return frozenset(_were_free)
