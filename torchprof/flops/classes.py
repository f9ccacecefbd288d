"""What every op is to a count of FLOPs: counted, free of them, or unknown.

==========  ======================================================================================================
counted     it has a formula
free        it has no FLOPs by convention (see `torchprof.flops.free_ops`), or leaves all work to ops inside it
unknown     everything else: ops of other packages, and ops that are new in PyTorch
==========  ======================================================================================================

An op that is unknown itself is counted by what runs inside it, where anything there counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from torchprof.flops.formulas import FORMULAS
from torchprof.flops.free_ops import has_free_name

__all__ = ["AROUND_OPS", "COMPILED_REGION", "OpClasses", "classes_by_name", "is_pytorchs"]

COMPILED_REGION: Final = "Torch-Compiled Region"
PYTORCHS: Final = frozenset(
    """
    aten prim prims quantized _quantized quantization mkldnn mkldnn_prepacked mkl onednn sparse inductor inductor_prims
    static_runtime symm_mem c10d _c10d_functional _c10d_functional_autograd _dtensor profiler export rngprims debugprims
    debug_mode_ops fsdp higher_order torch_attn _native
    """.split()
)
"""The namespaces of PyTorch's own ops."""

AROUND_OPS: Final = ("autograd::", "torch::autograd::", "torch::distributed::", "torch.distributed.")
"""How names begin of what is called as ops are and only runs some: autograd, the copies of DistributedDataParallel."""

_MULTIPLIES: Final = re.compile(
    r"mm(?:_|$|\d)|matmul|conv(?!ert)|attention|attn|linear|lstm|gru|rnn|linalg|eig|svd|lstsq|pinv|(?<!re)solve|ldl|fft|(?<![ei])lu_"
    r"|(?<!s)qr|cholesky|inverse|trilinear|_dist$|transformer|semi_structured|sampled|cdist|dot|einsum"
)
"""Names of ops that sum up products, or may. Where one has no formula, its FLOPs are unknown, unless it has a free name."""
_MULTIPLIES_NOT: Final = re.compile(
    r"(?:pre|un)pack|_pack_|norm|shift$|freq$|plan_cache|slice_inverse|vander|diagonal|check_errors|powsum|gelu|saturate"
    r"|_(?:dilation|groups|padding|stride|transpose)$"
)
"""Such names, of ops that do not."""


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


def classes_by_name(names: Iterable[str], users: Mapping[str, Any]) -> OpClasses:
    """The classes of these ops by their names alone, where there is no PyTorch to ask, or another one than that ran them.

    Args:
        users: formulas of the user's own, by name.
    """
    counted = frozenset(name for name, formula in FORMULAS.items() if formula.only_outermost) | users.keys()
    arguments = frozenset(name for name, formula in FORMULAS.items() if formula.tensors is None) | users.keys()
    free = frozenset(name for name in names if name.startswith(AROUND_OPS) or (is_pytorchs(name) and _is_free(name)))
    return OpClasses(counted, free - counted, arguments, dict(users))


def _is_free(name: str) -> bool:
    op = name.partition("::")[2]
    multiplies = _MULTIPLIES.search(op) and not _MULTIPLIES_NOT.search(op)
    return name not in FORMULAS and (has_free_name(name) or not multiplies)
