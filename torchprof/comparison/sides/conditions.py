"""What a recording was made under: figures of other conditions are of something else."""

from __future__ import annotations

import numpy as np

from torchprof.analysis.compiled_code import ran_compiled_code
from torchprof.analysis.memory.account import MemoryAccount
from torchprof.analysis.tensors import tensor_shape
from torchprof.trace.trace import Trace

__all__ = ["conditions_of", "root_inputs"]

OPTIONS = ("ops", "shapes", "memory", "modules")


def conditions_of(trace: Trace, account: MemoryAccount | None) -> dict[str, str]:
    """What to compare before figures are, by what it is."""
    facts = trace.facts
    found = {
        "recorded by": str(facts.get("source", "torchprof")),
        "torch": str(facts.get("torch", "")),
        "Python": str(facts.get("python", "")),
        "GPUs": ", ".join(dict.fromkeys(facts.get("devices", ()))),
        "times of GPUs by": str(facts.get("gpu", "")),
        "compiled code": "runs" if ran_compiled_code(trace) else "does not run",
        "sums only (aggregate=True)": "yes" if facts.get("aggregate") else "no",
        "memory of": account.device if account is not None else "",
        "inputs": root_inputs(trace),
    }
    found |= {f"{name} recorded": "no" if facts.get(name) is False else "yes" for name in OPTIONS}
    if trace.model is not None:
        parameters = list(trace.model.parameters())
        found["parameters are"] = ", ".join(sorted({parameter.dtype for parameter in parameters}))
        found["parameters on"] = ", ".join(sorted({parameter.device for parameter in parameters}))
        training = trace.model.modules[0].training
        found["mode"] = "" if training is None else "train" if training else "eval"
    return found


def root_inputs(trace: Trace) -> str:
    """The shapes of the tensors that the outermost module was given most often; empty where that is not known."""
    outermost = trace.module_calls[(trace.module_calls["parent"] < 0) & (trace.module_calls["n_inputs"] > 0)]
    if not len(outermost):
        return ""
    modules, counts = np.unique(outermost["module"], return_counts=True)
    calls = outermost[outermost["module"] == modules[counts.argmax()]]
    shapes: dict[str, int] = {}
    for call in calls[:100]:
        first = int(call["inputs"])
        tensors = trace.operands[first : first + int(call["n_inputs"])].tolist()
        found = (tensor_shape(trace, tensor) for tensor in tensors)
        text = ", ".join(shape if isinstance(shape, str) else str(list(shape)) for shape in found)
        shapes[text] = shapes.get(text, 0) + 1
    return max(shapes, key=lambda text: shapes[text])
