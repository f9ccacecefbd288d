"""What ``torch.compile`` does during a recording: what is no work of the program, and what cannot be seen."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from torchprof import _native
from torchprof.errors import UnsupportedTorchError
from torchprof.record import torch_private

__all__ = ["CompiledCode"]

COMPILES: Final = frozenset(("DYNAMO", "LAZY_BACKWARD"))
"""Triggers of Dynamo's callbacks at which it compiles. At others it runs what was compiled."""

SHOWS_OPS: Final = "torch._dynamo.backends.debugging"
"""The module of the backends that run the graph of a program op by op: ``eager``, ``aot_eager`` and their like."""


class CompiledCode:
    """Leaves out of a recording what runs while Dynamo compiles, and tells which backends compiled what ran.

    Called with every callback of Dynamo's when compiled code begins with it for the first time.

    Attributes:
        compiled: whether anything was compiled meanwhile.
    """

    def __init__(self) -> None:
        self.compiled = False
        self._evaluators: list[Any] = []
        self._is_started = False

    def __call__(self, evaluator: Any) -> None:
        self._evaluators.append(evaluator)
        self.start()

    @property
    def hides_ops(self) -> bool:
        """Whether kernels may have run in compiled code that are no ops."""
        if not self._evaluators:
            return "torch._inductor.output_code" in sys.modules
        return not all(map(_shows_ops, self._evaluators))

    def start(self) -> None:
        """Leave out what Dynamo compiles until the recording ends, if it is loaded."""
        if self._is_started:
            return
        try:
            handler = torch_private.compile_callbacks()
        except UnsupportedTorchError:
            return  # FLOPs of ops on fake tensors are left out all the same
        if handler is not None:
            _native.replace_attribute(handler, "install_callbacks", self._without_recording(handler.install_callbacks))
            self._is_started = True

    def _without_recording(self, install_callbacks: Any) -> Any:
        @contextmanager
        def install(trigger: Any, compile_id: str) -> Iterator[None]:
            if trigger.name not in COMPILES:
                with install_callbacks(trigger, compile_id):
                    yield
                return
            self.compiled = True
            _native.begin_compiling()
            try:
                with install_callbacks(trigger, compile_id):
                    yield
            finally:
                _native.end_compiling()

        return install


def _shows_ops(evaluator: Any) -> bool:
    backend = evaluator
    while (inner := getattr(backend, "_torchdynamo_orig_backend", None)) is not None:
        backend = inner
    backend = getattr(backend, "compiler_fn", backend)  # of a name that was looked up
    while isinstance(backend, functools.partial):
        backend = backend.func
    return getattr(backend, "__module__", "") == SHOWS_OPS
