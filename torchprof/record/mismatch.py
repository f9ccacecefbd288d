"""What to say where a model raised because its inputs have another dtype or device than it needs: the argument that fits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

import torch

from torchprof.record.inputs import Inputs
from torchprof.record.nested import tensor_sizes
from torchprof.trace.model import TensorInfo
from torchprof.trace.schema import CALL_RAISED
from torchprof.trace.shapes import shape_of, shape_text
from torchprof.trace.trace import Trace

__all__ = ["is_of_inputs", "message_of", "mismatch_note"]

OF_DEVICES: Final = re.compile(r"\bdevices?\b|torch\.(cuda|xpu|mps|hpu)\.\w+Tensor")
OF_INDICES: Final = re.compile(r"indices|\bind(ex|ices)\b|Long, Int|LongTensor|int32/int64|\bLong or Byte\b", re.IGNORECASE)
OF_DTYPES: Final = re.compile(r"dtype|\btypes?\b|[Tt]ype promot|not implemented for '")
"""What PyTorch's messages say. Whether it is true of the inputs is looked up; the words only tell what the error is about."""
OF_INPUTS: Final = re.compile(
    r"shape|size|\bdim|\b\dD\b|dtype|\btypes?\b|channel|expect|match|broadcast|\bind(ex|ices)\b|out of range|elements"
    r"|\bmat[12]\b|stride|length|batch|argument|unpack|not implemented for '",
    re.IGNORECASE,
)
"""What errors say that other sizes or dtypes may mend."""


def is_of_inputs(error: BaseException) -> bool:
    """Whether other sizes or dtypes may mend an error: of its message, but for assertions, which need not have any."""
    if isinstance(error, AssertionError) and not message_of(error):
        return True
    if not isinstance(error, RuntimeError | ValueError | TypeError | IndexError | AssertionError):
        return False
    return not isinstance(error, NotImplementedError) and OF_INPUTS.search(message_of(error)) is not None


def message_of(error: BaseException) -> str:
    """Its message, which is code of the program and may raise itself; empty then."""
    try:
        return str(error)
    except Exception:
        return ""


def mismatch_note(error: BaseException, trace: Trace, path: str, given: Sequence[str], inputs: Inputs, *, made: bool) -> str:
    """A line that names the argument, such as ``dtypes=torch.float64``; empty where dtypes and devices are not to blame.

    Args:
        error: what the model raised.
        trace: the recording, which has the model.
        path: of the module that it was raised in.
        given: what that was called with, as ``float32[2, 3]``.
        inputs: what the model was called with.
        made: whether these were made from sizes, or are the caller's own.
    """
    message = message_of(error)
    tensors = inputs.tensors()
    parameters = list(_parameters(trace, path))
    if not tensors or trace.model is None:
        return ""
    if OF_DEVICES.search(message) and (note := _of_device(trace, tensors)):
        return note
    reached = [f"{_name(tensor.dtype)}{shape_text(shape_of(tensor_sizes(tensor)))}" in given for tensor in tensors]
    fitted = any(_is_float(tensor.dtype) and _name(tensor.dtype) in _dtypes_that_ran(trace) for tensor in tensors)
    if OF_INDICES.search(message) and any(_is_float(tensor.dtype) for tensor in tensors):
        if fitted and not any(reached):
            return ""  # the floats were made inside
        wrong = [_is_float(tensor.dtype) and (yes or not any(reached)) for tensor, yes in zip(tensors, reached, strict=True)]
        wanted = [torch.long if yes else tensor.dtype for tensor, yes in zip(tensors, wrong, strict=True)]
        return _of_dtype("indices must be integers", tensors, wanted, made)
    named = [getattr(torch, parameter.dtype, None) for parameter in parameters]
    needed = {dtype for dtype in named if isinstance(dtype, torch.dtype) and _is_float(dtype)}
    if not OF_DTYPES.search(message) or len(needed) != 1 or all(tensor.dtype in needed for tensor in tensors):
        return ""
    dtype = needed.pop()
    why = f"parameters of {repr(path) if path else 'the model'} are {_name(dtype)}"
    if fitted:
        return f"{why}, and it was called with {', '.join(given)}: parameters of the model have several dtypes"
    wanted = [dtype if _is_float(tensor.dtype) else tensor.dtype for tensor in tensors]
    if wanted == [tensor.dtype for tensor in tensors]:  # integers came where floats are needed, if they came there
        wanted = [dtype if yes else tensor.dtype for tensor, yes in zip(tensors, reached, strict=True)]
    return _of_dtype(why, tensors, wanted, made) if wanted != [tensor.dtype for tensor in tensors] else ""


def _dtypes_that_ran(trace: Trace) -> set[str]:
    """Dtypes of the parameters of modules whose calls returned."""
    calls = trace.module_calls
    returned = calls[(calls["end"] >= 0) & ((calls["flags"] & CALL_RAISED) == 0)]
    addresses = set(trace.modules["address"][returned["module"]].tolist())
    infos = trace.model.modules if trace.model is not None else ()
    return {tensor.dtype for info in infos if info.address in addresses for tensor in info.parameters}


def _parameters(trace: Trace, path: str) -> Iterator[TensorInfo]:
    """Parameters and buffers of the module or, if it has none, of those inside it or else of the whole model."""
    infos = trace.model.modules if trace.model is not None else ()
    own = [info for info in infos if info.path == path]
    inside = [info for info in infos if info.path.startswith(f"{path}.") or not path]
    for group in (own, inside, infos):
        found = [tensor for info in group for tensor in (*info.parameters, *info.buffers)]
        if any(tensor.dtype.startswith(("float", "bfloat", "complex")) for tensor in found):
            return iter(found)
    return iter(())


def _of_device(trace: Trace, tensors: list[torch.Tensor]) -> str:
    assert trace.model is not None
    first = next((tensor.device for tensor in (*trace.model.parameters(), *trace.model.buffers())), None)
    found = list(dict.fromkeys(str(tensor.device) for tensor in tensors))
    if first is None or found == [first]:
        return ""
    return f'the inputs are on {" and ".join(found)}, and the model is on {first}: device="{first}" puts them there'


def _of_dtype(why: str, tensors: list[torch.Tensor], wanted: list[torch.dtype], made: bool) -> str:
    found = " and ".join(dict.fromkeys(_name(tensor.dtype) for tensor in tensors))
    if not made:
        fitting = next(dtype for dtype, tensor in zip(wanted, tensors, strict=True) if dtype != tensor.dtype)
        return f"{why}, and input_data has {found}: convert it, as by x.to({_argument(fitting)})"
    names = list(map(_argument, wanted))
    argument = names[0] if len(set(names)) == 1 else f"[{', '.join(names)}]"
    default = torch.get_default_dtype()
    set_by = f" (torch's default dtype is {_name(default)})" if default != torch.float32 else ""
    return f"{why}, and the inputs are {found}{set_by}: dtypes={argument} makes inputs that fit"


def _is_float(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def _argument(dtype: torch.dtype) -> str:
    return "torch.long" if dtype == torch.long else str(dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
