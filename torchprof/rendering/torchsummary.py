"""The table of the torchsummary package, to the character.

Its definitions, kept as they are because people compare against them: a row per call of every module but containers and the
root; only ``weight`` and ``bias`` count as parameters, once per row, whatever they are: parameters, buffers, plain tensors or
properties; every element takes 4 bytes and 1 MB is 2**20 bytes; the forward/backward pass is twice the outputs of all rows;
several inputs are multiplied, not added, where their sizes are equally long.

Models that the package raises an exception for have a table too. Where no row but the root's has a parameter, the root has one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from torchprof.analysis.model.layer_calls import layer_calls
from torchprof.terminal import printable
from torchprof.trace.model import Model, ModuleInfo
from torchprof.trace.trace import Trace

__all__ = ["parameter_counts", "render"]

RULE = "-" * 64
DOUBLE_RULE = "=" * 64
DEEPEST_READ: Final = 8
"""How many modules may call one another when an attribute is read."""


def render(trace: Trace) -> str:
    """The table of a trace that `torchprof.summary` recorded."""
    assert trace.model is not None
    batch_size = trace.facts.get("batch_size")
    lines = [RULE, f"{'Layer (type)':>20}  {'Output Shape':>25} {'Param #':>15}", DOUBLE_RULE]
    total_params = trainable_params = 0
    total_output = 0.0
    for index, row in enumerate(_rows(trace), start=1):
        shape = _shown_shape(row.shapes, row.sequence, batch_size)
        total_params += row.params
        trainable_params += row.params if row.trainable else 0
        total_output += _product(shape)
        lines.append(f"{f'{printable(row.type)}-{index}':>20}  {shape!s:>25} {row.params:>15,}")

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


def parameter_counts(trace: Trace) -> tuple[int, int]:
    """The total and the trainable parameters of that table."""
    rows = _rows(trace)
    return sum(row.params for row in rows), sum(row.params for row in rows if row.trainable)


def _rows(trace: Trace) -> list[_Row]:
    rows = list(_Hooks(trace).rows())
    return rows if any(row.params for row in rows) else list(_Hooks(trace, of_root=True).rows())


class _Row(NamedTuple):
    """What one hook notes: a class, the shapes that were returned, and what its module counts."""

    type: str
    shapes: list[list[Any]]
    sequence: bool
    params: int
    trainable: bool


class _Hooks:
    """The hooks that torchsummary would register, and what they would note."""

    def __init__(self, trace: Trace, *, of_root: bool = False) -> None:
        assert trace.model is not None
        self.of_root = of_root
        self.calls = layer_calls(trace)
        self.infos = {info.address: info for info in trace.model.modules if info.same_as < 0}
        self.by_path = {info.path: info for info in self.infos.values()}
        self.count = _hooks(trace.model)
        self.read = trace.facts.get("weights_and_biases", {})

    def rows(self) -> Iterator[_Row]:
        """The calls that the hooks would see, as often as they would see them."""
        for call in self.calls:
            info = self.infos.get(call.address)
            # What forward adds to the model was not there when the package registered its hooks.
            if info is not None and (not self.read or info.path in self.read):
                yield from self._rows_of(info, call.type, [list(shape) for shape in call.output_shapes], call.returned_sequence)

    def _rows_of(
        self, info: ModuleInfo, type_name: str, shapes: list[list[Any]], sequence: bool, within: int = 0
    ) -> Iterator[_Row]:
        if info.container or (info.parent < 0 and not self.of_root):
            return
        read = self.read.get(info.path, {})
        weight, bias = self._tensor(info, "weight"), self._tensor(info, "bias")
        params = sum(tensor[0] for tensor in (weight, bias) if tensor is not None)
        row = _Row(read.get("type", type_name), shapes, sequence, params, weight is not None and weight[1])
        for _ in range(self.count[info.address]):
            yield row
            # hasattr(module, "weight"), hasattr(module.weight, "size"), module.weight.size(), module.weight.requires_grad
            inside = read.get("weight_calls", []) * (4 if weight is not None else 2)
            inside += read.get("bias_calls", []) * (3 if bias is not None else 2)
            for path, of_call, is_sequence in inside if within < DEEPEST_READ else ():
                if (called := self.by_path.get(path)) is not None:
                    yield from self._rows_of(called, called.type, of_call, is_sequence, within + 1)

    def _tensor(self, info: ModuleInfo, name: str) -> tuple[int, bool] | None:
        """Elements of an attribute, and whether it requires a gradient."""
        if info.path in self.read:
            found = self.read[info.path][name]
            return (found[0], found[1]) if found is not None else None
        tensors = (tensor for tensor in (*info.parameters, *info.buffers) if tensor.name == name)
        return next(((tensor.numel, tensor.trainable) for tensor in tensors), None)


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


def _shown_shape(shapes: list[list[Any]], sequence: bool, batch_size: int | None) -> list[Any]:
    if sequence or len(shapes) != 1:
        return [[-1, *shape[1:]] for shape in shapes]
    shape = shapes[0]
    return [batch_size, *shape[1:]] if shape and batch_size is not None else shape


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
