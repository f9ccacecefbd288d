"""The tables of ops and of module calls, without what follows from others."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.importers.kineto.attribution import ACCUMULATION, ENGINE
from torchprof.importers.kineto.columns import Ints, Numbered, field, small
from torchprof.importers.kineto.freed import give_back
from torchprof.importers.kineto.nesting import order_of
from torchprof.importers.kineto.read_events import CATEGORIES, OP_KIND, Kind
from torchprof.importers.kineto.threads import Threads
from torchprof.trace.schema import LAYOUTS, SCOPE_BACKWARD, SCOPE_USER, Rows

__all__ = ["Ops", "calls_of", "ops_of"]

Arrays = dict[str, npt.NDArray[Any]]


class Ops(NamedTuple):
    """Ops, in order of thread and start.

    Attributes:
        table: the table of ops.
        kind: of each, the row of the list of kinds.
        external_id: of each.
        order: of each, its row in the file.
    """

    table: Rows
    kind: Ints
    external_id: Ints
    order: Ints


def ops_of(columns: Arrays, kinds: list[Kind], names: list[str], threads: Threads) -> Ops:
    """The ops of these columns, which are taken over."""
    kind = columns.pop("kind")
    thread = threads.row_of(field(kinds, OP_KIND, "thread")).astype(np.uint16)[kind]
    order = order_of(thread, columns["start"], columns["end"]).astype(np.int32)
    give_back()
    table = np.zeros(len(order), dtype=LAYOUTS["ops"])
    table["thread"], kind = thread[order], kind[order]
    for name in ("start", "end", "sequence_nr"):
        table[name] = columns.pop(name)[order]
        give_back()
    of_kinds = _scopes(kinds, names)
    for name, of_kind in of_kinds.items():
        table[name] = of_kind[kind]
    # A range has no number, and the engine's op carries that of the node inside it.
    table["sequence_nr"][_has_no_number(kinds, names, of_kinds["scope"])[kind]] = -1
    return Ops(table, kind, small(columns.pop("external_id"))[order], order)


def calls_of(columns: Arrays, names: list[str], threads: Threads, modules: Numbered[str]) -> Rows:
    """The table of module calls. The names of modules are added to ``modules``."""
    thread = threads.row_of(columns["thread"])
    order = order_of(thread, columns["start"], columns["end"])
    calls = np.zeros(len(order), dtype=LAYOUTS["module_calls"])
    calls["thread"] = thread[order]
    calls["start"], calls["end"] = columns["start"][order], columns["end"][order]
    calls["module"] = [modules.row(names[name]) for name in columns["name"][order].tolist()]
    return calls


def _scopes(kinds: list[Kind], names: list[str]) -> dict[str, Ints]:
    """Scope and forward thread of each kind of op."""
    forward, category = field(kinds, OP_KIND, "forward_thread"), field(kinds, OP_KIND, "category")
    called = [names[name] for name in field(kinds, OP_KIND, "name").tolist()]
    is_engine = np.array([name.startswith(ENGINE) for name in called], dtype=np.bool_)
    is_accumulation = np.array([name == ACCUMULATION for name in called], dtype=np.bool_)
    # Of one category for all, a range is what has no namespace and is no node of autograd.
    plain = np.array(["::" not in name for name in called], dtype=np.bool_) & (forward <= 0)
    is_user = (category == CATEGORIES["user_annotation"]) | ((category == CATEGORIES["Operator"]) & plain)
    is_node = (forward > 0) & ~is_engine & ~is_user
    scope = np.where(is_user, SCOPE_USER, np.where(is_node | is_accumulation, SCOPE_BACKWARD, 0))
    return {"scope": scope, "forward_thread": np.where(is_node, forward & 0xFFFFFFFF, 0)}


def _has_no_number(kinds: list[Kind], names: list[str], scope: Ints) -> Ints:
    is_engine = np.array([names[name].startswith(ENGINE) for name in field(kinds, OP_KIND, "name").tolist()], dtype=np.bool_)
    found: Ints = is_engine | (scope == SCOPE_USER)
    return found
