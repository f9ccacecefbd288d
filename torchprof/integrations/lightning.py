"""Records the steps of a Lightning ``Trainer``: by its profiler, ``Trainer(profiler=TorchprofProfiler())``, or a callback."""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from typing import Any, Unpack

from torchprof.errors import MissingPackageError
from torchprof.integrations.training import Settings, Training
from torchprof.paths import AnyPath
from torchprof.trace.rank import Rank
from torchprof.trace.trace import Trace

__all__ = ["TorchprofCallback", "TorchprofProfiler"]

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
"""Lightning has two names, whose classes are not the same."""
A_STEP = "a step is one of the optimizers, with all batches that it accumulates"


def of_lightning(module: str, name: str) -> Any:
    """A class of Lightning to inherit from. Where the program has imported it by both names, of both."""
    imported = [package for package in PACKAGES if package in sys.modules]
    found: list[Any] = []
    for package in imported or PACKAGES:
        with suppress(ImportError):
            if imported or not found:
                found.append(getattr(importlib.import_module(f"{package}.{module}"), name))
    if not found:
        raise MissingPackageError(
            "torchprof.integrations.lightning needs lightning or pytorch_lightning, which is not installed: "
            'pip install "torchprof-recorder[lightning]", or lightning'
        )
    return found[0] if len(found) == 1 else type(name, tuple(found), {})


class Steps:
    """Finds the steps of a ``Trainer``: the number of steps of its optimizers tells when one has ended."""

    def __init__(self, folder: AnyPath | None, **settings: Unpack[Settings]) -> None:
        self.training = Training(folder, A_STEP, **settings)
        self._stepped = 0

    def begin(self, trainer: Any) -> None:
        """A training begins."""
        self._stepped = trainer.global_step
        rank = Rank(trainer.global_rank, trainer.world_size) if trainer.world_size > 1 else None
        self.training.begin(trainer.lightning_module, rank, first=self._stepped)

    def has_stepped(self, trainer: Any) -> bool:
        """Whether an optimizer has stepped since this was asked before."""
        before, self._stepped = self._stepped, trainer.global_step
        return self._stepped != before


class TorchprofProfiler(of_lightning("profilers", "Profiler")):  # type: ignore[misc]
    """The profiler of a Lightning ``Trainer`` that records steps of ``fit``, writes a file for each cycle of the schedule, and
    says at the end what it is. Both packages are supported, ``lightning`` and ``pytorch_lightning``.

    A step is one of the optimizer, or of all that step in a batch: the wait for its batches, forward and backward of all that
    it accumulates, ``optimizer.step()``, callbacks; with manual optimization too. What follows the batch, validation and
    checkpoints, is of no step. Steps have the numbers of ``trainer.global_step`` where ``fit`` begins or resumes, and count on
    from there.

    It inherits from Lightning's ``Profiler``. Where ``fit`` raises in an epoch, what was recorded up to there is written;
    where it raises between two of them, when the next ``fit`` begins or the program ends.

    Args:
        folder: where files are written, named ``train.steps2-9.torchprof`` and, of several ranks,
            ``train.steps2-9.rank0.torchprof``; None: nowhere. A file that is there is never written over.
        settings: ``schedule``, ``ranks``, ``show`` and others: see `torchprof.integrations.training.Settings`.

    Attributes:
        files: those that were written, in order.
        trace: the latest one; None before there is one.

    Raises:
        MissingPackageError: on import: Lightning is not installed.
        ArgumentError, ModuleTypeError: a setting is unknown or has the wrong type or value.
        ExtensionError: the compiled recorder is missing or was built for another PyTorch.

    Example:
        >>> from torchprof.integrations.lightning import TorchprofProfiler
        >>> profiler = TorchprofProfiler("traces", schedule=torchprof.schedule(wait=10, active=3))
        >>> lightning.Trainer(max_epochs=1, profiler=profiler).fit(module, loader)
    """

    def __init__(self, folder: AnyPath | None = "torchprof", **settings: Unpack[Settings]) -> None:
        super().__init__()
        self._steps = Steps(folder, **settings)
        self._outer: BaseException | None = None
        self._is_over = True

    @property
    def files(self) -> list[str]:
        return self._steps.training.files

    @property
    def trace(self) -> Trace | None:
        return self._steps.training.trace

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        super().setup(stage, local_rank, log_dir)
        if stage == "fit":
            self._steps.training.end()  # of one that raised
            self._is_over = False

    def start(self, action_name: str) -> None:
        if action_name == "run_training_epoch" and not self._is_over and not self._steps.training.is_running:
            self._outer = sys.exc_info()[1]
            self._steps.begin(self._trainer)
        elif action_name.endswith("train_dataloader_next"):
            self._steps.training.begin_step()

    def stop(self, action_name: str) -> None:
        if action_name == "run_training_batch" and self._steps.has_stepped(self._trainer):
            self._steps.training.end_step()
        elif action_name == "run_training_epoch":
            raised = sys.exc_info()[1]
            if raised is not None and raised is not self._outer:
                self._finish(raised)

    def describe(self) -> None:
        super().describe()
        self._finish()

    @property
    def _trainer(self) -> Any:
        return self._lightning_module.trainer

    def _finish(self, error: BaseException | None = None) -> None:
        self._is_over, self._outer = True, None
        self._steps.training.end(error)


class TorchprofCallback(of_lightning("callbacks", "Callback")):  # type: ignore[misc]
    """The same as `TorchprofProfiler`, as a callback: ``Trainer(callbacks=[TorchprofCallback("traces")])``, beside another
    profiler.

    A step ends with the batch; callbacks that come after this one, such as those that write checkpoints, are of the next step.
    Where ``fit`` raises, what was recorded up to there is written.

    Args:
        folder, settings: as of `TorchprofProfiler`.

    Attributes:
        files: those that were written, in order.
        trace: the latest one; None before there is one.

    Raises:
        MissingPackageError: on import: Lightning is not installed.
        ArgumentError, ModuleTypeError: a setting is unknown or has the wrong type or value.
        ExtensionError: the compiled recorder is missing or was built for another PyTorch.

    Example:
        >>> from torchprof.integrations.lightning import TorchprofCallback
        >>> lightning.Trainer(max_epochs=1, callbacks=[TorchprofCallback("traces", ranks=(0, 8))]).fit(module, loader)
    """

    def __init__(self, folder: AnyPath | None = "torchprof", **settings: Unpack[Settings]) -> None:
        super().__init__()
        self._steps = Steps(folder, **settings)
        self._is_epoch_over = False

    @property
    def files(self) -> list[str]:
        return self._steps.training.files

    @property
    def trace(self) -> Trace | None:
        return self._steps.training.trace

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._steps.begin(trainer)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._is_epoch_over = False
        self._steps.training.begin_step()

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self._steps.training.begin_step()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if self._steps.has_stepped(trainer):
            self._is_epoch_over = trainer.is_last_batch or trainer.should_stop
            if self._is_epoch_over or may_validate(trainer):
                self._steps.training.end_step()
            else:
                self._steps.training.step()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not self._is_epoch_over:
            self._steps.training.begin_step()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._steps.training.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._steps.training.end(exception)


def may_validate(trainer: Any) -> bool:
    """Whether validation may follow this batch. If it does not, the next step is without the wait for its batch."""
    every = trainer.val_check_batch
    if not trainer.enable_validation:
        return False
    if not isinstance(every, int) or every < 1:  # by time, or at the end of data that has no length
        return every is None
    loop = trainer.fit_loop
    return bool(loop.batch_idx % every == every - 1 or loop.total_batch_idx % every == every - 1)
