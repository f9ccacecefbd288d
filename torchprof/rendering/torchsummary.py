"""The table of the torchsummary package, to the character.

Its definitions, kept as they are because people compare against them: a row per call of every module but containers and the
root; only ``weight`` and ``bias`` count as parameters, once per row; every element takes 4 bytes and 1 MB is 2**20 bytes;
the forward/backward pass is twice the outputs of all rows; several inputs are multiplied, not added, where their sizes
are equally long.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from torchprof.analysis.model.layer_calls import layer_calls
from torchprof.trace.model import Model, ModuleInfo
from torchprof.trace.trace import Trace

__all__ = ["render"]

RULE = "-" * 64
DOUBLE_RULE = "=" * 64


def render(trace: Trace) -> str:
    """The table of a trace that `torchprof.summary` recorded."""
    assert trace.model is not None
    batch_size = trace.facts.get("batch_size")
    lines = [RULE, f"{'Layer (type)':>20}  {'Output Shape':>25} {'Param #':>15}", DOUBLE_RULE]
    total_params = trainable_params = 0
    total_output = 0.0
    for index, (info, type_name, shapes, sequence) in enumerate(_layers(trace), start=1):
        shape = _shown_shape(shapes, sequence, batch_size)
        weight, bias = _tensor(info, "weight"), _tensor(info, "bias")
        params = sum(tensor.numel for tensor in (weight, bias) if tensor is not None)
        total_params += params
        trainable_params += params if weight is not None and weight.trainable else 0
        total_output += _product(shape)
        lines.append(f"{f'{type_name}-{index}':>20}  {shape!s:>25} {params:>15,}")

    megabyte = 4.0 / 1024**2
    input_size = abs(_input_elements(trace, batch_size) * megabyte)
    output_size = abs(2.0 * total_output * megabyte)
    params_size = abs(total_params * megabyte)
    lines += [
        DOUBLE_RULE,
        f"Total params: {total_params:,}",
        f"Trainable params: {trainable_params:,}",
        f"Non-trainable params: {total_params - trainable_params:,}",
        RULE,
        f"Input size (MB): {input_size:0.2f}",
        f"Forward/backward pass size (MB): {output_size:0.2f}",
        f"Params size (MB): {params_size:0.2f}",
        f"Estimated Total Size (MB): {params_size + output_size + input_size:0.2f}",
        RULE,
    ]
    return "\n".join(lines)


def _layers(trace: Trace) -> list[tuple[ModuleInfo, str, list[list[int]], bool]]:
    """The calls that torchsummary's hooks would see, as often as they would see them."""
    assert trace.model is not None
    infos = {info.address: info for info in trace.model.modules if info.same_as < 0}
    hooks = _hooks(trace.model)
    layers = []
    for call in layer_calls(trace):
        info = infos.get(call.address)
        if info is None or info.parent < 0 or info.container or not call.output_shapes:
            continue
        shapes = [list(shape) for shape in call.output_shapes]
        layers += [(info, call.type, shapes, call.returned_sequence)] * hooks[call.address]
    return layers


def _hooks(model: Model) -> dict[int, int]:
    """How many hooks ``model.apply`` leaves on every module: one for each way down to it, equal siblings taken as one."""
    infos = model.modules
    parents: dict[int, list[int]] = defaultdict(list)
    for info in infos:
        if info.parent >= 0 and infos[info.parent].address not in parents[info.address]:
            parents[info.address].append(infos[info.parent].address)
    root = infos[0].address
    counts: dict[int, int] = {root: 1}

    def count(address: int) -> int:
        if address not in counts:
            counts[address] = sum(count(parent) for parent in parents[address])
        return counts[address]

    return {info.address: count(info.address) for info in infos}


def _shown_shape(shapes: list[list[int]], sequence: bool, batch_size: int | None) -> list[Any]:
    if sequence or len(shapes) > 1:
        return [[-1, *shape[1:]] for shape in shapes]
    shape = shapes[0]
    return [batch_size, *shape[1:]] if shape and batch_size is not None else shape


def _tensor(info: ModuleInfo, name: str) -> Any:
    return next((tensor for tensor in (*info.parameters, *info.buffers) if tensor.name == name), None)


def _product(shape: list[Any]) -> float:
    """numpy's product of a shape or of a list of shapes; lists of unequal length, which numpy refuses, are added."""
    if shape and isinstance(shape[0], list):
        known = [_known(part) for part in shape]
        return float(sum(np.prod(part) for part in known) if len({len(part) for part in known}) > 1 else np.prod(known))
    return float(np.prod(_known(shape)))


def _known(shape: list[Any]) -> list[float]:
    """Its sizes; one that is ragged or unknown is no number."""
    return [size if isinstance(size, int) else float("nan") for size in shape]


def _input_elements(trace: Trace, batch_size: int | None) -> float:
    sizes: list[list[int]] = trace.facts.get("input_sizes", [])
    if not sizes:
        return 0.0
    if batch_size is None:
        return float(sum(np.prod(_known(size)) for size in sizes))
    return _product([size[1:] for size in sizes]) * batch_size
