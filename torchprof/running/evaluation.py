"""Steps in which a model was also evaluated: a pass of validation between two steps of training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from torchprof.trace.trace import Trace

__all__ = ["Evaluations"]


class Evaluations:
    """Finds the steps in which a model was called without gradients, or in evaluation mode, while most steps have no such call.

    Where most have one, it is a part of training: a teacher, frozen layers, a rollout.
    """

    def __init__(self) -> None:
        self._steps: set[int] = set()

    def look(self, module: nn.Module, step: int) -> None:
        """A model, or a part of one, is called outside of all other modules, in the step of this number."""
        if not torch.is_grad_enabled() or vars(module).get("training") is False:  # no code of the module's own is asked
            self._steps.add(step)

    def told_in(self, trace: Trace) -> Trace:
        """The trace that names these steps. They are left out of tables, as warm-up is, but of sums that have them already."""
        steps = trace.steps
        active = steps["number"][steps["warmup"] == 0]
        found = active[np.isin(active, list(self._steps))]
        if not len(found) or 2 * len(found) >= len(active):
            return trace
        facts = {**trace.facts, "evaluation_steps": found.tolist()}
        if not trace.facts.get("aggregate"):
            steps = steps.copy()
            steps["warmup"][np.isin(steps["number"], found)] = 1
        return replace(trace, steps=steps, facts=facts)
