"""Dynamo at work on a program that is estimated: it compiles the program alone, unrecorded, and forgets it all."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import CodeType, FunctionType
from typing import Any

import torch

from torchprof import _native
from torchprof.estimation.fake.callers import is_read, replaced, without_modes
from torchprof.estimation.torch_private import DYNAMO

__all__ = ["undone"]


@contextmanager
def undone(backend: Callable[..., Any]) -> Iterator[None]:
    """Dynamo forgets what is compiled with this backend until the block ends, and then is as it was."""
    seen: list[CodeType] = []
    with ExitStack() as stack:
        _settle()
        # Dynamo makes fake tensors of its own, and leaves modes for that, but below DistributedDataParallel.
        stack.enter_context(replaced(DYNAMO.CatchErrors, "__call__", without_modes(DYNAMO.CatchErrors.__call__)))
        stack.callback(DYNAMO.register_bytecode_hook(lambda code, _: seen.append(code)).remove)
        callback_handler = DYNAMO.callback_handler
        callback_handler.register_start_callback(_pause)
        stack.callback(callback_handler.remove_start_callback, _pause)
        callback_handler.register_end_callback(_resume)
        stack.callback(callback_handler.remove_end_callback, _resume)
        stack.callback(_forget, seen, backend)
        stack.callback(_set_shapes, copy.deepcopy(DYNAMO.get_code_state()))
        yield


def _settle() -> None:
    """What Dynamo does with the functions of an estimate, all of which it could read."""
    torch.compiler.assume_constant_result(is_read)  # type: ignore[no-untyped-call]
    for code in _own_codes():
        DYNAMO.skip_code(code)


def _own_codes() -> Iterator[CodeType]:
    """The code of all functions of torchprof, which Dynamo may inline, and never compile where they are called by PyTorch."""
    modules = [module for name, module in [*sys.modules.items()] if name.partition(".")[0] == "torchprof"]
    found = [value for module in modules for value in vars(module).values()]
    found += [value for kind in found if isinstance(kind, type) for value in vars(kind).values()]
    unwrapped = [inspect.unwrap(value) for value in found if isinstance(value, FunctionType)]
    own = [value for value in unwrapped if isinstance(value, FunctionType) and value.__module__.startswith("torchprof.")]
    codes = [function.__code__ for function in own]
    while codes:
        code = codes.pop()
        yield code
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def _pause(_: object) -> None:
    """While the compiler works, on fake tensors of its own, nothing is recorded."""
    _native.pause_recording()


def _resume(_: object) -> None:
    _native.resume_recording([], 0)


def _set_shapes(seen: dict[Any, Any]) -> None:
    """Put back which shapes Dynamo has seen: it would compile for any shape when it sees a second one."""
    state = DYNAMO.get_code_state()
    state.clear()
    state.update(seen)


def _forget(codes: Sequence[CodeType], backend: Callable[..., Any]) -> None:
    """Remove what Dynamo keeps of the functions it compiled with this backend. What the user compiled stays."""

    def is_of_estimate(found: Any) -> bool:
        return getattr(found, "compiler_fn", found) is backend

    for code in dict.fromkeys(codes):
        entries = DYNAMO.cache_entries_of(code)
        of_estimate = [entry for entry in entries if is_of_estimate(entry.backend)]
        if len(of_estimate) == len(entries):
            DYNAMO.reset_code(code)
            continue
        for entry in of_estimate:
            guards: Any = entry.guard_manager
            guards.extra_state.invalidate(entry, DYNAMO.DeletedGuardManager("the estimate is over"))
    backends = DYNAMO.cached_backends
    for key in [key for key, cached in backends.items() if is_of_estimate(cached)]:
        del backends[key]
