"""A handler that sends the figures of every trace to TensorBoard."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from torchprof.handlers.has_trace import HasTrace
from torchprof.paths import AnyPath, text_of

__all__ = ["tensorboard"]


def tensorboard(folder: AnyPath) -> Callable[[HasTrace], None]:
    """A handler that sends the figures of every trace to TensorBoard, as scalars at its last step: see
    `torchprof.integrations.tensorboard.log`, which needs tensorboard.

    Args:
        folder: of the run, which TensorBoard is started with: ``tensorboard --logdir runs``.

    Raises:
        ArgumentError: the folder is no path.

    Example:
        >>> with torchprof.profile(model, on_trace_ready=torchprof.handlers.tensorboard("runs")) as prof:
        ...     train_step(batches[0])
        ...     prof.step()
    """
    place = text_of(folder, "folder")

    def send(prof: HasTrace) -> None:
        # It stands above the public names, of which this is one.
        tracker = importlib.import_module("torchprof.integrations.tensorboard")
        tracker.log(prof.trace, writer=place)

    return send
