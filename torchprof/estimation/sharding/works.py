"""What collectives hold after they were called: tensors, until they are awaited, or as long as the program has the `Work`.

In a world that is not there each collective ends at once and holds nothing. Real ones go on after the call, and what they send
or fill cannot be freed meanwhile:

- gloo's `Work` holds what the collective is given and what it fills for as long as the program has it; of a reduce-scatter,
  what it fills and the copy that is reduced, not what it is given.
- NCCL's holds both until it is awaited; what nobody waits for, until the next collective of its group: its watchdog learns
  that it is done, and the thread that calls the next one lets go.
- A functional collective's is kept by PyTorch until ``wait_tensor`` is called on what it returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final

import torch
import torch.distributed as dist
from torch.multiprocessing.reductions import StorageWeakRef

from torchprof.analysis.distributed.collective_names import kind_of
from torchprof.estimation.fake.callers import by_program, replaced
from torchprof.estimation.sharding.answers import AnsweredWork, streams_of_pool
from torchprof.estimation.sharding.communication import group_of
from torchprof.estimation.torch_private import SHARDING
from torchprof.record.nested import find_tensors

__all__ = ["Began", "Works"]

METHODS: Final = (
    *("allreduce", "allreduce_coalesced", "broadcast", "reduce", "allgather", "allgather_coalesced", "_allgather_base"),
    *("allgather_into_tensor_coalesced", "all_gather_single", "all_gather_single_coalesced", "gather", "scatter"),
    *("reduce_scatter", "_reduce_scatter_base", "reduce_scatter_tensor_coalesced", "reduce_scatter_single"),
    *("reduce_scatter_single_coalesced", "alltoall", "alltoall_base", "all_to_all_single"),
)
"""Of a process group, which return the `Work` of a collective; no PyTorch has them all."""
FILLED: Final = ("output", "output_tensor", "output_tensors", "outputs", "output_lists", "out")
"""Arguments of collectives that are filled."""
OF_COPIES: Final = ("all-reduce", "broadcast")
"""Collectives that work on one tensor: as functional ones on a copy, which is what they return."""
MESSAGES: Final = ("send", "receive", "send and receive", "barrier", "")
"""No collectives that send tensors: those of messages are held by `torchprof.estimation.sharding.messages`."""


@dataclass(frozen=True, slots=True)
class Began:
    """A collective that the program called.

    Attributes:
        op: its name, such as ``"c10d::allreduce_"``.
        group: the name of its process group.
        goes_on: whether the program does other things before it awaits it.
    """

    op: str
    group: str
    goes_on: bool


def _awaited_when_used(wrap: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Functional collectives take fake tensors for those of a compiler, for which they wait at once."""

    @wraps(wrap)
    def awaited_when_used(tensor: torch.Tensor) -> torch.Tensor:
        if not by_program() or torch.compiler.is_compiling() or tensor.requires_grad:
            return wrap(tensor)
        awaited: torch.Tensor = SHARDING.AsyncCollectiveTensor(tensor)
        return awaited

    return awaited_when_used


class Works:
    """Holds what collectives hold, and gives each a `Work` that answers.

    Args:
        until_wait: whether that is only until they are awaited or the next one begins, as with NCCL, and the program's tensors
            alone; else it is as gloo does.

    Attributes:
        began: the collectives, in the order in which they were called.
    """

    def __init__(self, *, until_wait: bool) -> None:
        self.began: list[Began] = []
        self._until_wait = until_wait
        self._not_awaited: dict[str, list[torch.Tensor]] = {}
        self._to_be_awaited: dict[int, tuple[StorageWeakRef, list[torch.Tensor]]] = {}
        self._called: list[list[torch.Tensor]] = []
        self._streams = streams_of_pool()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Whoever has the `Work` of a collective holds its tensors, until the block ends."""
        with ExitStack() as stack:
            for name in METHODS:
                if hasattr(dist.ProcessGroup, name):
                    stack.enter_context(replaced(dist.ProcessGroup, name, self._returning_work(name)))
            place = SHARDING.functional
            stack.enter_context(replaced(place, "_maybe_wrap_tensor", _awaited_when_used(place._maybe_wrap_tensor)))
            yield

    def let_go(self, group: Any) -> None:
        """The process group has a collective more, of which nothing else is to be known."""
        self._not_awaited.pop(str(group.group_name), []).clear()

    def _returning_work(self, name: str) -> Callable[..., Any]:
        call = getattr(dist.ProcessGroup, name)

        @wraps(call)
        def returning_work(group: Any, *args: Any, **options: Any) -> Any:
            held: list[torch.Tensor] = []
            self.let_go(group)
            self._called.append(held)
            try:
                work = call(group, *args, **options)
            finally:
                self._called.pop()
            if work is None:  # of several that are to be sent as one
                return None
            if self._until_wait:
                self._not_awaited[str(group.group_name)] = held
            filled = args[0] if args else next(iter(options.values()))
            value = [filled] if isinstance(filled, torch.Tensor) else filled
            return AnsweredWork(value, held, self._until_wait, self._streams)

        return returning_work

    def meet(self, func: Any, args: Any, kwargs: Any, returned: Any, copies: Sequence[torch.Tensor]) -> None:
        """To be called with every op of `torchprof.estimation.sharding.communication.NAMESPACES`, once it has returned.

        Args:
            func, args, kwargs, returned: the op, what it was given, and what it returned.
            copies: what it has allocated beside that.
        """
        name = func._schema.name
        named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | dict(kwargs)
        if name == "_c10d_functional::wait_tensor":
            self._awaited(named["tensor"])
            return
        kind, group = kind_of(name), group_of(named)
        if kind in MESSAGES or group is None:
            return
        functional = func.namespace != "c10d"
        self.began.append(Began(name, str(group.group_name), functional or bool(named.get("async_op", True))))
        filled = find_tensors([value for argument, value in named.items() if argument in FILLED])
        given = find_tensors([value for argument, value in named.items() if argument not in FILLED])
        copied = kind == "reduce-scatter" and not self._until_wait
        held = [*(copies if copied else given)]
        if not functional:
            if self._called:
                self._called[-1].extend([*held, *filled])
        elif kind not in OF_COPIES:
            self._forget_what_is_gone()
            for output in find_tensors(returned):
                storage = StorageWeakRef(output.untyped_storage())  # type: ignore[no-untyped-call]
                self._to_be_awaited[storage.cdata] = storage, held

    def _awaited(self, tensor: torch.Tensor) -> None:
        _, held = self._to_be_awaited.pop(tensor.untyped_storage()._cdata, (None, []))
        if self._until_wait:
            held.clear()  # also for what else the same collective has returned

    def _forget_what_is_gone(self) -> None:
        """Nobody can await it any more."""
        gone = [key for key, (storage, _) in self._to_be_awaited.items() if storage.expired()]  # type: ignore[no-untyped-call]
        for key in gone:
            del self._to_be_awaited[key]
