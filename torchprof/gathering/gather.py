"""`torchprof.gather`: the traces of all ranks, brought to one of them through their process group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, Final

from torch import distributed as dist

from torchprof import _native
from torchprof.analysis.aggregated import aggregated
from torchprof.errors import ArgumentError, ModuleTypeError, RecordingError, TorchprofError
from torchprof.gathering.exchange import Exchange
from torchprof.trace import file
from torchprof.trace.known import Known
from torchprof.trace.rank import rank_of
from torchprof.trace.ranks import Ranks, listed
from torchprof.trace.trace import Trace
from torchprof.wording import shown

__all__ = ["MOST_BYTES", "gather"]

MOST_BYTES: Final = 2**32
"""Bytes that the traces of all ranks may take at the destination."""
CALLED: Final = 0x746F726370726F66
"""What every rank says first: that it calls `gather`."""
TRACE, TOO_LARGE, FAILED = range(3)


def gather(trace: Trace, dst: int | None = None, group: Any = None, *, most_bytes: int = MOST_BYTES) -> Ranks | None:
    """Bring the traces of all ranks to one of them, through their process group. Every rank of the group calls it.

    It is called after the recording, as the collectives of ``torch.distributed`` are: by all ranks, in the same order among
    others. Nothing else is done to the group, and nothing to the program. What a rank cannot give does not keep the others
    waiting: it is named in ``problems`` of what the destination gets, and that rank raises.

    Where the traces would take more than ``most_bytes`` together, each of them as much as the largest, the sums of every trace
    are sent in its place, as ``profile(aggregate=True)`` keeps them; a rank whose sums are larger than its part of
    ``most_bytes`` is left out. ``problems`` says both.

    Args:
        trace: of this rank: ``prof.trace``.
        dst: the rank that gets them, by its number in the whole program; None: the first of the group.
        group: a process group; None: all ranks.
        most_bytes: what the traces of all ranks may take at the destination; where ranks differ, the least.

    Returns:
        The ranks at the destination; None elsewhere, and where this process is not in the group.

    Raises:
        RecordingError: this process records just now, or has no process group yet.
        ArgumentError: ``dst`` is not in the group, or another rank names another one; ``most_bytes`` is no number of bytes.
        ModuleTypeError: ``trace`` is no trace; the other ranks go on without it.
        TorchprofError: no rank gave a trace.

    What ``torch.distributed`` raises where another rank ended, or calls something else, is raised as it is.

    Example:
        >>> torch.distributed.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
        >>> with torchprof.profile(model) as prof:
        ...     model(torch.randn(1, 3, 8, 8)).sum().backward()
        >>> ranks = torchprof.gather(prof.trace)
        >>> if ranks is not None:  # on rank 0
        ...     print(ranks.numbers, ranks.world_size)
        (0,) 1
        >>> torch.distributed.destroy_process_group()
    """
    _check(most_bytes)
    if dist.get_rank(group) < 0:
        return None
    members = dist.get_process_group_ranks(group)
    target = members[0] if dst is None else dst
    if isinstance(target, bool) or not isinstance(target, int) or target not in members:
        raise ArgumentError(f"dst={shown(dst)} is not a rank of the group: {listed(sorted(members))}")
    exchange = Exchange(group, target)
    error: Exception | None = None
    if not isinstance(trace, Trace):
        error = ModuleTypeError(f"trace={shown(trace)} must be the torchprof.Trace of this rank: prof.trace")
    told = exchange.numbers([CALLED, target, most_bytes, trace.nbytes if error is None else 0])
    _check_alike(exchange.ranks, told, target)
    most_bytes = min(most for _, _, most, _ in told)
    part = most_bytes // len(members)
    is_reduced = max(size for *_, size in told) > part
    content, kind = b"", FAILED
    if error is None:
        try:
            sent = _of_this_rank(trace)
            content, kind = _bytes(aggregated(sent) if is_reduced else sent), TRACE
        except Exception as raised:  # of whatever kind: the other ranks wait for what comes next
            error = raised
    if error is not None:
        content = str(error).encode()
    elif is_reduced and len(content) > part:
        content, kind = f"its sums take {len(content):,} bytes, more than its part of {part:,}".encode(), TOO_LARGE
    found = exchange.numbers([len(content), kind])
    received = exchange.send(content, [size for size, _ in found])
    if error is not None:
        raise error
    if not exchange.is_destination:
        return None
    return _ranks(exchange.ranks, [kind for _, kind in found], received, most_bytes if is_reduced else None)


def _check(most_bytes: Any) -> None:
    """Raise where this process cannot take part at all."""
    if isinstance(most_bytes, bool) or not isinstance(most_bytes, int) or not 0 < most_bytes < 2**62:
        raise ArgumentError(f"most_bytes={shown(most_bytes)} must be a number of bytes from 1 to 2**62")
    if not dist.is_available() or not dist.is_initialized():
        raise RecordingError(
            "this process has no process group: call gather after torch.distributed.init_process_group and before "
            "destroy_process_group, or save each trace and load the folder"
        )
    if _native.is_recording():
        raise RecordingError("gather would be part of what is recorded just now: call it after the recording ended")


def _check_alike(ranks: Sequence[int], told: Sequence[Sequence[int]], target: int) -> None:
    """Raise where a rank called something else, or names another destination: all of them raise then."""
    strangers = [rank for rank, (called, *_) in zip(ranks, told, strict=True) if called != CALLED]
    if strangers:
        raise RecordingError(f"ranks {listed(strangers)} called another collective: gather is called by all ranks of the group")
    targets = {rank: each for rank, (_, each, *_) in zip(ranks, told, strict=True)}
    if others := [f"{each} on rank {rank}" for rank, each in targets.items() if each != target]:
        raise ArgumentError(f"dst={target} is not what other ranks gave: {', '.join(others[:4])}")


def _of_this_rank(trace: Trace) -> Trace:
    """The trace, with the rank of this process where it was recorded before there was one."""
    if rank_of(trace.facts) is not None:
        return trace
    return replace(trace, facts={**trace.facts, "rank": dist.get_rank(), "world_size": dist.get_world_size()})


def _bytes(trace: Trace) -> bytes:
    return file.to_bytes({item.name: getattr(trace, item.name) for item in fields(trace)})


def _ranks(ranks: Sequence[int], kinds: Sequence[int], received: list[bytearray], reduced_to: int | None) -> Ranks:
    """The ranks of what arrived, each of which is freed when it was read."""
    known, traces, problems = Known(), [], []
    if reduced_to is not None:
        problems.append(
            f"sums were gathered in place of single ops, which would take more than most_bytes={reduced_to:,}: collectives, "
            "lines and the account of memory are not in them"
        )
    for row, (rank, kind) in enumerate(zip(ranks, kinds, strict=True)):
        content = bytes(received[row])
        received[row].clear()
        if kind != TRACE:
            problems.append(f"rank {rank} is left out: {content.decode()}")
            continue
        try:
            traces.append(Trace(**file.from_bytes(content, known)))
        except TorchprofError as error:
            problems.append(f"rank {rank} is left out: {error}")
    if not traces:
        raise RecordingError(f"no rank gave a trace: {problems[-1]}")
    return Ranks.of(traces, problems=problems)
