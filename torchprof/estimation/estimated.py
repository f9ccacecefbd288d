"""What an estimate says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from torchprof.allocator.gpus import GPUS, capacity_of
from torchprof.allocator.replay import Replay, replay
from torchprof.analysis.memory.modules import in_module
from torchprof.analysis.records import Record
from torchprof.errors import ArgumentError
from torchprof.estimation.bounds.bound import Bound
from torchprof.estimation.bounds.bound_of import bound_of
from torchprof.estimation.bounds.pipeline import PipelineWork
from torchprof.estimation.overheads import Overhead, with_overheads
from torchprof.estimation.sharding.communication import Sent, sent_records
from torchprof.estimation.sharding.host_memory import HostMemory
from torchprof.estimation.sharding.kinds_of_ranks import KindOfRank, told_kinds
from torchprof.estimation.sharding.sent_by_module import sent_by_module
from torchprof.estimation.sharding.streams import streams_of
from torchprof.rendering.grid import Parts
from torchprof.rendering.printed import Printed
from torchprof.rendering.units import format_bytes, format_flops
from torchprof.tables.by_module import by_module
from torchprof.tables.footer import unknown_flops
from torchprof.tables.memory import Memory
from torchprof.tables.table import About, Table
from torchprof.trace.ceilings import Ceilings
from torchprof.trace.trace import Trace
from torchprof.wording import counted, shown

__all__ = ["Estimate"]


@dataclass(frozen=True)
class Estimate(Printed):
    """What a training step will need. ``str()`` is the printed text.

    Attributes:
        trace: of the run on fake tensors: the tables, exports and analyses of a measured one work on it. Its times say nothing
            about the device.
        device: ``"cpu"`` or ``"cuda"``.
        memory: the account of the program's own bytes, by category and module, as `torchprof.memory` gives it.
        replay: what CUDA's caching allocator reserves for it; None on the CPU.
        overheads: memory that is not the program's own, each with its source.
        capacity: bytes the device has, or None.
        unmeasured: bytes that may be missing, at most: workspaces of ops that are too large to be measured.
        notes: what is not in the estimate.
        gpu: the name of the GPU that it is for; None on the CPU.
        why_gpu: why it is for that one, in words; None on the CPU.
        rank, world_size: which of how many ranks it is of; None where there is one, which knows of no others.
        communication: what the rank sends in the last step, by collective and dimension of the mesh.
        kinds_of_ranks: with ``ranks="all"``, the ranks that differ, of which this is the one that needs most.
        host: what the rank keeps on the host, where FSDP2 keeps its shards there; None where it keeps nothing there.
        held_late: on the CPU, by how many bytes the peak of a rank may be higher, at most, because threads of gloo let go late
            of what they have sent, more in one step and less in another. It is what they hold if they let go of each
            collective once two more of its group have begun. 0 on CUDA; None is not known: the recording has lost collectives.
            With ``ranks="all"``, by how much the most that any rank may need is more than this one's peak.
        known_as: the name in ``torchprof.GPUS`` of the GPU; None where it is not known which it is, or has none.
        pipeline: what the ranks of its pipeline compute, as far as they were estimated; None where there is none.
        assumed: what was assumed of values, in words, as of routers of experts.
    """

    trace: Trace
    device: str
    memory: Memory
    replay: Replay | None
    overheads: tuple[Overhead, ...]
    capacity: int | None
    unmeasured: int
    notes: tuple[str, ...]
    gpu: str | None = None
    why_gpu: str | None = None
    rank: int | None = None
    world_size: int | None = None
    communication: tuple[Sent, ...] = ()
    kinds_of_ranks: tuple[KindOfRank, ...] = ()
    known_as: str | None = None
    pipeline: PipelineWork | None = None
    assumed: tuple[str, ...] = ()
    host: HostMemory | None = None
    held_late: int | None = 0

    @property
    def max_allocated(self) -> int:
        """The most that is allocated, in bytes: what ``torch.cuda.max_memory_allocated`` would say; on the CPU, the peak."""
        return self.replay.max_allocated if self.replay is not None else self.memory.peak.bytes

    @property
    def max_reserved(self) -> int:
        """The most that PyTorch's allocator reserves: ``torch.cuda.max_memory_reserved``; on the CPU, the peak."""
        return self.replay.max_reserved if self.replay is not None else self.memory.peak.bytes

    @property
    def device_memory(self) -> int:
        """What has to be free on the device: what is reserved, and the overheads that PyTorch's allocator does not hold."""
        return self.max_reserved + self._outside

    @property
    def by_category(self) -> dict[str, int]:
        """Bytes at the peak by category; they add up to ``device_memory``."""
        held = {name: count for name, count in self.memory.by_category.items() if count}
        for overhead in self.overheads:
            held[overhead.name] = held.get(overhead.name, 0) + overhead.bytes
        if self.replay is not None:
            inside = sum(overhead.bytes for overhead in self.overheads if overhead.reserved)
            held["allocator: rounding"] = self.max_allocated - self.memory.peak.bytes - inside
            held["allocator: cached and fragmented"] = self.max_reserved - self.max_allocated
        return held

    @property
    def flops(self) -> int | None:
        """FLOPs of one step, forward and backward. A lower bound where ``flops_unknown`` lists something; None: unknown."""
        known = int(sum(row["flops"] or 0 for row in self._outermost()))
        return None if self.flops_unknown and not known else known

    @property
    def flops_unknown(self) -> tuple[str, ...]:
        """The ops of the step whose FLOPs are unknown, because they have no formula."""
        return tuple(sorted({name for row in self._outermost() for name in row["flops_unknown"]}))

    @property
    def communication_by_module(self) -> tuple[Sent, ...]:
        """``communication`` by the module that it is for, to which it adds up; what is most first."""
        return sent_by_module(self.trace, self.communication)

    def bound(self, gpu: str | Ceilings | None = None, links: Mapping[str, float | str] | None = None) -> Bound:
        """A lower bound of a step's time, and no estimate: its FLOPs at the peaks of a GPU, and its bytes over links.

        FLOPs and bytes are those of the last step. Computing and sending may overlap entirely, so the longer of both counts.
        Ranks of a pipeline wait for each other: with ``ranks="all"``, its schedule is played, and this bubble is computing's.

        Args:
            gpu: whose peaks are taken: its name, for those that NVIDIA publishes; or `torchprof.Ceilings`, which may be
                measured. None: the GPU that the estimate is for, where it is known.
            links: what is sent over along dimensions of the mesh, by their names: a link of ``torchprof.LINKS``, such as
                ``"NVLink 4"``, or bytes per second of a rank in each direction. By default, ranks on one host of 8 have the
                link of the GPU, and others the network of NVIDIA's own machines with it; what is assumed is said.

        Raises:
            ArgumentError, ModuleTypeError: a GPU or a link is not known, a bandwidth is none, or there is no such dimension.

        Example:
            >>> found = torchprof.estimate(lambda: model, sizes, capacity="H100-80GB", world_size=64)
            >>> found.bound("A100-80GB", links={"fsdp": "InfiniBand NDR", "tp": 400e9}).communication
            0.0
        """
        if self.device == "cpu" and isinstance(gpu, str):
            raise ArgumentError(
                f"gpu={shown(gpu)} says nothing of device='cpu': estimate with device='cuda', or give torchprof.Ceilings of "
                "the CPU, which torchprof.ceilings() measures"
            )
        return bound_of(self.trace, self.communication, self.device, self.known_as, gpu, links, self.pipeline)

    def to_dict(self) -> dict[str, Any]:
        """The estimate as plain data, in bytes; None is not known."""
        return {
            "device": self.device,
            "gpu": self.gpu,
            "why_gpu": self.why_gpu,
            "rank": self.rank,
            "world_size": self.world_size,
            "communication": [each.to_dict() for each in self.communication],
            "communication_by_module": [each.to_dict() for each in self.communication_by_module],
            "kinds_of_ranks": [asdict(each) for each in self.kinds_of_ranks],
            "device_memory": self.device_memory,
            "max_allocated": self.max_allocated,
            "max_reserved": self.max_reserved,
            "by_category": self.by_category,
            "modules": self.memory.modules.to_dict(),
            "flops": self.flops,
            "flops_unknown": list(self.flops_unknown),
            "bound": self.bound().to_dict(),
            "capacity": self.capacity,
            "fits": self.fits() if self.capacity is not None else None,
            "alloc_retries": self.alloc_retries,
            "unmeasured": self.unmeasured,
            "held_late": self.held_late,
            "host": asdict(self.host) if self.host is not None else None,
            "overheads": {overhead.name: overhead.bytes for overhead in self.overheads},
            "notes": list(self.notes),
            "assumed": list(self.assumed),
        }

    def _outermost(self) -> list[Record]:
        return [row for row in by_module(self.trace).rows if row["depth"] == 0]

    def fits(self, capacity: int | str | None = None) -> bool | None:
        """Whether the step runs on a device with so much memory, as `estimate` takes it; by default, in ``capacity``.

        None: it is not known, because what is ``unmeasured`` or ``held_late`` decides, or ``held_late`` is not known. The
        allocator frees what it has cached before it raises out of memory, so less than ``max_reserved`` can be enough. Of
        overheads that are only known to be in a range, such as the CUDA context, it is what they are taken to be that counts;
        the printed text says where another would decide.

        Raises:
            ArgumentError: no capacity is known, or the GPU is not.
        """
        limit = capacity_of(capacity, self.device) if capacity is not None else self.capacity
        if limit is None:
            names = "" if self.device == "cpu" else f", or one of {', '.join(GPUS)}"
            raise ArgumentError(f"capacity is needed, as none was estimated for: bytes, memory such as '40GiB'{names}")
        return self._fits(limit, self._outside)

    @cached_property
    def alloc_retries(self) -> int | None:
        """How often the allocator frees what it caches to make room, as ``torch.cuda.memory_stats()["num_alloc_retries"]``
        counts, in the steps of the estimate on ``capacity``. Each takes time. None: no capacity was given, or it does not fit.

        More than 0 where it fits although more than ``capacity`` would be reserved with room.
        """
        if self.capacity is None or self.replay is None or self.capacity <= self._outside:
            return None
        if self.device_memory <= self.capacity:
            return 0
        played = self._on(self.replay, self.capacity - self._outside)
        return played.retries if played.out_of_memory is None else None

    @property
    def _outside(self) -> int:
        """Bytes of overheads that PyTorch's allocator does not hold."""
        return sum(overhead.bytes for overhead in self.overheads if not overhead.reserved)

    @property
    def _may_be_missing(self) -> int | None:
        """Bytes that may be needed beyond ``device_memory``, at most; None: nobody knows how many."""
        return None if self.held_late is None else self.unmeasured + self.held_late

    def _fits(self, limit: int, others: int) -> bool | None:
        """Whether it fits in so many bytes, where overheads that PyTorch's allocator does not hold take these."""
        if self.replay is None:
            if self.device_memory > limit:
                return False
            more = self._may_be_missing
            return True if more is not None and self.device_memory + more <= limit else None
        if limit <= others:
            return False
        return self._on(self.replay, limit - others).out_of_memory is None

    def _on(self, played: Replay, limit: int) -> Replay:
        """What the allocator does where it can reserve no more than ``limit`` bytes."""
        rows = with_overheads(self.trace, self.memory.allocations, self.overheads)
        return replay(rows, played.settings, limit, streams=streams_of(self.trace, rows))

    def _unless(self) -> str:
        """Where the verdict would be another, for overheads that are only known to be in a range."""
        assert self.capacity is not None
        outside = [overhead for overhead in self.overheads if not overhead.reserved]
        verdict = self.fits()
        for word, bounds in (
            ("more", [overhead.at_most or overhead.bytes for overhead in outside]),
            ("less", [overhead.at_least or overhead.bytes for overhead in outside]),
        ):
            if self._fits(self.capacity, sum(bounds)) is not verdict:
                names = ", ".join(overhead.name for overhead in outside if overhead.at_most is not None)
                return f", unless the {names} takes {word}: {format_bytes(sum(bounds))} were seen"
        return ""

    def verdict(self) -> str | None:
        """Whether it fits, in a sentence, as it is printed first; None where no capacity was given.

        Example:
            >>> print(torchprof.estimate(model, sizes, optimizer=torch.optim.AdamW, capacity="T4").verdict())
            Fits in 14.5 GiB
        """
        if self.capacity is None:
            return None
        limit, needed = format_bytes(self.capacity), format_bytes(self.device_memory)
        more = f"{self._more_than(needed)} are needed"
        said, rest = {
            True: (f"Fits in {limit}", self._only_just(needed)),
            False: (f"DOES NOT FIT in {limit}", f"; {needed} are needed"),
            None: (f"UNKNOWN whether it fits in {limit}", f"; {more}"),
        }[self.fits()]
        return f"{said}{self._unless()}{rest}"

    def _more_than(self, needed: str) -> str:
        more = self._may_be_missing
        return f"nobody knows how much more than {needed}" if more is None else f"up to {format_bytes(more)} more than {needed}"

    def _only_just(self, needed: str) -> str:
        """What is to be said where more than the capacity would be reserved, if there were more."""
        if self.capacity is None or self.device_memory <= self.capacity:
            return ""
        retries = self.alloc_retries
        times = f" {counted(retries, 'time')} in the steps that were estimated, which delays them" if retries else ""
        return (
            f", only just: with room, {needed} would be taken, and the allocator has to give back what it keeps in reserve"
            f"{times}"
        )

    def fitting_gpus(self) -> list[str]:
        """The GPUs of ``torchprof.GPUS`` whose memory would do, the smallest first; none for an estimate of the CPU.

        What differs between GPUs otherwise, such as the size of the CUDA context, is that of the GPU that was estimated.

        Example:
            >>> torchprof.estimate(model, sizes, optimizer=torch.optim.AdamW).fitting_gpus()[:3]
            ['T4', 'V100-16GB', 'A10']
        """
        if self.replay is None:
            return []
        outside = self._outside
        by_memory = sorted(GPUS, key=lambda name: GPUS[name])
        return [name for name in by_memory if GPUS[name] > outside and self._fits(GPUS[name], outside)]

    def __repr__(self) -> str:
        return f"<Estimate: {format_bytes(self.device_memory)} on {self.device}>"

    def parts(self) -> Parts:
        peak = self.memory.peak
        where = f"step {peak.step}, {peak.phase}, {peak.op} {in_module(self.trace, peak.module)}"
        if (verdict := self.verdict()) is not None:
            yield verdict
            if self.fits() is not True and self.replay is not None:
                largest = max(GPUS, key=lambda name: GPUS[name])
                would = ", ".join(self.fitting_gpus()) or f"no GPU that is known here, of which {largest} has the most"
                yield f"By its memory it would fit on {would}"
        if self.replay is None:
            yield f"Needed on cpu: {format_bytes(self.device_memory)}, at most ({where})"
        else:
            yield (
                f"Needed on cuda: {format_bytes(self.device_memory)} (allocated {format_bytes(self.max_allocated)}, reserved "
                f"{format_bytes(self.max_reserved)}, and the context), at most ({where})"
            )
        whole = self.device_memory
        rows = [{"name": name, "at_peak": count, "share": count / whole} for name, count in self.by_category.items()]
        shares = About(("share",), f"Share: of what is needed, {format_bytes(whole)}")
        yield from Table("At the peak", rows, ("at_peak", "share"), (shares,)).parts()
        yield from self.memory.modules.head(10).parts()
        if self.communication:
            rows = sent_records(self.communication)
            headers = {"group": "Dimension", "group_size": "Ranks"}
            yield from Table("Sent in a step", rows, ("group", "group_size", "calls", "bytes"), headers=headers).parts()
        if self.host is not None and self.world_size is not None:
            yield self.host.sentence(self.world_size)
        if self.kinds_of_ranks:
            yield from told_kinds(self.kinds_of_ranks, self.rank, self.world_size)
        elif self.world_size is not None:
            yield f"Of rank {self.rank} of {self.world_size}: others may need more, where shards, stages or inputs differ"
        if self.gpu is not None:
            yield f"GPU: {self.gpu}, because {self.why_gpu}"
        flops, unknown = self.flops, self.flops_unknown
        least = "at least " if unknown else ""
        yield f"FLOPs of a step: {'unknown' if flops is None else least + format_flops(flops)}"
        yield from unknown_flops(unknown, self.trace)
        if self.world_size is not None and (sentence := (bound := self.bound()).sentence()) is not None:
            yield sentence
            yield bound.basis()
        if self.held_late is None:
            yield (
                "What threads of gloo that let go late of what they have sent may hold more is not known: of some collectives "
                "the recording has nothing"
            )
        elif self.held_late:
            yield f"Threads of gloo that let go late of what they have sent may hold up to {format_bytes(self.held_late)} more"
        for overhead in self.overheads:
            yield f"{overhead.name}: {format_bytes(overhead.bytes)}, from {overhead.source}"
        for each in self.assumed:
            yield f"Assumed: {each}"
        for note in self.notes:
            yield f"Not in it: {note}"
