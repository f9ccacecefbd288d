"""Records the steps of a loop that ``accelerate`` prepared."""

from __future__ import annotations

import types
from typing import Any, Literal, Unpack

from torchprof.errors import ModuleTypeError, RecordingError
from torchprof.integrations.training import Models, Settings, Training
from torchprof.paths import AnyPath
from torchprof.trace.rank import Rank
from torchprof.trace.trace import Trace
from torchprof.wording import shown

__all__ = ["profile"]

A_STEP = "a step is one of the optimizer, with all batches that it accumulates"


class profile:
    """Record the steps of a training loop inside a ``with`` block, write a file for each cycle of the schedule, and say at the
    end what it is.

    ``step()`` is called at the end of every batch. A step is one of the optimizer: batches whose gradients are only accumulated
    belong to the next one that is synchronized (``accelerator.sync_gradients``).

    Args:
        accelerator: the ``Accelerator``, which knows the rank.
        model: as `torchprof.profile` takes it; what ``prepare`` returned, or what was given to it.
        folder: where files are written, named ``train.steps2-9.torchprof`` and, of several ranks,
            ``train.steps2-9.rank0.torchprof``; None: nowhere. A file that is there is never written over.
        settings: ``schedule``, ``ranks``, ``show`` and others: see `torchprof.integrations.training.Settings`.

    Attributes:
        files: those that were written, in order.
        trace: the latest one; None before there is one.

    Raises:
        ModuleTypeError: this is no ``Accelerator``, or a setting has the wrong type.
        ArgumentError: a setting is unknown or has the wrong value.
        ExtensionError: the compiled recorder is missing or was built for another PyTorch.

    Example:
        >>> from torchprof.integrations.accelerate import profile
        >>> with profile(accelerator, model, "traces") as prof:
        ...     for batch in loader:
        ...         with accelerator.accumulate(model):
        ...             accelerator.backward(model(batch).sum())
        ...             optimizer.step()
        ...             optimizer.zero_grad()
        ...         prof.step()
    """

    def __init__(
        self,
        accelerator: Any,
        model: Models = None,
        folder: AnyPath | None = "torchprof",
        **settings: Unpack[Settings],
    ) -> None:
        needed = ("sync_gradients", "process_index", "num_processes")
        if not all(hasattr(accelerator, name) for name in needed):
            raise ModuleTypeError(f"accelerator={shown(accelerator)} is no accelerate.Accelerator")
        self._accelerator = accelerator
        self._model = model
        self._training = Training(folder, A_STEP, **settings)
        self._is_inside = False

    @property
    def files(self) -> list[str]:
        return self._training.files

    @property
    def trace(self) -> Trace | None:
        return self._training.trace

    def step(self) -> None:
        """A batch has ended, and a step if its gradients were synchronized.

        Raises:
            RecordingError: outside the ``with`` block.
        """
        self._check("step()")
        if self._accelerator.sync_gradients:
            self._training.step()

    def end_step(self) -> None:
        """As `step`, but what follows is of no step until `step` is called: an evaluation, or a checkpoint.

        Raises:
            RecordingError: outside the ``with`` block.
        """
        self._check("end_step()")
        if self._accelerator.sync_gradients:
            self._training.end_step()

    def _check(self, what: str) -> None:
        if not self._is_inside:
            raise RecordingError(f"{what} was called outside the recording: call it inside the `with` block")

    def __enter__(self) -> profile:
        size = self._accelerator.num_processes
        rank = Rank(self._accelerator.process_index, size) if size > 1 else None
        self._training.begin(self._model, rank)
        self._is_inside = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: types.TracebackType | None
    ) -> Literal[False]:
        self._is_inside = False
        self._training.end(error)
        return False
