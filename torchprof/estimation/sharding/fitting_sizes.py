"""Whether the tensors of a collective fit each other and its group: a world that is not there takes any, real ranks do not.

What is refused is what gloo and NCCL both refuse. Where only one does, as with lists of parts of several sizes, it is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Any, Final

import torch
import torch.distributed as dist

from torchprof.errors import EstimateError
from torchprof.estimation.fake.callers import replaced
from torchprof.estimation.sharding.communication import dimension_of, group_of
from torchprof.wording import counted, shown

__all__ = ["EXCHANGES", "check_splits", "checks_of_build", "fitting_sizes_asked_for"]

EXCHANGES: Final = frozenset({"_c10d_functional::all_to_all_single", "_c10d_functional_autograd::all_to_all_single"})
"""Ops of functional collectives whose arguments may not fit: the others make an output that does."""


@contextmanager
def fitting_sizes_asked_for() -> Iterator[None]:
    """Raise EstimateError where a process group is called with tensors that do not fit, until the block ends."""
    with ExitStack() as stack:
        for name, (called, problem) in _CHECKED.items():
            if hasattr(dist.ProcessGroup, name):  # some have had other names
                stack.enter_context(replaced(dist.ProcessGroup, name, _checked(name, called, problem)))
        yield


def check_splits(func: Any, args: Any, kwargs: Any) -> None:
    """Raise EstimateError where an op of `EXCHANGES`, which makes its output itself, is given parts that do not add up."""
    named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | dict(kwargs)
    if (group := group_of(named)) is None:
        return
    comes, sent = named["output_split_sizes"], named["input_split_sizes"]
    if wrong := _splits(group, None, comes, "output") or _splits(group, named["input"], sent, "input"):
        raise EstimateError(_said(group, "all_to_all_single", wrong))


def checks_of_build() -> dict[Any, Callable[[Any, Any], None]]:
    """`check_splits` of the arguments of each op of `EXCHANGES`, for where a model is built: no fake tensors meet it there."""
    checks: dict[Any, Callable[[Any, Any], None]] = {}
    for namespace, name in (each.split("::") for each in EXCHANGES):
        if (op := getattr(getattr(torch.ops, namespace), name, None)) is not None:  # of which not every PyTorch has both
            checks[op] = checks[op.default] = partial(check_splits, op.default)
    return checks


def _checked(name: str, called: str, problem: Callable[..., str]) -> Callable[..., Any]:
    original = getattr(dist.ProcessGroup, name)

    @wraps(original)
    def call(group: Any, *args: Any, **options: Any) -> Any:
        if wrong := problem(group, *args, *options.values()):
            raise EstimateError(_said(group, called, wrong))
        return original(group, *args, **options)

    return call


def _said(group: Any, called: str, wrong: str) -> str:
    ranks = counted(group.size(), "rank")
    return f"the program calls {called} in the group {dimension_of(group)!r} of {ranks}, where real ranks raise: {wrong}"


def _gathered(group: Any, output: torch.Tensor, given: torch.Tensor, *others: Any) -> str:
    return _times(group, "output", output, "input", given)


def _scattered(group: Any, output: torch.Tensor, given: torch.Tensor, *others: Any) -> str:
    return _times(group, "input", given, "output", output)


def _all_gathered(group: Any, outputs: Any, given: Any, *others: Any) -> str:
    return _first(_gathered(group, *pair) for pair in zip(outputs, given, strict=False))


def _all_scattered(group: Any, outputs: Any, given: Any, *others: Any) -> str:
    return _first(_scattered(group, *pair) for pair in zip(outputs, given, strict=False))


def _times(group: Any, of_whole: str, whole: torch.Tensor, of_part: str, part: torch.Tensor) -> str:
    """What is wrong with a tensor of all ranks, and one of this."""
    if whole.dtype != part.dtype:
        return f"the {of_whole} is of {whole.dtype}, and the {of_part} of {part.dtype}"
    if (due := part.numel() * group.size()) != whole.numel():
        return (
            f"the {of_whole} is {_sized(whole)}, and must have {group.size()} times the elements of the {of_part}, which is "
            f"{_sized(part)}: {due:,}"
        )
    return ""


def _listed_outputs(group: Any, outputs: Any, given: Any, *others: Any) -> str:
    return _list(group, "outputs", outputs, "input", given)


def _listed_inputs(group: Any, outputs: Any, given: Any, *others: Any) -> str:
    return _list(group, "inputs", given, "output", outputs)


def _gathered_to_root(group: Any, outputs: Any, given: Any, *others: Any) -> str:
    return _root(group, None, *others) or (_list(group, "outputs", outputs, "input", given, all_equal=True) if outputs else "")


def _scattered_from_root(group: Any, outputs: Any, given: Any, *others: Any) -> str:
    return _root(group, None, *others) or (_list(group, "inputs", given, "output", outputs, all_equal=True) if given else "")


def _list(group: Any, of_list: str, listed: Any, of_one: str, one: Any, *, all_equal: bool = False) -> str:
    """What is wrong with a list of one tensor for each rank, and a tensor of this one: of several of each, with the first."""
    parts = listed[0] if isinstance(listed[0], list | tuple) else listed
    one = one[0] if isinstance(one, list | tuple) else one
    if wrong := _length(group, of_list, parts):
        return wrong
    mine = dist.get_rank(group)
    for rank, part in enumerate(parts):
        if (all_equal or rank == mine) and part.numel() != one.numel():
            return f"number {rank} of the {of_list} is {_sized(part)}, and the {of_one} is {_sized(one)}"
    return ""


def _exchanged_lists(group: Any, outputs: Any, given: Any, *others: Any) -> str:
    return _length(group, "outputs", outputs) or _length(group, "inputs", given)


def _length(group: Any, of_list: str, parts: Sequence[Any]) -> str:
    if len(parts) == group.size():
        return ""
    return f"the list of {of_list} has {counted(len(parts), 'tensor')}, and must have one for each rank: {group.size()}"


def _exchanged(group: Any, output: torch.Tensor, given: torch.Tensor, *others: Any) -> str:
    comes, sent, *_ = (*(each for each in others if isinstance(each, list | tuple)), (), ())
    if output.dtype != given.dtype:
        return f"the output is of {output.dtype}, and the input of {given.dtype}"
    if not comes and not sent:
        if output.numel() != given.numel():
            return f"the output is {_sized(output)}, and the input {_sized(given)}: without splits both have as many elements"
        if given.numel() % group.size():
            return f"the input is {_sized(given)}, which is no multiple of {group.size()} parts: give splits"
        return ""
    return _splits(group, output, comes, "output") or _splits(group, given, sent, "input")


def _splits(group: Any, tensor: torch.Tensor | None, splits: Sequence[int], of: str) -> str:
    """What is wrong with how a tensor is split between ranks; where it is not there, with the number of parts."""
    if splits and len(splits) != group.size():
        return f"{of}_split_sizes={shown([*splits])} must have one number for each rank: {group.size()}"
    if tensor is None:
        return ""
    rows = tensor.shape[0] if tensor.dim() else 1
    if splits and sum(splits) != rows:
        return f"{of}_split_sizes={shown([*splits])} add up to {sum(splits):,}, and the {of} has {rows:,} rows"
    if not splits and rows % group.size():
        return f"the {of} has {rows:,} rows, which are no multiple of {group.size()} parts: give splits"
    return ""


def _root(group: Any, tensors: Any, *others: Any) -> str:
    """What is wrong with the rank that has the whole, or gets it."""
    root = next((value for each in others for value in [getattr(each, "rootRank", each)] if type(value) is int), 0)
    return "" if 0 <= root < group.size() else f"it names rank {root} of that group"


def _first(problems: Iterator[str]) -> str:
    return next(filter(None, problems), "")


def _sized(tensor: torch.Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a single number"


_CHECKED: Final[dict[str, tuple[str, Callable[..., str]]]] = {
    "_allgather_base": ("all_gather_into_tensor", _gathered),
    "all_gather_single": ("all_gather_into_tensor", _gathered),
    "allgather_into_tensor_coalesced": ("all_gather_into_tensor", _all_gathered),
    "all_gather_single_coalesced": ("all_gather_into_tensor", _all_gathered),
    "_reduce_scatter_base": ("reduce_scatter_tensor", _scattered),
    "reduce_scatter_single": ("reduce_scatter_tensor", _scattered),
    "reduce_scatter_tensor_coalesced": ("reduce_scatter_tensor", _all_scattered),
    "reduce_scatter_single_coalesced": ("reduce_scatter_tensor", _all_scattered),
    "allgather": ("all_gather", _listed_outputs),
    "reduce_scatter": ("reduce_scatter", _listed_inputs),
    "gather": ("gather", _gathered_to_root),
    "scatter": ("scatter", _scattered_from_root),
    "alltoall": ("all_to_all", _exchanged_lists),
    "alltoall_base": ("all_to_all_single", _exchanged),
    "all_to_all_single": ("all_to_all_single", _exchanged),
    "broadcast": ("broadcast", _root),
    "reduce": ("reduce", _root),
}
"""Methods of process groups, the functions of torch.distributed that call them, and what finds a problem with the arguments."""
