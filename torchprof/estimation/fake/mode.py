"""The mode that a program is estimated in: on fake tensors, whose storages are counted as the real ones would be.

A fake tensor has a shape, a dtype and a device, and no data; PyTorch's fake kernels say what each op would return. Their
storages are on ``meta``, where the recorder counts them. The recorder is paused while a fake kernel runs, as it may allocate
what the real one does not: only results are counted, and what rules add (`torchprof.estimation.rules`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

from torchprof import _native
from torchprof.errors import EstimateError
from torchprof.estimation.fake.backward_nodes import BackwardNodes
from torchprof.estimation.fake.cache import FakeOpCache
from torchprof.estimation.fake.fallbacks import functional_of, is_little, without_out, written_into
from torchprof.estimation.fake.higher_order import eager
from torchprof.estimation.fake.interrupts import INTERRUPTS
from torchprof.estimation.fake.known_numbers import OF_NUMBERS, UNKNOWN, of_number
from torchprof.estimation.fake.outside import Outside
from torchprof.estimation.fake.overrides import OpRule, Overrides
from torchprof.estimation.fake.real_ops import RealOps, SparseError, UnmeasuredError, is_kept
from torchprof.estimation.fake.routing import Routing
from torchprof.estimation.fake.sparse import LayoutError, has_sparse, is_sparse, parts_of, returns_known, with_strides
from torchprof.estimation.sharding.communication import NAMESPACES, Communication
from torchprof.estimation.sharding.fitting_sizes import EXCHANGES, check_splits
from torchprof.estimation.sharding.offload import Host
from torchprof.estimation.sharding.works import Works
from torchprof.estimation.torch_private import ESTIMATE
from torchprof.record.nested import find_tensors

__all__ = ["EstimateMode", "UnwrappedMode"]

DEVICE: Final = torch.ops.prim.device.default
DETACH: Final = torch.ops.aten.detach.default

PLAIN: Final = frozenset({"aten", "prims"})
"""Namespaces of ops that PyTorch itself has, and dispatches like others."""
OTHER: Final = object()

FakeTensor = ESTIMATE.FakeTensor
FakeTensorMode: Any = ESTIMATE.FakeTensorMode


class EstimateMode(FakeTensorMode):  # type: ignore[misc]
    """Everything made inside is fake; real tensors are taken as fake ones.

    Args:
        rules: what is done otherwise than PyTorch's fake kernels say.
        real_ops: ops that may run for real on stand-ins.
        wrappers: tensors that stand for fake ones, as DTensor does for those of a rank.
        routing: what is assumed of routers; None: nothing.

    Attributes:
        communication: what the program sends to other ranks; None where it is alone.
        works: hold what collectives hold; None where the program is alone.
        host: tells what is on the host; None where all is on the device.
    """

    supports_higher_order_operators = True

    def __init__(
        self,
        rules: Overrides,
        real_ops: RealOps,
        wrappers: tuple[type[torch.Tensor], ...] = (),
        routing: Routing | None = None,
    ) -> None:
        super().__init__(allow_non_fake_inputs=True, allow_fallback_kernels=False)
        self._rules, self._others = rules.by_op, rules.others
        self.real_ops = real_ops
        self.routing = routing if routing is not None else Routing(None)
        self.backward_nodes = BackwardNodes(rules.backward_nodes)
        self._cache = FakeOpCache(self)
        self._plain: dict[Any, Any] = {}
        self.outside = Outside()
        self.wrappers = wrappers
        self.communication = Communication() if wrappers else None
        self.works: Works | None = None
        self.host: Host | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is DEVICE and getattr(args[0], "fake_mode", None) is self:  # half of all calls
            return args[0].fake_device
        if INTERRUPTS.pending:
            INTERRUPTS.check()
        if (returned := self._remade(func, args, kwargs)) is not UNKNOWN:
            return returned
        if self.wrappers and any(issubclass(kind, self.wrappers) for kind in types):
            return NotImplemented  # they call the op again, with what they wrap
        if func is DETACH:
            self.backward_nodes.begin()
        if self.communication is not None and func.namespace in NAMESPACES:
            if func._schema.name in EXCHANGES:
                check_splits(func, args, kwargs)
            self.communication.meet(func, args, kwargs)
        if func.namespace == "profiler":  # record_function and its kin work on no tensors
            return func(*args, **kwargs)
        if func.namespace == "higher_order":
            return self._of_higher_order(func, args, kwargs)
        if getattr(func, "_pyobj_dispatcher", None) is None:
            return self._estimated(func, types, args, kwargs)
        # An op of torch.library that PyTorch 2.14 dispatches in a way of its own, of which no recorder learns.
        with torch.profiler.record_function(func._schema.name):
            return self._estimated(func, types, args, kwargs)

    def _remade(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What an op returns that has returned as much before; `UNKNOWN` of others. As `_estimated`, without detours."""
        workspace = self._plain.get(func, UNKNOWN)
        if workspace is UNKNOWN:
            workspace = self._plain[func] = self._workspace_of_plain(func)
        if workspace is OTHER or self.real_ops or self.routing:  # these know values, which others of the same shapes lack
            return UNKNOWN
        if (recipe := self._cache.recipe(func, args, kwargs)) is None:
            return UNKNOWN
        if func is DETACH:
            self.backward_nodes.begin()
        results: list[torch.Tensor] = []
        needed = 0
        try:
            _native.pause_recording()
            returned = self._cache.made(recipe, args)
            results = [returned] if type(returned) is FakeTensor else find_tensors(returned)
            if workspace is not None:
                needed, blocks = self._workspace(workspace(func, args, kwargs, results))
                results = [*results, *blocks]
            return returned
        finally:
            self._resume(results, needed)

    def _workspace_of_plain(self, func: Any) -> Any:
        """What says which workspace an op needs, of which nothing else need be known; `OTHER` of an op that is not plain."""
        if not isinstance(func, ESTIMATE.OpOverload) or func.namespace not in PLAIN or func in OF_NUMBERS:
            return OTHER
        rule = self._rules.get(func, self._others)
        rules = (rule.in_place, rule.fake_kernel, rule.result, rule.order)
        return OTHER if any(rules) or self._cache.is_by_element(func) else rule.workspace

    def _of_higher_order(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What an operator returns that calls others: those of compiled code that repeat what they drew in forward.

        Nothing is drawn here, so the state need not be right. On CUDA it is on the host.
        """
        if func is ESTIMATE.run_and_save_rng_state:
            state = torch.empty(0, dtype=torch.uint8)
            with self:
                return state, args[0](*args[1:], **kwargs)
        if func is ESTIMATE.run_with_rng_state:
            with self:
                return args[1](*args[2:], **kwargs)
        if (written := eager(func.name())) is not None:
            with self:
                return written(*args, **kwargs)
        raise EstimateError(
            f"an estimate does not know what torch.ops.higher_order.{func.name()} needs: estimate the model without it, or "
            "register an operator of your own around it, with a fake kernel (torch.library.custom_op)"
        )

    @contextmanager
    def taking_meta(self) -> Iterator[None]:
        """Real tensors on ``meta`` go by their shapes, whichever they are, until the block ends: `outside` meets none."""
        self._cache.takes_meta = True
        try:
            yield
        finally:
            self._cache.takes_meta = False

    def may_turn_const(self, t: torch.Tensor) -> bool:
        """Whether the values of a real tensor are kept beside the fake one: FakeTensorMode keeps only single numbers."""
        kept: bool = super().may_turn_const(t) or self.routing.is_kept(t)
        return kept or (bool(self.real_ops) and type(t) is torch.Tensor and t.device.type == "cpu" and is_kept(t))

    def _estimated(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """What an op returns; the recorder is told of its results and of its workspace, and of nothing else."""
        rule = self._rules.get(func, self._others)
        if rule.in_place is not None and (in_place := rule.in_place(func, args)) is not None:
            func = in_place
            rule = self._rules.get(func, self._others)
        results: list[torch.Tensor] = []
        workspace = 0
        # Indices and values that the op may put others in place of are freed after these are made.
        replaced = parts_of(args[0]) if rule.sparse_kernel is not None and is_sparse(args[0]) else None
        try:
            _native.pause_recording()
            if self.routing:
                func, args, kwargs = self.routing.prepare(self, func, args, kwargs)
            returned: Any = self._returned(rule, func, types, args, kwargs)
            if self.routing:
                returned = self.routing.know(self, func, args, kwargs, returned)
            if rule.result is not None:
                with self:
                    returned = rule.result(func, args, kwargs, returned)
            results = with_strides(find_tensors(returned))
            if rule.order is not None:
                results = rule.order(results)
            blocks: list[torch.Tensor] = []
            if rule.workspace is not None:
                workspace, blocks = self._workspace(rule.workspace(func, args, kwargs, results))
                results = [*results, *blocks]
            if self.works is not None and func.namespace in NAMESPACES:
                self.works.meet(func, args, kwargs, returned, blocks)
            return returned
        except LayoutError as error:
            raise UnmeasuredError(func, str(error)) from error
        finally:
            self._resume(results, workspace)
            del replaced

    def _resume(self, results: list[torch.Tensor], workspace: int) -> None:
        """Record again, and what an op allocated."""
        resume = _native.resume_recording if self.host is None else self.host.resume
        resume(results, workspace)

    @staticmethod
    def _workspace(needed: int | tuple[int, ...]) -> tuple[int, list[torch.Tensor]]:
        """Bytes of a workspace that is one block, or blocks that are there until the op ends."""
        if isinstance(needed, int):
            return needed, []
        return 0, [torch.empty(size, dtype=torch.uint8, device="meta") for size in needed]

    def _returned(self, rule: OpRule, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if rule.fake_kernel is not None:
            with self:
                return rule.fake_kernel(*args, **kwargs)
        if not self.real_ops:
            if func in OF_NUMBERS and (returned := of_number(self, func, args[0])) is not UNKNOWN:
                return returned
            return self._cache.returned(func, args, kwargs, lambda args, kwargs: self._anew(rule, func, types, args, kwargs))
        if self.real_ops.name(func):
            return self.real_ops.run(self, func, args, kwargs)
        try:
            returned = self._anew(rule, func, types, args, kwargs)
        except Exception as error:
            if self.real_ops.allow(error):
                return self.real_ops.run(self, func, args, kwargs)
            raise
        self.real_ops.note_truth(func, args, kwargs, returned)
        return returned

    def _anew(self, rule: OpRule, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """What an op returns for any arguments: sparse ones, say, or real ones."""
        self.outside.meet(func, (args, kwargs))
        args, kwargs = self.outside.with_numbers(self, func, args, kwargs)
        given_sparse = has_sparse((args, kwargs))
        if given_sparse and rule.sparse_kernel is not None:
            with self:
                returned = rule.sparse_kernel(func, *args, **kwargs)
            if returned is not NotImplemented:
                return returned
        known = returns_known(func)
        if given_sparse and not known:
            raise SparseError(func)
        returned = self._uncached(func, types, args, kwargs)
        if not known and has_sparse(returned):
            raise SparseError(func)
        return returned

    def _uncached(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """What PyTorch's fake kernel returns."""
        try:
            return super().__torch_dispatch__(func, types, args, kwargs)
        except ESTIMATE.UnsupportedOperatorException:
            return self._without_fake_kernel(func, types, args, kwargs)

    def _without_fake_kernel(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if (functional := functional_of(func)) is not None:
            with self:
                results = functional(*args, **without_out(func, kwargs))
                return written_into(func, kwargs, results)
        self.allow_fallback_kernels = is_little(args, kwargs)  # of PyTorch's own ops, and of no others
        try:
            return super().__torch_dispatch__(func, types, args, kwargs)
        finally:
            self.allow_fallback_kernels = False


dispatch: Final = getattr(EstimateMode.__torch_dispatch__, "__wrapped__", EstimateMode.__torch_dispatch__)


class UnwrappedMode(EstimateMode):
    """The same without what PyTorch wraps around a mode to keep Dynamo out, which is slow; Dynamo skips torchprof anyway."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is DEVICE and getattr(args[0], "fake_mode", None) is self:  # half of all calls
            return args[0].fake_device
        return dispatch(self, func, types, args, kwargs)
