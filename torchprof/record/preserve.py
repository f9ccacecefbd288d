"""Puts back what a forward pass changes in a model and in the process.

Put back are the random number generators of torch (of every device in use), numpy and Python, and those that the model has as
attributes; and everything that a module holds:

- attributes, such as train/eval mode, registered modules, hooks and the class of the module, which lazy modules change;
- parameters, buffers and other tensors: elements, shape, dtype, ``data``, ``requires_grad``, gradient, hooks, version counter;
- lists, dicts, sets and deques, of Python's own and of derived classes, also inside each other, with what is in them;
- attributes of other objects, such as dataclasses, caches and optimizers; those of Python's standard library and of PyTorch's
  internals are not looked at;
- arrays of numpy, ``bytearray`` and ``array.array``;

the modes of `torchprof.record.modes`; and which parameters FSDP2 has gathered (`torchprof.record.gathered_parameters`).

Nothing is copied that is not written: the memory of a tensor is copied just before the first op that writes to it
(``csrc/record/memory_guard.h``). Only registered buffers of up to 1 MiB are copied beforehand, as kernels that no dispatcher
knows may write to them; so are arrays of up to 64 MiB. What could not be put back is named in a warning.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final

import torch
from torch import nn

from torchprof import _native
from torchprof.record.arrays import ArrayState, array_kinds
from torchprof.record.gathered_parameters import gathered_as_before
from torchprof.record.modes import read_modes, set_modes

__all__ = ["preserved", "preserved_random_states", "random_states"]

MACHINERY: Final = sys.stdlib_module_names - {"argparse", "collections", "types"} | {"torchprof"}
TORCH_OBJECTS: Final = ("torch.nn.", "torch.optim.")

State = tuple[Callable[[Any], Any], Any]
"""A function, and what to call it with to put something back."""


@contextmanager
def preserved(model: nn.Module, *inputs: Any) -> Iterator[list[type[nn.Module]]]:
    """Put back what running ``model`` inside the block changes, also in its inputs, and also where the block raises.

    What it gives is the classes of the modules that it met.
    """
    states = random_states()
    modes_before = read_modes()
    others: dict[type, Callable[[Any], State | ArrayState]] = {**_generators(), **array_kinds()}
    before = _native.ModelState(model, nn.Module, (*others, torch.jit.ScriptModule), _is_plain)
    before.add(inputs)
    arrays: list[ArrayState] = []
    for found in before.found_others():
        if isinstance(found, torch.jit.ScriptModule):
            states += _add_script(before, found)
            continue
        with suppress(NotImplementedError):  # random.SystemRandom has no state
            state = next(others[kind] for kind in others if isinstance(found, kind))(found)
            if isinstance(state, ArrayState):
                arrays.append(state)
            else:
                states.append(state)
    before.start()
    try:
        with gathered_as_before(model):
            yield before.module_classes()
    finally:
        for restore, state in states:
            restore(state)
        set_modes(modes_before)
        failures = before.restore()
        failures += [(None, False, name) for array in arrays if (name := array.restore())]
        if failures:
            _warn(model, failures)


def _is_plain(kind: type) -> bool:
    """Whether the attributes of objects of this class are the program's, and not part of a machinery that forward may start."""
    module = getattr(kind, "__module__", None)
    if not isinstance(module, str) or issubclass(kind, BaseException):  # what it says is added when it is raised
        return False
    package = module.partition(".")[0]
    return module.startswith(TORCH_OBJECTS) if package == "torch" else package not in MACHINERY


def _add_script(before: _native.ModelState, script: torch.jit.ScriptModule) -> list[State]:
    """What modules of TorchScript hold, which is not in the dictionaries of Python objects."""
    states: list[State] = []
    for module in script.modules():
        before.add(vars(module))
        before.add([*module.parameters(recurse=False), *module.buffers(recurse=False)])
        kind: Any = getattr(module, "_concrete_type", None)
        held: Any = getattr(module, "_c", None)
        for name in kind.get_attributes() if kind is not None else ():
            value = held.getattr(name)
            before.add(value)
            states.append((partial(_set_attribute, held, name), value))
    return states


def _set_attribute(script: Any, name: str, value: Any) -> None:
    now = script.getattr(name)
    if now is not value and (isinstance(value, torch.Tensor) or isinstance(now, torch.Tensor) or now != value):
        script.setattr(name, value)


def _warn(model: nn.Module, failures: list[tuple[torch.Tensor | None, bool, str]]) -> None:
    names = {id(tensor): name for name, tensor in _named_tensors(model)}
    reasons: dict[str, str] = {}
    for tensor, is_gradient, reason in failures:
        name = reason if tensor is None else names.get(id(tensor), f"a tensor of shape {list(tensor.shape)}")
        reasons.setdefault(f"the gradient of {name}" if is_gradient else name, "a container" if tensor is None else reason)
    shown = [f"{name} ({reason})" for name, reason in reasons.items()][:3]
    warnings.warn(
        f"forward changed {len(reasons)} part(s) of the model that could not be put back: {', '.join(shown)}"
        + (", ..." if len(reasons) > len(shown) else ""),
        stacklevel=5,
    )


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for path, module in model.named_modules():
        below = f"{path}." if path else ""
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                yield below + name, value
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            yield below + name, tensor


def _generators() -> dict[type, Callable[[Any], State]]:
    """The types of random number generators, and what reads the state of one and gives the function that sets it."""
    known: dict[type, Callable[[Any], State]] = {torch.Generator: _set_state_of, random.Random: _setstate_of}
    if "numpy.random" in sys.modules:
        import numpy as np

        known[np.random.RandomState] = _set_state_of
        known[np.random.Generator] = _bits_of
        known[np.random.BitGenerator] = _bits
    return known


def _set_state_of(generator: Any) -> State:
    return generator.set_state, generator.get_state()


def _setstate_of(generator: Any) -> State:
    return generator.setstate, generator.getstate()


def _bits_of(generator: Any) -> State:
    return _bits(generator.bit_generator)


def _bits(generator: Any) -> State:
    return partial(setattr, generator, "state"), generator.state


@contextmanager
def preserved_random_states() -> Iterator[None]:
    """Every random number generator is as before when the block ends."""
    states = random_states()
    try:
        yield
    finally:
        for restore, state in states:
            restore(state)


def random_states() -> list[State]:
    """The states of all random number generators, each with the function that sets it."""
    states: list[State] = [
        (torch.set_rng_state, torch.get_rng_state()),
        (random.setstate, random.getstate()),
    ]
    if "numpy.random" in sys.modules:
        import numpy as np

        states.append((np.random.set_state, np.random.get_state()))
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    return states
