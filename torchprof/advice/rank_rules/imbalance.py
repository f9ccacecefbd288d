"""Ranks that have more to compute, or to hold, than the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from torchprof.advice.finding import Finding, Worth
from torchprof.advice.registry import NotTold, rank_rule
from torchprof.analysis.distributed.balance_records import balance_records
from torchprof.analysis.distributed.straggler_records import step_time
from torchprof.analysis.records import Record
from torchprof.rendering.units import format_bytes, format_flops
from torchprof.tables.late_words import one_alone
from torchprof.trace.ranks import Ranks

__all__ = ["imbalance"]

LEAST: Final = 1.05
"""The most by the mean, below which nothing is said."""


@rank_rule("ranks with more work or memory than the others")
def imbalance(ranks: Ranks) -> Iterator[Finding]:
    """The rank with the most FLOPs of a step, and that with the highest peak, where either is well above the mean."""
    if alone := one_alone(ranks):
        raise NotTold(alone)
    records = balance_records(ranks)
    is_known = {name: all(record[f"{name}_ratio"] is not None for record in records) for name in ("flops", "peak")}
    if not any(is_known.values()):
        raise NotTold("neither FLOPs nor memory are known of all ranks")
    if is_known["flops"]:
        yield from _of_flops(ranks, records)
    if is_known["peak"]:
        yield from _of_memory(records)
    if not is_known["flops"]:
        raise NotTold("the FLOPs of all ranks are not known", looked_for="ranks with more memory than the others")
    if not is_known["peak"]:
        raise NotTold("the memory of all ranks is not known", looked_for="ranks with more work than the others")


def _of_flops(ranks: Ranks, records: list[Record]) -> Iterator[Finding]:
    most = max(records, key=lambda record: record["flops"])
    if most["flops_ratio"] < LEAST:
        return
    step, compute = step_time(ranks), most["compute"]
    unknown = sorted({op for record in records for op in record["flops_unknown"]})
    worth = None
    if step and compute:
        saved = min(round(compute * (1 - 1 / most["flops_ratio"])), round(step))
        basis = "its time of computing, if it had the mean of the FLOPs"
        worth = Worth("step time", 0, saved, round(step), measured=False, basis=basis)
    yield Finding(
        "imbalance",
        f"Rank {most['rank']} computes {most['flops_ratio']:.2f} times the mean of all ranks: {format_flops(most['flops'])} of "
        f"{format_flops(most['flops'] / most['flops_ratio'])} FLOPs in a step",
        "Divide the work evenly: batches of equal size, sequences sorted or packed by length, layers by cost between stages, "
        "and experts by load.",
        "https://docs.pytorch.org/docs/stable/distributed.pipelining.html",
        worth,
        details=(
            *([f"Without the FLOPs of {', '.join(unknown)}, which are unknown"] if unknown else []),
            *(
                f"rank {record['rank']}: {format_flops(record['flops'])} FLOPs, {record['flops_ratio']:.2f} x the mean"
                for record in sorted(records, key=lambda record: -record["flops"])
            ),
        ),
    )


def _of_memory(records: list[Record]) -> Iterator[Finding]:
    most = max(records, key=lambda record: record["peak"])
    if most["peak_ratio"] < LEAST:
        return
    mean = round(most["peak"] / most["peak_ratio"])
    yield Finding(
        "imbalance",
        f"Rank {most['rank']} holds {most['peak_ratio']:.2f} times the mean of all ranks at its peak: "
        f"{format_bytes(most['peak'])} of {format_bytes(mean)}",
        "The fullest rank bounds the batch of all: shard what only it holds, or move layers to ranks with room. "
        "torchprof.memory of its trace tells what it is.",
        "https://docs.pytorch.org/docs/stable/fsdp.html",
        Worth(
            "peak memory", 0, most["peak"] - mean, most["peak"], measured=False, basis="its peak, if all ranks held the mean"
        ),
        details=tuple(
            f"rank {record['rank']}: {format_bytes(record['peak'])}, {record['peak_ratio']:.2f} x the mean"
            for record in sorted(records, key=lambda record: -record["peak"])
        ),
    )
