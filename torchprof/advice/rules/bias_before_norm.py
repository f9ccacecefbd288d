"""A bias that the normalization after it takes away again."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.advice.device_loop import device_loop_of
from torchprof.advice.finding import Finding, Worth
from torchprof.advice.op_sums import lines_of, of_names
from torchprof.advice.registry import NotTold, rule
from torchprof.analysis.gpu.backend import has_kernels
from torchprof.analysis.lines.stack_costs import is_aggregated
from torchprof.analysis.lines.where import most_first
from torchprof.analysis.model.registered import registered
from torchprof.analysis.steps import active_steps, step_of
from torchprof.trace.model import ModuleInfo
from torchprof.trace.schema import Phase, Rows
from torchprof.trace.trace import Trace
from torchprof.wording import counted

__all__ = ["bias_before_norm"]

ADDS: Final = ("Conv", "Linear", "LazyConv", "LazyLinear")
"""How the names of classes begin whose bias is added to every channel."""
CENTERS: Final = ("BatchNorm", "SyncBatchNorm", "LazyBatchNorm", "InstanceNorm", "LazyInstanceNorm")
"""Of those that take the mean of every channel away. A GroupNorm or LayerNorm takes that of several."""

Ints = npt.NDArray[np.int64]


@rule("a bias that a normalization takes away")
def bias_before_norm(trace: Trace) -> Iterator[Finding]:
    """A batch norm in training whose input is what a convolution, or a linear layer, with a bias returned.

    It is told by the storage: of the calls of a step, the last that returned the one that the batch norm was given. What is
    worth are the kernels that add such a bias, and sum its gradient; on a CPU these are parts of the convolution.
    """
    if is_aggregated(trace):
        raise NotTold("the recording was aggregated, which keeps no single module calls")
    if trace.model is None:
        raise NotTold("no model was recorded")
    if missing := [name for name in ("outputs", "addresses", "shapes") if trace.facts.get(name) is False]:
        raise NotTold(f"{missing[0]} of modules were not recorded")
    pairs = _pairs(trace)
    if not pairs:
        return
    worth = _worth(trace, [adds for adds, _ in pairs])
    if worth is not None and not worth.high:
        return
    found = [(_info(trace, adds), _info(trace, centers)) for adds, centers in pairs]
    yield Finding(
        "bias_before_norm",
        f"{counted(len(found), 'layer has', 'layers have')} a bias that the normalization after takes away with the mean",
        "Make it without: bias=False. Its gradient is 0, but for rounding."
        + ("" if worth else " That saves parameters and, as far as can be told, next to no time here."),
        "https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html",
        worth,
        module=found[0][0].path if len(found) == 1 else "",
        lines=tuple(dict.fromkeys(_lines(trace, [adds for adds, _ in pairs]))),
        details=tuple(f"{adds.path} ({adds.type}) before {centers.path} ({centers.type})" for adds, centers in found),
    )


def _info(trace: Trace, module: int) -> ModuleInfo:
    assert trace.model is not None
    return trace.model.modules[registered(trace)[module]]


def _pairs(trace: Trace) -> list[tuple[int, int]]:
    """Rows of ``trace.modules``: a layer with a bias, and the normalization that was given what it returned."""
    assert trace.model is not None
    calls, infos = trace.module_calls, trace.model.modules
    centers = np.array([row >= 0 and _centers(infos[row]) for row in registered(trace)], dtype=np.bool_)
    adds = np.array([row >= 0 and _adds(infos[row]) for row in registered(trace)], dtype=np.bool_)
    if not centers.any() or not adds.any():
        return []
    step = step_of(calls["start"], trace, active_steps(trace))
    calls_of_step = np.flatnonzero((step == 0) & (calls["end"] >= 0))  # one shows how they follow each other
    is_leaf = np.ones(len(calls) + 1, dtype=np.bool_)
    is_leaf[calls["parent"]] = False
    returned: dict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    leaves = calls_of_step[is_leaf[calls_of_step] & (calls["n_outputs"][calls_of_step] > 0)]
    leaves = leaves[np.argsort(calls["end"][leaves], kind="stable")]
    for row, storage in zip(leaves.tolist(), _storages(trace, calls["outputs"][leaves]), strict=True):
        ends, rows = returned[storage]
        ends.append(int(calls["end"][row]))
        rows.append(row)
    asked = calls_of_step[centers[calls["module"][calls_of_step]] & (calls["n_inputs"][calls_of_step] > 0)]
    found: dict[tuple[int, int], None] = {}
    for row, storage in zip(asked.tolist(), _storages(trace, calls["inputs"][asked]), strict=True):
        ends, rows = returned.get(storage, ([], []))
        at = bisect_right(ends, int(calls["start"][row])) - 1
        if at < 0 or not adds[calls["module"][rows[at]]] or not _fits(trace, rows[at]):
            continue
        if not _written(trace, storage, ends[at], int(calls["start"][row])):
            found[int(calls["module"][rows[at]]), int(calls["module"][row])] = None
    return list(found)


def _adds(info: ModuleInfo) -> bool:
    return info.type.startswith(ADDS) and any(each.name == "bias" for each in info.parameters)


def _centers(info: ModuleInfo) -> bool:
    return info.type.startswith(CENTERS) and info.training is not False


def _storages(trace: Trace, operands: Rows) -> list[int]:
    storages: list[int] = trace.tensors["storage"][trace.operands[operands]].tolist()
    return storages


def _fits(trace: Trace, call: int) -> bool:
    """Whether the channels of what was returned are those of the bias: of a linear layer, where it is a batch of vectors."""
    module = _info(trace, int(trace.module_calls["module"][call]))
    tensor = trace.operands[int(trace.module_calls["outputs"][call])]
    return "Conv" in module.type or len(trace.shape(int(trace.tensors["shape"][tensor]))) == 2


def _written(trace: Trace, storage: int, begin: int, end: int) -> bool:
    """Whether an op in place was given the storage between these times, such as a sum with a residual."""
    between = trace.ops[(trace.ops["start"] >= begin) & (trace.ops["start"] < end)]
    for op in between[between["n_inputs"] > 0]:
        name = trace.strings[int(trace.signatures["name"][int(op["signature"])])]
        if name.endswith("_") and int(trace.tensors["storage"][trace.operands[int(op["inputs"])]]) == storage:
            return True
    return False


def _worth(trace: Trace, modules: list[int]) -> Worth | None:
    """The device time of the kernels that add the bias of these modules, or sum its gradient; None on a CPU."""
    if not has_kernels(trace):
        return None
    loop = device_loop_of(trace)
    sums = of_names(trace, "aten::add_", "aten::sum")
    backward = sums["phase"] == Phase.BACKWARD
    is_sum = np.array([name == "aten::sum" for name in trace.strings], dtype=np.bool_)[
        trace.signatures["name"][sums["signature"]]
    ]
    own = sums[np.isin(sums["module"], modules) & (backward == is_sum)]
    time = own["device_time"].sum() / loop.steps
    basis = "the kernels that add the bias, and sum its gradient"
    return loop.worth(0 if loop.is_small(time) else time, basis)


def _lines(trace: Trace, modules: list[int]) -> list[str]:
    sums = of_names(trace, "aten::conv1d", "aten::conv2d", "aten::conv3d", "aten::linear")
    sums = sums[np.isin(sums["module"], modules)]
    return most_first(zip(lines_of(trace, sums), sums["time"].tolist(), strict=True))
