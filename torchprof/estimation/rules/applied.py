"""Puts the rules of one estimate into effect, and takes them back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch

from torchprof.estimation.fake.overrides import OpRule, Overrides
from torchprof.estimation.fake.real_ops import RealOps
from torchprof.estimation.overheads import Overhead
from torchprof.estimation.rules.registry import Kind, Rule, TargetKernel, Workspaces, all_rules
from torchprof.estimation.target import Target
from torchprof.estimation.torch_private import DISPATCHER_RULES, ESTIMATE
from torchprof.trace.trace import Trace

__all__ = ["AppliedRules"]

KERNEL_KEYS: Final = ("AutogradCPU", "CPU")
"""The dispatch keys of fake tensors, which say that they are on the CPU: with and without a gradient."""


class AppliedRules:
    """The rules that hold for one target.

    Args:
        target: what the estimate is for.
        without: kinds of rules that are left out.

    Attributes:
        overrides: those that `torchprof.estimation.fake.mode.EstimateMode` applies.
    """

    def __init__(self, target: Target, without: Collection[Kind] = ()) -> None:
        self._target = target
        self._rules = [rule for rule in all_rules() if target.device in rule.on and rule.kind not in without]
        made: dict[str, Workspaces] = {rule.name: rule.function(target) for rule in self._of(Kind.WORKSPACE)}
        self._workspaces = list(made.values())
        kernels: dict[str, TargetKernel] = {rule.name: rule.function(target) for rule in self._of(Kind.TARGET_KERNEL)}
        self._target_kernels = list(kernels.values())
        self._kernels = {op: kernels[rule.name] for rule in self._of(Kind.TARGET_KERNEL) for op in rule.ops()}
        workspaces = {op: made[rule.name].bytes for rule in self._of(Kind.WORKSPACE) for op in rule.ops()}
        of_any_op = next((made[rule.name].bytes for rule in self._of(Kind.WORKSPACE) if not rule.subjects), None)
        in_place, fake_kernels = self._by_op(Kind.IN_PLACE), self._by_op(Kind.FAKE_KERNEL)
        sparse_kernels, results = self._by_op(Kind.SPARSE_KERNEL), self._by_op(Kind.RESULT)
        orders = self._by_op(Kind.ORDER)
        self.overrides = Overrides(
            {
                op: OpRule(
                    in_place=in_place.get(op),
                    fake_kernel=fake_kernels.get(op),
                    sparse_kernel=sparse_kernels.get(op),
                    result=results.get(op),
                    order=orders.get(op),
                    workspace=workspaces.get(op, of_any_op),
                )
                for op in {**in_place, **fake_kernels, **sparse_kernels, **results, **orders, **workspaces}
            },
            OpRule(workspace=of_any_op),
            {name: rule.function for rule in self._of(Kind.BACKWARD_NODE) for name in rule.subjects},
        )

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Kernels and functions of other libraries are those of the rules, for fake tensors, until the block ends."""
        with ExitStack() as stack:
            kernels: dict[Any, Callable[..., Any]] = {**self._by_op(Kind.KERNEL), **self._kernels}
            if kernels:
                stack.enter_context(_kernels(kernels))
            for rule in self._of(Kind.PATCH):
                stack.enter_context(rule.function(self._target))
            yield

    def adjust(self, optimizer: torch.optim.Optimizer, real_ops: RealOps) -> None:
        """Have an optimizer do what it would on the target."""
        for rule in self._of(Kind.OPTIMIZER):
            rule.function(optimizer, real_ops)

    def overheads(self, trace: Trace) -> tuple[Overhead, ...]:
        """Memory that is not the program's own."""
        found = [rule.function(trace, self._target) for rule in self._of(Kind.OVERHEAD)]
        return tuple(overhead for overhead in found if overhead is not None)

    def unknown(self) -> int:
        """Bytes of workspaces that may be missing, at most."""
        return max((workspaces.unknown for workspaces in self._workspaces), default=0)

    def notes(self, trace: Trace) -> list[str]:
        """What is not in the estimate."""
        found = [rule.function(trace, self._target) for rule in self._of(Kind.NOTE)]
        noting: list[Workspaces | TargetKernel] = [*self._workspaces, *self._target_kernels]
        return [*(note for noted in noting for note in noted.notes()), *filter(None, found)]

    def _of(self, kind: Kind) -> list[Rule]:
        return [rule for rule in self._rules if rule.kind is kind]

    def _by_op(self, kind: Kind) -> dict[Any, Callable[..., Any]]:
        return {op: rule.function for rule in self._of(kind) for op in rule.ops()}


@contextmanager
def _kernels(kernels: dict[Any, Callable[..., Any]]) -> Iterator[None]:
    """Give ops other kernels. Real tensors, which other threads may work on meanwhile, go to those they always had."""
    fakes = (ESTIMATE.FakeTensor, DISPATCHER_RULES.FunctionalTensor)  # the latter while a compiler traces

    def unless_real(op: Any, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def run(first: Any, *args: Any, **kwargs: Any) -> Any:
            # A DTensor is as fake as what it has of this rank.
            if isinstance(first, fakes) or isinstance(getattr(first, "_local_tensor", None), fakes):
                return kernel(op, first, *args, **kwargs)
            return op.decompose(first, *args, **kwargs)

        return run

    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    try:
        for key in KERNEL_KEYS:
            for op, kernel in kernels.items():
                library.impl(op, unless_real(op, kernel), key)  # type: ignore[no-untyped-call]
        _forget_kernels([*kernels])
        yield
    finally:
        library._destroy()  # type: ignore[no-untyped-call]
        _forget_kernels([*kernels])


def _forget_kernels(ops: list[Any]) -> None:
    """Compilers dispatch in Python, which remembers the kernel of an op."""
    for op in ops:
        op._dispatch_cache.clear()
