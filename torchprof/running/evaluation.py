"""Steps in which a model was also evaluated: a pass of validation between two steps of training; and what was in training."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from torchprof.trace.model import Model
from torchprof.trace.trace import Trace

__all__ = ["Evaluations"]


class Evaluations:
    """Finds the steps in which a model was called without gradients, or in evaluation mode, while most steps have no such call.

    Where most have one, it is a part of training: a teacher, frozen layers, a rollout.
    """

    def __init__(self) -> None:
        self._steps: set[int] = set()
        self._known: set[int] = set()  # ids of modules that were called to train
        self._training: set[int] = set()  # ids of modules that were in training mode then

    def look(self, module: nn.Module, step: int) -> None:
        """A model, or a part of one, is called outside of all other modules, in the step of this number."""
        if not torch.is_grad_enabled() or vars(module).get("training") is False:  # no code of the module's own is asked
            self._steps.add(step)
        elif id(module) not in self._known:
            self._known.add(id(module))
            below = [module]
            while below:
                each = below.pop()
                if vars(each).get("training") is True:
                    self._training.add(id(each))
                below += [child for child in (vars(each).get("_modules") or {}).values() if child is not None]

    def with_modes(self, trace: Trace) -> Trace:
        """The trace whose model is in the mode in which it was called to train: it is often evaluated at the very end."""
        if trace.model is None:
            return trace
        modules = (
            info._replace(training=True) if info.training is False and info.address in self._training else info
            for info in trace.model.modules
        )
        return replace(trace, model=Model(tuple(modules)))

    def told_in(self, trace: Trace, among: Collection[int] | None = None) -> Trace:
        """The trace that names these steps. They are left out of tables, as warm-up is, but of sums that have them already, and
        where the trace has no others.

        Args:
            among: the numbers of all steps by which it is told whether most have such a call: where a job has many traces,
                those of all of them. By default those of this trace that are not warm-up.
        """
        steps = trace.steps
        active = steps["number"][steps["warmup"] == 0]
        found = active[np.isin(active, list(self._steps))]
        among = active.tolist() if among is None else among
        if not len(found) or 2 * len(self._steps.intersection(among)) >= len(among):
            return trace
        facts = {**trace.facts, "evaluation_steps": found.tolist()}
        if not trace.facts.get("aggregate") and len(found) < len(active):
            steps = steps.copy()
            steps["warmup"][np.isin(steps["number"], found)] = 1
        return replace(trace, steps=steps, facts=facts)
