"""The shapes that stages of a pipeline tell each other before the first step.

Where a stage is not made with ``input_args`` and ``output_args``, it runs once with what the stage before it would send. That
one is on a rank that is not there: it is run first, as far as its shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from torchprof.errors import EstimateError
from torchprof.estimation.fake.callers import replaced
from torchprof.estimation.torch_private import PIPELINES, SHARDING

__all__ = ["StageShapes"]

Estimated = TypeVar("Estimated")


class _ShapeNeededError(EstimateError):
    """The shapes of what a stage sends are not known yet."""

    def __init__(self, stage: int, rank: int, asking: int) -> None:
        super().__init__(f"the shapes of what stage {stage} sends are needed")
        self.stage, self.rank, self.asking = stage, rank, asking


class _ShapesToldError(EstimateError):
    """All stages of a rank have told their shapes, which was all that was asked for."""


class StageShapes:
    """The shapes that stages send, as far as they are known, for all ranks of an estimate."""

    def __init__(self) -> None:
        self._sent: dict[int, Any] = {}

    def estimated(self, rank: int, estimated: Callable[[int], Estimated]) -> Estimated:
        """What ``estimated(rank)`` returns, once the shapes of the stages before those of the rank are known.

        Raises:
            EstimateError: no rank sends what a stage waits for.
        """
        while True:
            try:
                with self._exchanged(only=False):
                    return estimated(rank)
            except _ShapeNeededError as needed:
                self._learn(needed, estimated)

    def _learn(self, needed: _ShapeNeededError, estimated: Callable[[int], Any]) -> None:
        """Run the rank of a stage until its shapes are known."""
        while needed.stage not in self._sent:
            known = len(self._sent)
            try:
                with self._exchanged(only=True):
                    estimated(needed.rank)
            except _ShapesToldError:
                pass
            except _ShapeNeededError as before:
                # Stages may go round the ranks several times: each time the next one is known.
                if before.stage < needed.stage and (before.rank != needed.rank or len(self._sent) > known):
                    self._learn(before, estimated)
                    continue
            if needed.stage not in self._sent:
                raise EstimateError(
                    f"stage {needed.asking} of the pipeline would wait for ever for what stage {needed.stage} sends: rank "
                    f"{needed.rank}, on which it should be, has no such stage"
                ) from None

    @contextmanager
    def _exchanged(self, only: bool) -> Iterator[None]:
        """Stages tell their shapes to this object, and are told those of others by it, until the block ends.

        Args:
            only: whether nothing else is wanted.
        """
        if not _has_pipelines():  # nor can the program make a stage
            yield
            return
        stage, schedule = PIPELINES.PipelineStage, SHARDING.PipelineSchedule
        prepare_backward = stage._prepare_backward_infra

        def receive(self_: Any, other: int) -> Any:
            if other > self_.stage_index:
                return PIPELINES.StageBackwardMeta(_gradients(self_))
            if other not in self._sent:
                raise _ShapeNeededError(other, self_._resolve_peer_global_rank(other), self_.stage_index)
            return self._sent[other]

        def send(self_: Any, told: Any, other: int) -> None:
            if other > self_.stage_index:
                self._sent[self_.stage_index] = told

        def prepared(self_: Any, *args: Any, **options: Any) -> Any:
            if only:
                raise _ShapesToldError
            return prepare_backward(self_, *args, **options)

        with ExitStack() as stack:
            for owner, name, value in (
                (stage, "_recv_meta", receive),
                (stage, "_send_meta", send),
                (stage, "_prepare_backward_infra", prepared),
                (schedule, "_warmup_p2p", _agreed),
            ):
                stack.enter_context(replaced(owner, name, value))
            yield


def _has_pipelines() -> bool:
    try:
        PIPELINES.require()
    except EstimateError:
        return False
    return True


def _gradients(stage: Any) -> Any:
    """The shapes of the gradients that a stage receives: those of what it sends."""
    outputs = stage._stage_meta.outputs
    if any(isinstance(output, PIPELINES.DTensorMeta) and output.requires_grad for output in outputs):
        raise EstimateError(
            f"stage {stage.stage_index} of the pipeline sends a DTensor, and how its gradient is laid out is for the next "
            "stage to say: make every stage with input_args, output_args, input_grads and output_grads, or send local tensors"
        )
    return PIPELINES.derive_grad_metas(outputs)


def _agreed(schedule: Any, stages: Any, has_backward: bool, p2p_done: bool) -> None:
    """Stages agree on whether their shapes have been given, as those of this rank have."""
    modes = PIPELINES.InferenceMode
    own = [stage for stage in stages if isinstance(stage, PIPELINES.PipelineStage)]
    unknown = any(modes.needs_dynamic(stage._user_meta, has_backward) for stage in own)
    for stage in own:
        stage._inference_mode = modes.DYNAMIC if unknown else modes.STATIC
