"""The mode that a program is estimated in: on fake tensors, whose storages are counted as the real ones would be.

A fake tensor has a shape, a dtype and a device, and no data; PyTorch's fake kernels say what each op would return. Their
storages are on ``meta``, where the recorder counts them. The recorder is paused while a fake kernel runs, as it may allocate
what the real one does not: only results are counted, and what rules add (`torchprof.estimation.rules`).
"""

from __future__ import annotations

from typing import Any, Final

import torch

from torchprof import _native
from torchprof.estimation.fake.backward_nodes import BackwardNodes
from torchprof.estimation.fake.cache import MISS, FakeOpCache
from torchprof.estimation.fake.overrides import Overrides
from torchprof.estimation.fake.real_ops import RealOps, UnmeasuredError, is_kept
from torchprof.estimation.torch_private import ESTIMATE
from torchprof.record.nested import find_tensors

__all__ = ["EstimateMode"]

DEVICE: Final = torch.ops.prim.device.default
DETACH: Final = torch.ops.aten.detach.default

FakeTensorMode: Any = ESTIMATE.FakeTensorMode


class EstimateMode(FakeTensorMode):  # type: ignore[misc]
    """Everything made inside is fake; real tensors are taken as fake ones.

    Args:
        rules: what is done otherwise than PyTorch's fake kernels say.
        real_ops: ops that may run for real on stand-ins.
    """

    def __init__(self, rules: Overrides, real_ops: RealOps) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self._rules, self._others = rules.by_op, rules.others
        self.real_ops = real_ops
        self.backward_nodes = BackwardNodes(rules.backward_nodes)
        self._cache = FakeOpCache(self)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is DEVICE and getattr(args[0], "fake_mode", None) is self:  # half of all calls
            return args[0].fake_device
        if func is DETACH:
            self.backward_nodes.begin()
        if func.namespace == "profiler":  # record_function and its kin work on no tensors
            return func(*args, **kwargs)
        if getattr(func, "_pyobj_dispatcher", None) is None:
            return self._estimated(func, types, args, kwargs)
        # An op of torch.library that PyTorch 2.14 dispatches in a way of its own, of which no recorder learns.
        with torch.profiler.record_function(func._schema.name):
            return self._estimated(func, types, args, kwargs)

    def may_turn_const(self, t: torch.Tensor) -> bool:
        """Whether the values of a real tensor are kept beside the fake one: FakeTensorMode keeps only single numbers."""
        kept: bool = super().may_turn_const(t)
        return kept or (bool(self.real_ops) and type(t) is torch.Tensor and t.device.type == "cpu" and is_kept(t))

    def _estimated(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """What an op returns; the recorder is told of its results and of its workspace, and of nothing else."""
        rule = self._rules.get(func, self._others)
        if rule.in_place is not None and (in_place := rule.in_place(func, args)) is not None:
            func = in_place
            rule = self._rules.get(func, self._others)
        results: list[torch.Tensor] = []
        workspace = 0
        try:
            _native.pause_recording()
            returned: Any = self._returned(rule.fake_kernel, func, types, args, kwargs)
            if rule.result is not None:
                with self:
                    returned = rule.result(func, args, kwargs, returned)
            results = list(find_tensors(returned))
            for result in results:
                if result.layout is not torch.strided:
                    results = []
                    raise UnmeasuredError(func, f"it returns a tensor of layout {result.layout}, whose memory is not counted")
            if rule.workspace is not None:
                workspace = rule.workspace(func, args, kwargs, results)
            return returned
        finally:
            _native.resume_recording(results, workspace)

    def _returned(self, fake_kernel: Any, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if fake_kernel is not None:
            with self:
                return fake_kernel(*args, **kwargs)
        if not self.real_ops:
            key = self._cache.key(func, args, kwargs)
            if key is None:
                return self._uncached(func, types, args, kwargs)
            returned = self._cache.find(key, args)
            if returned is MISS:
                returned = self._uncached(func, types, args, kwargs)
                self._cache.keep(key, func, args, returned)
            return returned
        if self.real_ops.name(func):
            return self.real_ops.run(self, func, args, kwargs)
        try:
            returned = super().__torch_dispatch__(func, types, args, kwargs)
        except Exception as error:
            if self.real_ops.allow(error):
                return self.real_ops.run(self, func, args, kwargs)
            raise
        self.real_ops.note_truth(func, args, kwargs, returned)
        return returned

    def _uncached(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """What PyTorch's fake kernel returns."""
        return super().__torch_dispatch__(func, types, args, kwargs)
