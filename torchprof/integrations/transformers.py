"""Records the steps of a ``transformers.Trainer``: ``Trainer(..., callbacks=[TorchprofCallback("traces")])``."""

from __future__ import annotations

import types
from typing import Any, Literal, Unpack

from torchprof.errors import MissingPackageError
from torchprof.integrations.training import Settings, Training
from torchprof.paths import AnyPath
from torchprof.trace.rank import Rank
from torchprof.trace.trace import Trace

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingPackageError(
        f"torchprof.integrations.transformers needs transformers, which cannot be imported here ({error}): "
        "pip install transformers accelerate"
    ) from None

__all__ = ["TorchprofCallback"]

A_STEP = "a step is one of the optimizer, with all batches that it accumulates"


class TorchprofCallback(TrainerCallback):
    """Records the steps of a ``transformers.Trainer``, writes a file for each cycle of the schedule, and says at the end what
    it is.

    A step is one of the optimizer: the wait for its batches, forward and backward of all that it accumulates, clipping,
    ``optimizer.step()``, the scheduler. Evaluations and checkpoints are of no step. Steps have the numbers of the Trainer, also
    where it resumes from a checkpoint; which are recorded is counted from the first one of this training.

    Where training raises, the Trainer tells no callback. What was recorded is written when the program ends, when the next
    training or recording begins, or at the end of a ``with`` block of the callback, which is the surest way.

    Args:
        folder: where files are written, named ``train.steps2-9.torchprof`` and, of several ranks,
            ``train.steps2-9.rank0.torchprof``; None: nowhere. A file that is there is never written over.
        settings: ``schedule``, ``ranks``, ``show`` and others: see `torchprof.integrations.training.Settings`.

    Attributes:
        files: those that were written, in order.
        trace: the latest one; None before there is one.

    Raises:
        MissingPackageError: on import: transformers is not installed.
        ArgumentError, ModuleTypeError: a setting is unknown or has the wrong type or value.
        ExtensionError: the compiled recorder is missing or was built for another PyTorch.

    Example:
        >>> from torchprof.integrations.transformers import TorchprofCallback
        >>> callback = TorchprofCallback("traces", schedule=torchprof.schedule(wait=10, active=3), show=["verdict",
        "by_module"]) >>> trainer = transformers.Trainer(model, arguments, train_dataset=dataset, callbacks=[callback])
        >>> with callback:
        ...     trainer.train()
    """

    def __init__(self, folder: AnyPath | None = "torchprof", **settings: Unpack[Settings]) -> None:
        self._training = Training(folder, A_STEP, **settings)
        self._begins = False
        self._is_epoch_over = False

    @property
    def files(self) -> list[str]:
        return self._training.files

    @property
    def trace(self) -> Trace | None:
        return self._training.trace

    def __enter__(self) -> TorchprofCallback:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: types.TracebackType | None
    ) -> Literal[False]:
        self._training.end(error)
        return False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._training.end()  # of one that raised
        self._begins = True

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._is_epoch_over = False
        if self._begins:  # after `eval_on_start`
            self._begins = False
            rank = Rank(args.process_index, args.world_size) if args.world_size > 1 else None
            self._training.begin(kwargs.get("model"), rank, first=state.global_step)
        self._training.begin_step()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._training.begin_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._is_epoch_over = float(state.epoch or 0).is_integer() or control.should_training_stop or control.should_epoch_stop
        if self._is_epoch_over or control.should_evaluate or control.should_save:
            self._training.end_step()
        else:
            self._training.step()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not (self._is_epoch_over or control.should_save or control.should_training_stop):
            self._training.begin_step()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not (self._is_epoch_over or control.should_training_stop):
            self._training.begin_step()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._begins = False
        self._training.end()
