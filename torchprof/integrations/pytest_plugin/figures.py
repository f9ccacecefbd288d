"""The figures of one test, or of one module in it, from its trace."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.gpu.backend import gpu_backend
from torchprof.analysis.lookups import modules_of_calls
from torchprof.analysis.memory.changes import Changes
from torchprof.analysis.memory.devices import devices_by_memory
from torchprof.analysis.memory.modules import NO_MODULE
from torchprof.analysis.model.module_tree import OUTSIDE, module_tree, modules_inside
from torchprof.analysis.model.unknown_flops import ways_out
from torchprof.analysis.records import Record
from torchprof.analysis.time.module_records import DATA, OTHER, module_records
from torchprof.analysis.time.op_records import op_records
from torchprof.analysis.time.totals import step_totals
from torchprof.errors import ArgumentError
from torchprof.integrations.pytest_plugin.settings import BUDGET
from torchprof.rendering.units import format_bytes
from torchprof.tables.memory import Memory
from torchprof.trace.schema import RuntimeCallKind
from torchprof.trace.trace import Trace
from torchprof.trace.unfinished import unfinished_kernels, unfinished_text
from torchprof.wording import nearest, shown

__all__ = ["Figure", "Figures"]

NO_GPU: Final = (
    "no GPU was recorded ({why}): skip the test there, or give {figure}=None, such as "
    "{figure}=... if torch.cuda.is_available() else None"
)


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a test.

    Attributes:
        value: bytes, FLOPs or a count; None where nothing is known of it.
        unknown: why it is not known, or why it may be more; empty where it is known.
        device: of bytes: on which device.
    """

    value: int | None
    unknown: str = ""
    device: str = ""


class Figures:
    """The figures of a trace.

    Args:
        trace: of one test.
        no_kernels: why its kernels were not recorded.
    """

    def __init__(self, trace: Trace, no_kernels: str = "") -> None:
        self.trace = trace
        self._no_kernels = no_kernels
        self._accounts: dict[str, Memory] = {}

    def of(self, name: str, module: str | None = None) -> Figure:
        """A figure of the whole test, or of a module with everything below it.

        Args:
            name: ``peak``, ``saved``, ``flops``, ``ops``, ``kernels``, ``syncs`` or ``params``.
            module: its path.

        Raises:
            ArgumentError: there is no such module, or it was not called.
        """
        path = self.path(module, called=name != "params") if module is not None else None
        if (unfinished := unfinished_kernels(self.trace)) == sum(self.trace.losses.values()) > 0:
            return Figure(None, unfinished_text(unfinished))
        if self.trace.losses:
            lost = ", ".join(f"{count:,} {table.replace('_', ' ')}" for table, count in self.trace.losses.items())
            return Figure(
                None, f"{lost} did not fit the {format_bytes(BUDGET)} that a recording may take: run less in the test"
            )
        found: Figure = getattr(self, f"_{name}")(path)
        return found

    def path(self, module: str, *, called: bool) -> str:
        """The path of a module, as the trace knows it. Of one of several models, its name may be left out.

        Raises:
            ArgumentError: there is no such module, or several, or it should have been called and was not.
        """
        nodes = [node for root in module_tree(self.trace) for node in root.walk()]
        known = {node.path for node in nodes}
        models = [info.name for info in (self.trace.model.modules if self.trace.model is not None else ()) if info.parent < 0]
        if not known:
            raise ArgumentError(f"module={shown(module)}: no module was called in the test")
        below = [path for path in (f"{name}.{module}" for name in models) if path in known]
        if module not in known and module:
            if len(below) != 1:
                near = nearest(module, known)
                meant = f"could be any of {', '.join(below)}" if below else "is none that was found"
                way_out = (
                    "" if below else f"; is it {near!r}?" if near else f": the models are {', '.join(models) or 'unknown'}"
                )
                raise ArgumentError(f"module={shown(module)} {meant}{way_out}")
            module = below[0]
        module = self._first_place(module)
        if called and not any(node.calls for node in nodes if is_inside(node.path, module)):
            compiled = "; calls inside compiled code are not seen" if self.trace.facts.get("compiled") else ""
            raise ArgumentError(f"module={shown(module)} was not called in the test{compiled}")
        return module

    def _first_place(self, path: str) -> str:
        """Where a module is registered in several places, the first of them, which has its calls and its parameters."""
        modules = self.trace.model.modules if self.trace.model is not None else ()
        return next((modules[info.same_as].path for info in modules if info.path == path and info.same_as >= 0), path)

    @property
    def devices(self) -> tuple[str, ...]:
        """The device that `torchprof.memory` accounts for, and the others of its kind."""
        found = devices_by_memory(self.trace)
        kind = found[0].partition(":")[0] if found else "cpu"
        return tuple(name for name in found if name.partition(":")[0] == kind) or ("cpu",)

    def account(self, device: str) -> Memory:
        """The account of its memory."""
        if device not in self._accounts:
            self._accounts[device] = Memory.of(self.trace, device)
        return self._accounts[device]

    def held_at_peak(self, device: str, path: str | None) -> npt.NDArray[np.int64]:
        """The rows of an account that were held when the test, or a module, held the most."""
        account = self.account(device)
        if path is None:
            return np.flatnonzero(account.held_at_peak)
        rows = self._rows_of(device, path)
        changes = Changes(account.allocations[rows])
        most = int(np.argmax(changes.held)) if len(changes) and changes.held.max() > changes.held_before else -1
        return rows[changes.alive_after(most)]

    def saved_rows(self, device: str, path: str | None) -> npt.NDArray[np.int64]:
        """The rows of an account that were kept for backward when the most was."""
        account = self.account(device)
        saved = np.flatnonzero(account.saved)
        return saved if path is None else np.intersect1d(saved, self._rows_of(device, path))

    def module_record(self, path: str) -> list[Record]:
        """The records of a module; of the empty path, those of all models and of other modules that were called."""
        records = module_records(self.trace)
        if path:
            return [record for record in records if record["path"] == path][:1]
        apart = (OUTSIDE, DATA, OTHER)
        return [record for record in records if not record["depth"] and (record["path"] or record["name"] not in apart)]

    def _rows_of(self, device: str, path: str) -> npt.NDArray[np.int64]:
        account = self.account(device)
        inside = [is_inside(account.module_path(row), path) for row in range(len(account.allocations))]
        return np.flatnonzero(np.array(inside, dtype=np.bool_))

    # The figures.

    def _peak(self, path: str | None) -> Figure:
        found = []
        for device in self.devices:
            account = self.account(device)
            if path is None:
                found.append(Figure(int(account.peak.bytes), device=device))
            else:
                rows = self.held_at_peak(device, path)
                found.append(Figure(int(account.allocations["bytes"][rows].sum()), device=device))
        return self._if_all_was_seen(max(found, key=lambda each: each.value or 0))

    def _saved(self, path: str | None) -> Figure:
        found = []
        for device in self.devices:
            account = self.account(device)
            if (why := account.saved_unknown) is not None:
                return Figure(None, why)
            size = int(account.allocations["bytes"][self.saved_rows(device, path)].sum())
            found.append(Figure(size, device=device))
        return self._if_all_was_seen(max(found, key=lambda each: each.value or 0))

    def _if_all_was_seen(self, figure: Figure) -> Figure:
        """A figure of memory; a lower bound where some of it was not seen."""
        note = self.trace.facts.get("memory_note")
        return replace(figure, unknown=str(note)) if note and figure.device != "cpu" else figure

    def _flops(self, path: str | None) -> Figure:
        records = module_records(self.trace) if path is None else self.module_record(path)
        if path is None:
            records = [record for record in records if not record["depth"]]
        unknown = sorted({name for record in records for name in record["flops_unknown"]})
        known = [int(record["flops"]) for record in records if record["flops"] is not None]
        if unknown:
            ways = "".join(f". {way}" for way in ways_out(unknown, self.trace))
            return Figure(sum(known) if known else None, f"those of {', '.join(unknown)} are unknown{ways}")
        return Figure(sum(known))

    def _ops(self, path: str | None) -> Figure:
        if path is None:
            return Figure(int(step_totals(self.trace).ops["count"].sum()))
        return Figure(int(sum(record["calls"] for record in op_records(self.trace, module=path))))

    def _kernels(self, path: str | None) -> Figure:
        if (why := self._why_no_kernels("kernels")) is not None:
            return Figure(None, why)
        if path is None:
            return Figure(len(self.trace.kernels))
        return Figure(int(sum(record.get("kernels") or 0 for record in self.module_record(path))))

    def _syncs(self, path: str | None) -> Figure:
        if (why := self._why_no_kernels("syncs")) is not None:
            return Figure(None, why)
        return Figure(len(self.synchronizing_calls(path)))

    def synchronizing_calls(self, path: str | None) -> npt.NDArray[np.int64]:
        """The rows of ``trace.runtime_calls`` that return when the device is done. Whether they had to wait is a matter of
        luck, and not asked."""
        calls = self.trace.runtime_calls
        rows = np.flatnonzero(calls["kind"] == RuntimeCallKind.SYNCHRONIZE)
        if path is None:
            return rows
        module = modules_of_calls(self.trace, calls["module_call"][rows])
        return rows[np.isin(module, modules_inside(self.trace, path))]

    def _why_no_kernels(self, figure: str) -> str | None:
        backend = gpu_backend(self.trace)
        note = str(self.trace.facts.get("gpu_note") or "none was in use")
        if backend == "cupti":
            return f"kernels were not all recorded ({note})" if "INCOMPLETE" in note else None
        if backend == "events":
            return f"the GPU was recorded with events, which count neither kernels nor calls of the runtime: give {figure}=None"
        return NO_GPU.format(why=self._no_kernels or note, figure=figure)

    def _params(self, path: str | None) -> Figure:
        model = self.trace.model
        if model is None:
            return Figure(None, "no module with parameters was called in the test")
        modules = [info for info in model.modules if path is None or is_inside(info.path, path)]
        if any(p.dtype == "unknown" or p.lazy for info in modules for p in info.parameters):
            return Figure(None, "some parameters cannot be read, or have no shape before the first call")
        return Figure(sum(p.numel for info in modules for p in info.parameters if p.owner is None))


def is_inside(path: str, module: str) -> bool:
    """Whether a path is that of the module, or below it; every module is below the empty path."""
    return path != NO_MODULE and (not module or path == module or path.startswith(f"{module}."))
