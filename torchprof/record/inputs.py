"""The inputs that a model is called with: tensors made from sizes, or the caller's own data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from torchprof.arguments import is_integral
from torchprof.errors import ArgumentError, ModuleTypeError
from torchprof.record.changed_copies import moved
from torchprof.record.nested import find_tensors, tensors_in

__all__ = ["Inputs", "make_inputs"]


@dataclass(frozen=True, slots=True)
class Inputs:
    """The arguments of one forward call."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def tensors(self) -> list[torch.Tensor]:
        """Every tensor among the arguments, inside containers too."""
        return [*find_tensors(self.args), *find_tensors(self.kwargs)]

    def has_arrays(self) -> bool:
        """Whether there are arrays of numpy among them, whose bytes are not known here."""
        return any("numpy.ndarray" in tensors_in(given).unread for given in (self.args, self.kwargs))


def make_inputs(
    model: nn.Module,
    input_size: Any,
    *,
    batch_size: int | None,
    input_data: Any,
    dtypes: Any,
    device: Any,
) -> Inputs | None:
    """The arguments to call ``model`` with, or None when neither sizes nor data are given.

    Floating-point inputs are uniform in [0, 1), as those of torchsummary. Integer and boolean inputs are zeros, which are
    valid indices of any embedding.

    Raises:
        ArgumentError, ModuleTypeError: an argument is wrong; the message names it.
    """
    if isinstance(input_data, Inputs):
        if device is None:
            return input_data
        where = _device(device, nn.Module())
        return Inputs(moved(input_data.args, where), moved(input_data.kwargs, where))
    if input_size is not None and input_data is not None:
        raise ArgumentError(
            f"input_size={input_size!r} and input_data were both given: give the sizes to have inputs made, or your own data"
        )
    if input_data is not None:
        for name, value in (("batch_size", batch_size), ("dtypes", dtypes)):
            if value is not None:
                raise ArgumentError(f"{name}={value!r} has no meaning with input_data: its tensors have one already")
        return _from_data(input_data, device)
    if input_size is None:
        for name, value in (("batch_size", batch_size), ("dtypes", dtypes)):
            if value is not None:
                raise ArgumentError(f"{name}={value!r} needs input_size")
        return None
    batch = _batch(batch_size)
    sizes = [batch + size for size in _sizes(input_size)]
    where = _device(device, model)
    return Inputs(tuple(_random(size, dtype, where) for size, dtype in zip(sizes, _dtypes(dtypes, sizes), strict=True)))


def _batch(batch_size: Any) -> tuple[int, ...]:
    if batch_size is None:
        return ()
    if not is_integral(batch_size) or batch_size < -1 or batch_size == 0:
        raise ArgumentError(
            f"batch_size must be a positive int, or -1 to run with 2 and show -1 as torchsummary does, not {batch_size!r}"
        )
    return (2 if batch_size == -1 else int(batch_size),)


def _sizes(input_size: Any) -> list[tuple[int, ...]]:
    """One size, or several: (3, 224, 224), [3, 224, 224], [(3, 8), (4,)]."""

    def is_size(value: Any) -> bool:
        return isinstance(value, Sequence) and not isinstance(value, str | bytes)

    if isinstance(input_size, Mapping) or _is_array(input_size) or _has_arrays(input_size):
        raise ArgumentError(
            f"input_size is for sizes such as (3, 224, 224), and this {type(input_size).__name__} has data: give it as "
            "input_data=" + ("" if isinstance(input_size, Mapping) else ", or the shape of a tensor, tensor.shape")
        )
    if not is_size(input_size):
        raise ArgumentError(
            f"input_size must be a tuple of ints such as (3, 224, 224), or a list of such tuples for a model with several "
            f"inputs, not {input_size!r}"
        )
    if isinstance(input_size, list) and not input_size:
        raise ArgumentError(
            "input_size=[] has no size in it: give one such as (3, 224, 224), [()] for one number, or input_data=() for a "
            "model that is called without inputs"
        )
    nested = [is_size(item) for item in input_size]
    if any(nested) and not all(nested):
        raise ArgumentError(f"input_size={input_size!r} mixes ints and tuples: give one tuple of ints per input")
    sizes = [tuple(size) for size in input_size] if any(nested) else [tuple(input_size)]
    for size in sizes:
        for item in size:
            if not is_integral(item) or item < 0:
                raise ArgumentError(f"input_size={input_size!r} contains {item!r}: every size must be a non-negative int")
    return [tuple(map(int, size)) for size in sizes]


def _is_array(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (hasattr(value, "__array__") and hasattr(value, "shape") and value.shape != ())


def _has_arrays(value: Any) -> bool:
    """Whether it is, or contains, a tensor or an array of numpy's."""
    if isinstance(value, list | tuple):
        return any(_is_array(item) or _has_arrays(item) for item in value)
    return bool(find_tensors(value))


def _dtypes(dtypes: Any, sizes: list[tuple[int, ...]]) -> list[torch.dtype]:
    given = list(dtypes) if isinstance(dtypes, list | tuple) else [dtypes if dtypes is not None else torch.get_default_dtype()]
    given = [getattr(dtype, "dtype", dtype) for dtype in given]  # of a type of tensors, such as torch.LongTensor
    for dtype in given:
        if not isinstance(dtype, torch.dtype):
            raise ArgumentError(
                f"dtypes={dtypes!r} contains {dtype!r}: give a torch.dtype such as torch.long, or one per input"
            )
    if len(given) == 1:
        given *= len(sizes)
    if len(given) != len(sizes):
        raise ArgumentError(f"dtypes={dtypes!r} names {len(given)} dtypes for {len(sizes)} inputs: give one, or one per input")
    return given


def _device(device: Any, model: nn.Module) -> torch.device:
    if device is not None:
        try:
            return torch.device(device)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ArgumentError(f"device={device!r} is not a device: {str(error).splitlines()[0]}") from None
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.get_default_device()


def _random(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    try:
        if dtype.is_floating_point or dtype.is_complex:
            return (
                torch.rand(size, device=device).to(dtype)
                if dtype.itemsize == 1
                else torch.rand(size, dtype=dtype, device=device)
            )
        return torch.zeros(size, dtype=dtype, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ArgumentError(
            f"cannot make an input of size {size} and dtype {dtype} on device {str(device)!r}: {str(error).splitlines()[0]}"
        ) from None


def _from_data(input_data: Any, device: Any) -> Inputs:
    """Positional arguments, keyword arguments, or one argument."""
    data = input_data if device is None else moved(input_data, _device(device, nn.Module()))
    # Subclasses of tuple and list are values with a meaning of their own: PackedSequence, named tuples.
    if type(data) in (tuple, list):
        return Inputs(tuple(data))
    if isinstance(data, Mapping):
        names = [name for name in data if not isinstance(name, str)]
        if names:
            raise ArgumentError(
                f"input_data is a {type(data).__name__} with the key {names[0]!r}: keys are names of keyword arguments. "
                "One that is itself an argument stands in a tuple: input_data=({...},)"
            )
        return Inputs(kwargs=dict(data.items()))
    if isinstance(data, torch.Tensor) or find_tensors(data):
        return Inputs((data,))
    raise ModuleTypeError(
        f"input_data must be a tensor, a tuple or list of positional arguments, a dict of keyword arguments, or an object with "
        f"tensors in it, not {type(data).__name__}"
        + (": torch.as_tensor(array) makes a tensor of it" if _is_array(data) else ": an argument of it stands in a tuple")
    )
