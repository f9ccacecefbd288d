"""What is not known of custom ops."""

from __future__ import annotations

import re
from typing import Final

from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.target import Target
from torchprof.estimation.torch_private import ESTIMATE
from torchprof.trace.trace import Trace

PYTORCH: Final = frozenset({"aten", "prim", "prims", "profiler", "inductor", "autograd", "c10d", "_c10d_functional", "fsdp"})
"""Namespaces of ops that are PyTorch's own."""


@rule(
    Kind.NOTE,
    on=("cpu", "cuda"),
    when="the program calls ops of torch.library that are not PyTorch's own",
    source="torch.library: a fake kernel says what an op returns, and not what its kernel needs meanwhile",
)
def custom_op_workspaces(trace: Trace, target: Target) -> str | None:
    names = {trace.strings[row] for row in set(trace.op_names.tolist())}
    others = {name for name in names if re.fullmatch(r"\w+::\w+", name) and name.partition("::")[0] not in PYTORCH}
    custom = sorted(name for name in others if ESTIMATE.schemas_of(name))  # ranges of record_function have such names too
    return f"what the kernels of custom ops need beside their results: {', '.join(custom)}" if custom else None
