"""The function that a module call ran: below the call's own stack stand frames of PyTorch, and then ``forward``.

Such are the stacks of a call, of an op in it, and of an op in a hook:

    train.py:5 train
    train.py:5 train > module.py:1789 _call_impl > net.py:12 Net.forward
    train.py:5 train > module.py:1840 _call_impl > hooks.py:3 log
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.groups import Groups
from torchprof.trace.trace import Trace

__all__ = ["called_forward", "called_functions"]

Ints = npt.NDArray[np.int64]

FORWARD: Final = "forward"
OF_CALLS: Final = "torch/nn/modules/module.py"
"""The file of what PyTorch runs between the call of a module and its ``forward`` or hooks."""


def called_functions(trace: Trace, counted: Ints, calls: Ints, call_stacks: Ints, stacks: Ints) -> Ints:
    """For all that began directly in a module call, a row of ``trace.stacks``, of the function that the call ran then.

    That is the outermost ``forward`` below the stack of the call or, without one, the outermost function that counts: a hook.
    The row of the call itself stands for a ``forward`` that does not count. Where there is none of these, it is the function
    of all else in the call; -1: there are several, or none.

    Args:
        counted: as for `python_times`.
        calls, call_stacks, stacks: of each, the call that it is in, the stack of that, and its own.
    """
    pairs = Groups.by([call_stacks, stacks])
    parent, function = trace.stacks["parent"].tolist(), trace.stacks["function"].tolist()
    counts = counted.tolist()
    is_forward, is_between = _kinds(trace)

    def below(call: int, stack: int) -> int:
        forward = hook = -1
        at = stack if call >= 0 else -1
        while at >= 0:
            if (parent[at], function[at]) == (parent[call], function[call]):
                return hook if forward < 0 else forward if counts[forward] == forward else call
            if is_forward[function[at]]:
                forward = at
            elif counts[at] == at and not is_between[function[at]]:
                hook = at
            at = parent[at]
        return -1

    first = zip(call_stacks[pairs.first].tolist(), stacks[pairs.first].tolist(), strict=True)
    found = np.array([below(call, stack) for call, stack in first], dtype=np.int64)[pairs.of]
    unknown = np.flatnonzero(found < 0)
    beside = np.flatnonzero((found >= 0) & np.isin(calls, calls[unknown]))
    others: defaultdict[int, dict[tuple[int, int], int]] = defaultdict(dict)
    for call, row in dict.fromkeys(zip(calls[beside].tolist(), found[beside].tolist(), strict=True)):
        others[call].setdefault((parent[row], function[row]), row)
    for at in unknown.tolist():
        rows = others.get(int(calls[at]), {})
        if len(rows) == 1:
            (found[at],) = rows.values()
    return found


def called_forward(trace: Trace, counted: Ints, call_stacks: Ints, stacks: Ints) -> Ints:
    """For each of these stacks of module calls, a row of ``trace.stacks`` of the one ``forward`` that they ran; -1: not known.

    It is not where modules of several classes were called there, or where it does not count.

    Args:
        counted: as for `python_times`.
        stacks: those in which anything began.
    """
    parent, function = trace.stacks["parent"].tolist(), trace.stacks["function"].tolist()
    is_forward, is_between = _kinds(trace)
    wanted = set(call_stacks.tolist())
    ran: defaultdict[int, dict[tuple[int, int], int]] = defaultdict(dict)
    for stack in np.unique(stacks[stacks >= 0]).tolist():
        at, forward = stack, -1
        while (above := parent[at]) >= 0:
            if is_forward[function[at]]:
                forward = at
            if forward >= 0 and is_between[function[at]] and above in wanted:
                ran[above].setdefault((parent[forward], function[forward]), forward)
            at = above
    one = {call: row for call, rows in ran.items() if len(rows) == 1 for row in rows.values() if counted[row] == row}
    return np.array([one.get(call, -1) for call in call_stacks.tolist()], dtype=np.int64)


def _kinds(trace: Trace) -> tuple[list[bool], list[bool]]:
    """Of every function whether it is a ``forward``, and whether it stands between the call of a module and that."""
    names = [trace.strings[name] for name in trace.functions["name"].tolist()]
    files = [trace.strings[file].replace("\\", "/") if file >= 0 else "" for file in trace.functions["file"].tolist()]
    return [name.rpartition(".")[2] == FORWARD for name in names], [file.endswith(OF_CALLS) for file in files]
