"""`torchprof.by_collective`: what was sent between ranks, for what, and how fast."""

from __future__ import annotations

from collections.abc import Iterator

from torchprof.analysis.distributed.collective_records import collective_records, collective_records_of_ranks
from torchprof.analysis.distributed.collectives import collectives_of
from torchprof.analysis.records import Record
from torchprof.tables.across_ranks import check_single_ops, of_ranks
from torchprof.tables.checks import check_trace
from torchprof.tables.footer import footer
from torchprof.tables.table import About, Table, worth_showing
from torchprof.trace.ranks import Ranks
from torchprof.trace.trace import Trace
from torchprof.wording import counted

__all__ = ["by_collective"]

SOURCE = "https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md"
WHAT = ("ranks", "calls", "bytes", "group", "group_size", "by", "module", "lines")
TIMES = ("asked", "waited", "ran", "shortest", "last_rank", "longest", "alg_rate", "bus_rate")


def by_collective(trace: Trace | Ranks) -> Table:
    """What was sent between ranks in a step: which collectives, for which module and line, how large, how long, how fast.

    A row is what is of one kind, asked for by the same, in one process group, for one module and by one line. *Asked* is the
    time of the op that asked for it, *Waited* that in which the host waited for a functional collective; other waits are no
    ops, and not known. *Ran* is the time for which it ran: of kernels of NCCL or RCCL, or of threads of gloo; it begins when
    this rank is there and ends when the last one was. *Alg* and *Bus* are the bandwidths of nccl-tests, where that time and the
    sizes are known.

    Of `Ranks`, figures are means over the ranks. *Shortest* is, of each call, the time of the rank in which it ran shortest:
    that one waited least. Rates are of that time. Both are ``?`` where a rank of the group is missing, or asked for other
    collectives in a step: the others may have waited for it. *Last rank* is the one that came last most often, of those that
    are there, as `stragglers` tells it; what does not wait for all of its ranks has none.

    The process group is known of files of torch.profiler. Of a recording, FSDP and DDP of the recorded model tell theirs; of
    others it is known where only one group of the rank has as many ranks as the sizes of the tensors say, or where there is
    only one.

    Args:
        trace: of `torchprof.profile` or `torchprof.load`, not aggregated; or `Ranks`.

    Raises:
        ModuleTypeError: this is neither.
        ArgumentError: the trace, or that of a rank, has no single ops.

    Example:
        >>> print(torchprof.by_collective(torchprof.load("run/")))
    """
    if not isinstance(trace, Ranks):
        check_trace(trace)
    traces = list(trace) if isinstance(trace, Ranks) else [trace]
    check_single_ops(traces)
    if isinstance(trace, Ranks):
        records = collective_records_of_ranks(trace)
        lines = of_ranks(trace)
    else:
        records, lines = collective_records(trace), [*footer(trace, "host time, but for Ran: when it ran")]
    columns = [name for name in (*WHAT, *TIMES) if all(name in record for record in records)]
    chosen = worth_showing(records, columns, optional=[name for name in columns if name not in ("calls", "bytes", "last_rank")])
    if all(record.get("last_rank") is None for record in records):
        chosen = tuple(name for name in chosen if name != "last_rank")
    if all(record.get("ranks") == len(traces) for record in records):
        chosen = tuple(name for name in chosen if name != "ranks")
    below = (*lines, *(_of_ranks(records) if isinstance(trace, Ranks) else ()), *_about(traces, records))
    table = Table("Collective", records, chosen, below, unknown="?")
    return table.sort("ran" if any(record["ran"] is not None for record in records) else "asked") if records else table


def _of_ranks(records: list[Record]) -> Iterator[str | About]:
    """What is said of figures that only several ranks tell."""
    yield About(("shortest",), "Shortest: of each call, the rank in which it ran shortest, which waited least")
    waits = "; ? of what waits for no other rank" if any(record["last_rank"] is None for record in records) else ""
    yield About(("last_rank",), f"Last rank: who came last most often, as stragglers(ranks) tells it{waits}")
    ran = [record["whole"] for record in records if record["ran"] is not None]
    which = "Shortest and bandwidths are " + ("not known" if not any(ran) else "? where they are not known")
    if 0 in ran:
        yield f"{which}: a rank of the group is missing, or made other calls, and the others may have waited for it"
    if any(0 < share < 1 for share in ran):
        columns = ("shortest", "alg_rate", "bus_rate")
        yield About(
            columns, "Of steps in which ranks of a group made other numbers of calls, none is in Shortest and bandwidths"
        )


def _about(traces: list[Trace], records: list[Record]) -> Iterator[str | About]:
    if not records:
        yield "No collective was asked for"
        return
    by = "Shortest" if "shortest" in records[0] else "Ran, in which this rank waits for others"
    yield About(("alg_rate",), f"Alg: bytes by {by}")
    yield About(("bus_rate",), "Bus: Alg, by a factor for the kind and the number of ranks")
    yield About(("alg_rate", "bus_rate"), f"Bandwidths: as in {SOURCE}")
    if any(record["ran"] is None for record in records):
        yield "Ran: ? where no kernel of NCCL and no thread of gloo was recorded for it"
    if open_ := sum(each.unfinished for trace in traces for each in collectives_of(trace).collectives):
        which = counted(open_, "call", "calls")
        yield f"{which} still ran when the recording ended: Ran takes the mean of the others for what is not known of them"
    if none := sum(collectives_of(trace).kernels_of_none for trace in traces):
        which = counted(none, "kernel of a collective is", "kernels of collectives are")
        yield f"{which} of no op, as those of CUDA graphs: left out"
