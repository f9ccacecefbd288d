"""Records the iterations of an ``Engine`` of pytorch-ignite."""

from __future__ import annotations

from typing import Any, Unpack

from torchprof.arguments import check_int
from torchprof.errors import MissingPackageError, ModuleTypeError
from torchprof.integrations.training import Models, Settings, Training
from torchprof.paths import AnyPath
from torchprof.record.rank import current_rank
from torchprof.trace.trace import Trace
from torchprof.wording import shown

try:
    from ignite.engine import Engine, Events
except ImportError as error:
    raise MissingPackageError(
        f"torchprof.integrations.ignite needs pytorch-ignite, which cannot be imported here ({error}): "
        "pip install pytorch-ignite"
    ) from None

__all__ = ["TorchprofHandler"]

A_STEP = "a step is an iteration of the engine"


class TorchprofHandler:
    """Records the iterations of an ``Engine``, writes a file for each cycle of the schedule, and says at the end what it is.

    A step is an iteration, from the wait for its batch to the end of the function that processes it; with gradient
    accumulation, ``iterations`` of them. What other handlers do at the end of an iteration is of no step, if they were
    attached later: attach this one first.

    Args:
        folder: where files are written, named ``train.steps2-9.torchprof`` and, of several ranks,
            ``train.steps2-9.rank0.torchprof``; None: nowhere. A file that is there is never written over.
        iterations: how many are a step.
        settings: ``schedule``, ``ranks``, ``show`` and others: see `torchprof.integrations.training.Settings`.

    Attributes:
        files: those that were written, in order.
        trace: the latest one; None before there is one.

    Raises:
        MissingPackageError: on import: pytorch-ignite is not installed.
        ArgumentError, ModuleTypeError: an argument or a setting is unknown or has the wrong type or value.
        ExtensionError: the compiled recorder is missing or was built for another PyTorch.

    Example:
        >>> from torchprof.integrations.ignite import TorchprofHandler
        >>> TorchprofHandler("traces").attach(trainer, model)
        >>> trainer.run(loader, max_epochs=1)
    """

    def __init__(self, folder: AnyPath | None = "torchprof", *, iterations: int = 1, **settings: Unpack[Settings]) -> None:
        check_int("iterations", iterations, 1)
        a_step = A_STEP if iterations == 1 else f"a step is {iterations} iterations of the engine"
        self._training = Training(folder, a_step, **settings)
        self._iterations = iterations
        self._models: Models = None

    @property
    def files(self) -> list[str]:
        return self._training.files

    @property
    def trace(self) -> Trace | None:
        return self._training.trace

    def attach(self, engine: Any, model: Models = None) -> TorchprofHandler:
        """Record the runs of an engine.

        Args:
            engine: the trainer.
            model: as `torchprof.profile` takes it.

        Raises:
            ModuleTypeError: this is no ``Engine``.
        """
        if not isinstance(engine, Engine):
            raise ModuleTypeError(f"engine={shown(engine)} is no ignite.engine.Engine")
        self._models = model
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._fetches)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iterated)
        for event in (Events.COMPLETED, Events.TERMINATE, Events.INTERRUPT):
            engine.add_event_handler(event, self._ended)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._raised)
        return self

    def _started(self, engine: Any) -> None:
        self._training.begin(self._models, current_rank(), first=engine.state.iteration // self._iterations)

    def _fetches(self, engine: Any) -> None:
        self._training.begin_step()

    def _iterated(self, engine: Any) -> None:
        if engine.state.iteration % self._iterations == 0:
            self._training.end_step()

    def _ended(self, engine: Any) -> None:
        self._training.end()

    def _raised(self, engine: Any, error: BaseException) -> None:
        """The engine raises an exception itself only where no handler is told of it."""
        self._training.end(error)
        handlers = getattr(engine, "_event_handlers", {}).get(Events.EXCEPTION_RAISED, ())
        if len(handlers) <= 1:
            raise error
