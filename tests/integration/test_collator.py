"""The collator against an oracle that does the same slowly and plainly, on random nestings of ops and calls."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from compiled import CSRC, SANITIZERS, python_module
from hypothesis import given, settings
from hypothesis import strategies as st

from torchprof.trace.schema import LAYOUTS, OP_ATTRIBUTED

Event = tuple[Any, ...]
EXAMPLES = 60 if SANITIZERS else 300
BACKWARD, FUNCTION = 1, 0


@functools.cache
def collator() -> ModuleType:
    """csrc/collate/ without the rest of the extension. Compiling takes half a minute, the first time."""
    return python_module("collator.cpp", *SANITIZERS, sources=sorted((CSRC / "collate").glob("*.cpp")))


def collate_events(threads: list[list[Event]], budget: int, kernels: Sequence[Event] = ()) -> tuple[Any, list[str], Any]:
    """The tables of these events, their strings and what was lost: see tests/native/collator.cpp."""
    tables, strings, losses, _ = collator().collate_events(threads, budget, list(kernels))
    return {name: rows.view(LAYOUTS[name]) for name, rows in tables.items()}, strings, losses


@dataclass
class Thread:
    """Events of one thread as they happen, and what should come of them."""

    number: int
    events: list[Event] = field(default_factory=list)
    ops: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    memory: list[dict[str, Any]] = field(default_factory=list)
    launches: list[dict[str, Any]] = field(default_factory=list)
    open_ops: list[int] = field(default_factory=list)
    open_calls: list[int] = field(default_factory=list)
    clock: int = 0

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def innermost(self, rows: list[int]) -> int:
        return rows[-1] if rows else -1


@st.composite
def threads(draw: st.DrawFn) -> list[Thread]:
    """Up to three threads of well-nested ops and calls, some of the ops autograd nodes of earlier ones on any thread."""
    made: list[Thread] = [Thread(number) for number in range(draw(st.integers(1, 3)))]
    for thread in made:
        nest: list[str] = []
        for _ in range(draw(st.integers(0, 40))):
            action = draw(st.sampled_from(["op", "call", "node", "memory", "launch", "leave", "leave"]))
            time = thread.tick()
            if action in ("op", "node"):
                node = action == "node"
                sequence_nr = draw(st.integers(-1 if not node else 0, 6))
                forward_thread = draw(st.integers(1, len(made))) if node else 0
                scope = BACKWARD if node else FUNCTION
                name = draw(st.sampled_from(["aten::a", "aten::b"]))
                thread.events.append(("op", len(thread.ops) + 1, time, name, sequence_nr, forward_thread, scope))
                thread.ops.append(
                    {
                        "start": time,
                        "end": -1,
                        "name": name,
                        "parent": thread.innermost(thread.open_ops),
                        "ran_in": thread.innermost(thread.open_calls),
                        "sequence_nr": sequence_nr,
                        "forward_thread": forward_thread,
                    }
                )
                thread.open_ops.append(len(thread.ops) - 1)
                nest.append("op")
            elif action == "call":
                module = draw(st.integers(1, 3))
                thread.events.append(("call", time, module, "Type"))
                thread.calls.append(
                    {"module": module, "parent": thread.innermost(thread.open_calls), "op": thread.innermost(thread.open_ops)}
                )
                thread.open_calls.append(len(thread.calls) - 1)
                nest.append("call")
            elif action == "memory":
                address, count = draw(st.integers(1, 5)), draw(st.integers(-50, 50).filter(bool))
                thread.events.append(("memory", time, address, count))
                thread.memory.append(
                    {
                        "time": time,
                        "address": address,
                        "bytes": count,
                        "thread": thread.number,
                        "op": thread.innermost(thread.open_ops),
                        "ran_in": thread.innermost(thread.open_calls),
                    }
                )
            elif action == "launch":
                correlation = 1000 * (thread.number + 1) + len(thread.launches)
                thread.events.append(("launch", time, correlation))
                thread.launches.append(
                    {
                        "correlation": correlation,
                        "time": time,
                        "op": thread.innermost(thread.open_ops),
                        "ran_in": thread.innermost(thread.open_calls),
                        "called_inside": nest[-1:] == ["call"],
                    }
                )
            elif nest:
                if nest.pop() == "op":
                    row = thread.open_ops.pop()
                    thread.ops[row]["end"] = time
                    thread.events.append(("end", row + 1, time))
                else:
                    thread.open_calls.pop()
                    thread.events.append(("return", time))
    return made


def attribute_ops(made: list[Thread]) -> None:
    """Fill in ``call`` (thread, row) and ``attributed`` of every op, thread after thread, parents first."""
    for thread in made:
        for op in thread.ops:
            op["call"], op["attributed"] = (thread.number, op["ran_in"]), False
            if op["forward_thread"] and op["sequence_nr"] >= 0:
                creators = [
                    (other.number, index)
                    for other in made
                    for index, candidate in enumerate(other.ops)
                    if other.number + 1 == op["forward_thread"]
                    and candidate["forward_thread"] == 0
                    and candidate["sequence_nr"] == op["sequence_nr"]
                ]
                if creators:
                    where, index = creators[-1]
                    creator = made[where].ops[index]
                    # a creator on a later thread, or one that is itself inside a node, is not attributed yet
                    op["creator"] = creator
                    op["call"] = creator.get("call", (where, creator["ran_in"]))
                    op["attributed"] = True
            if not op["attributed"] and op["parent"] >= 0:
                parent = thread.ops[op["parent"]]
                if parent["attributed"] and parent["ran_in"] == op["ran_in"]:
                    op["call"], op["attributed"] = parent["call"], True


def expected_allocations(made: list[Thread]) -> list[dict[str, Any]]:
    """Every block as it should be listed: what was allocated where, and freed where."""
    blocks: list[dict[str, Any]] = []
    held: dict[int, dict[str, Any]] = {}
    events = sorted((event for thread in made for event in thread.memory), key=lambda event: event["time"])
    for event in events:
        before = held.pop(event["address"], None)
        if event["bytes"] > 0:
            if before is not None:  # freed without a report
                before["end"] = event["time"]
            block = {"start": event["time"], "end": -1, "bytes": event["bytes"], "from": event, "to": None}
            held[event["address"]] = block
            blocks.append(block)
        elif before is not None:
            before.update(end=event["time"], to=event)
        else:  # allocated before
            blocks.append({"start": -1, "end": event["time"], "bytes": -event["bytes"], "from": None, "to": event})
    return blocks


@settings(max_examples=EXAMPLES)
@given(threads())
def test_rows_parents_calls_and_attributions_are_those_of_the_oracle(made: list[Thread]) -> None:
    attribute_ops(made)
    tables, strings, losses = collate_events([thread.events for thread in made], 2**30)
    first_op, first_call = 0, 0
    offsets = []
    for thread in made:
        offsets.append((first_op, first_call))
        first_op += len(thread.ops)
        first_call += len(thread.calls)
    blocks = expected_allocations(made)
    assert (len(tables["ops"]), len(tables["module_calls"]), len(tables["allocations"])) == (first_op, first_call, len(blocks))

    def moved(row: int, by: int) -> int:
        return row + by if row >= 0 else -1

    for thread, (op_at, call_at) in zip(made, offsets, strict=True):
        for row, op in enumerate(thread.ops):
            found = tables["ops"][op_at + row]
            assert (found["start"], found["end"], strings[tables["signatures"]["name"][found["signature"]]]) == (
                op["start"],
                op["end"],
                op["name"],
            )
            assert (found["parent"], found["thread"]) == (moved(op["parent"], op_at), thread.number)
            assert bool(found["flags"] & OP_ATTRIBUTED) == op["attributed"]
            where, call = op["call"]
            assert found["module_call"] == moved(call, offsets[where][1])
        for row, call_made in enumerate(thread.calls):
            found = tables["module_calls"][call_at + row]
            assert tables["modules"][found["module"]]["address"] == call_made["module"]
            assert (found["parent"], found["op"]) == (moved(call_made["parent"], call_at), moved(call_made["op"], op_at))
    for found, block in zip(tables["allocations"], blocks, strict=True):
        assert (found["start"], found["end"], found["bytes"]) == (block["start"], block["end"], block["bytes"])
        for column, event in (("op", block["from"]), ("free_op", block["to"])):
            assert found[column] == (moved(event["op"], offsets[event["thread"]][0]) if event is not None else -1)
        event = block["from"]
        if event is not None:
            owner = made[event["thread"]].ops[event["op"]] if event["op"] >= 0 else None
            follows = owner is not None and owner["ran_in"] == event["ran_in"]
            where, call = owner["call"] if follows and owner is not None else (event["thread"], event["ran_in"])
            assert found["module_call"] == moved(call, offsets[where][1])
    assert not any(losses.values())


@settings(max_examples=EXAMPLES)
@given(threads(), st.randoms(use_true_random=False))
def test_a_kernel_is_attributed_to_what_was_innermost_at_its_launch(made: list[Thread], order: Any) -> None:
    attribute_ops(made)
    launches = [(thread, launch) for thread in made for launch in thread.launches]
    kernels = [
        (launch["correlation"], launch["time"] + delay, launch["time"] + delay + 1, f"kernel {launch['correlation']}")
        for _, launch in launches
        for delay in range(order.randint(0, 2))  # a launch of none, one or two kernels
    ]
    kernels.append((77, 3, 4, "launched by no call"))
    order.shuffle(kernels)
    tables, strings, _ = collate_events([thread.events for thread in made], 2**30, kernels)
    ops, calls, found = tables["ops"], tables["module_calls"], tables["kernels"]
    first_ops = [sum(len(before.ops) for before in made[: thread.number]) for thread in made]
    first_calls = [sum(len(before.calls) for before in made[: thread.number]) for thread in made]

    assert sorted(strings[row["name"]] for row in found) == sorted(name for *_, name in kernels)
    assert (found["start"][1:] >= found["start"][:-1]).all()
    assert len(tables["runtime_calls"]) == len(launches)
    by_correlation = {launch["correlation"]: (thread, launch) for thread, launch in launches}
    for row in found:
        if strings[row["name"]] == "launched by no call":
            assert (row["runtime_call"], row["op"], row["module_call"], row["phase"]) == (-1, -1, -1, 0)
            continue
        call = tables["runtime_calls"][row["runtime_call"]]
        thread, launch = by_correlation[int(call["correlation"])]
        assert (call["start"], call["thread"]) == (launch["time"], thread.number)
        where, nearest = (thread.number, launch["ran_in"])
        if launch["op"] >= 0 and not launch["called_inside"]:
            where, nearest = thread.ops[launch["op"]]["call"]
        assert row["op"] == call["op"] == (launch["op"] + first_ops[thread.number] if launch["op"] >= 0 else -1)
        assert row["module_call"] == call["module_call"] == (nearest + first_calls[where] if nearest >= 0 else -1)
        if row["op"] >= 0 and not launch["called_inside"]:
            assert row["phase"] == ops["flags"][row["op"]] >> 4
        elif row["module_call"] >= 0:
            assert row["phase"] in (1, 2)
            assert (row["phase"] == 2) == bool(calls["flags"][row["module_call"]] & 8)


@given(st.integers(0, 3000), st.integers(2**16, 2**18))
@settings(max_examples=30)
def test_rows_kept_and_rows_lost_add_up_to_what_happened(count: int, budget: int) -> None:
    events: list[Event] = []
    for index in range(count):
        events += [
            ("op", index + 1, index, "aten::a", -1, 0, FUNCTION),
            ("memory", index, index + 1, 8),
            ("end", index + 1, index),
        ]
    tables, _, losses = collate_events([events], budget)
    assert len(tables["ops"]) + losses["ops"] == count
    assert len(tables["allocations"]) + losses["allocations"] == count
    # a block that is never freed was one event of 40 bytes and is one row of 56
    assert sum(table.nbytes for table in tables.values()) <= budget * 56 / 40 + 1024
    assert losses["unmatched_ends"] == 0


# Blocks whose allocation nobody reported

NOTHING, ITSELF, AROUND = 0, 1, 2
"""What ends with a storage: ``Ends`` of csrc/trace/enums.h."""


def blocks(*events: Event) -> list[tuple[int, int, int, int]]:
    """Start, end, address and bytes of the blocks that come of these events."""
    tables, _, _ = collate_events([list(events)], 10**9)
    return [tuple(int(row[name]) for name in ("start", "end", "address", "bytes")) for row in tables["allocations"]]  # type: ignore[misc]


def reads(time: int, address: int) -> tuple[Event, ...]:
    """An op that reads a tensor."""
    return ("op", time, time, "aten::sum", -1, 0, FUNCTION), ("tensor", [1], address), ("end", time, time)


def test_a_block_that_is_met_begins_there_and_ends_where_it_is_freed() -> None:
    assert blocks(("met", 5, 4096, 100, 1, ITSELF), ("gone", 9, 1, AROUND)) == [(5, 9, 4096, 100)]
    assert blocks(("met", 5, 4096, 100, 1, ITSELF), *reads(6, 4096)) == [(5, -1, 4096, 100)]


def test_a_block_that_several_share_ends_with_the_last() -> None:
    met = [("met", 5, 4096, 100, 1, ITSELF), ("met", 6, 4096, 100, 2, ITSELF), ("met", 7, 4100, 50, 3, ITSELF)]
    ends = [("gone", 10, 2, AROUND), ("gone", 11, 3, AROUND), ("gone", 12, 1, AROUND)]
    assert blocks(*met, *ends[:2]) == [(5, -1, 4096, 100)]
    assert blocks(*met, *ends) == [(5, 12, 4096, 100)]


def test_a_block_in_another_one_is_no_memory_of_its_own() -> None:
    mapped = ("memory", 1, 4096, 1000)
    weights = [("met", 2, 4196, 100, 1, ITSELF), *reads(3, 4196), ("met", 4, 4296, 800, 2, ITSELF), *reads(5, 4296)]
    assert blocks(mapped, *weights, ("memory", 9, 4096, -1000)) == [(1, 9, 4096, 1000)]
    beyond = [("met", 2, 5096, 100, 1, ITSELF), *reads(3, 5096)]
    assert blocks(mapped, *beyond) == [(1, -1, 4096, 1000), (2, -1, 5096, 100)]


def test_memory_that_no_tensor_owns_is_none() -> None:
    assert blocks(("met", 2, 4096, 0, 1, NOTHING), *reads(3, 4096)) == []
    assert blocks(("memory", 1, 4096, 64), ("met", 2, 4100, 0, 1, NOTHING), *reads(3, 4100)) == [(1, -1, 4096, 64)]


def test_a_block_that_is_met_where_another_was_ends_that_one() -> None:
    met = [("met", 1, 4096, 1000, 1, ITSELF), ("memory", 5, 4500, 100)]
    assert blocks(*met) == [(1, 5, 4096, 1000), (5, -1, 4500, 100)]
    assert blocks(*met, ("gone", 6, 1, AROUND)) == [(1, 5, 4096, 1000), (5, -1, 4500, 100)]  # which is seen later


def test_a_mapped_block_ends_with_the_storage_of_all_of_it_where_nobody_reports_that() -> None:
    mapped = [("reported", 1, 4096, 1000), ("met", 2, 4096, 0, 1, AROUND), ("met", 2, 4196, 100, 2, ITSELF)]
    assert blocks(*mapped, ("gone", 5, 2, AROUND)) == [(1, -1, 4096, 1000)]
    assert blocks(*mapped, ("gone", 5, 2, AROUND), ("gone", 6, 1, AROUND)) == [(1, 6, 4096, 1000)]
    assert blocks(*mapped, ("reported", 5, 4096, -1000), ("gone", 6, 2, AROUND), ("gone", 6, 1, AROUND)) == [(1, 5, 4096, 1000)]
    again = ("reported", 7, 4096, 500)
    assert blocks(*mapped, again, ("gone", 8, 1, AROUND)) == [(1, 7, 4096, 1000), (7, -1, 4096, 500)]


def test_what_ends_in_a_block_of_pytorch_does_not_end_that() -> None:
    allocated = [("memory", 1, 4096, 1000), ("met", 2, 4096, 1000, 1, NOTHING), ("met", 2, 4196, 100, 2, AROUND)]
    assert blocks(*allocated, ("gone", 5, 1, AROUND), ("gone", 5, 2, AROUND)) == [(1, -1, 4096, 1000)]


def test_the_end_of_a_mapping_that_was_not_reported_is_that_of_what_was_met_in_it() -> None:
    met = [("met", 2, 4196, 100, 1, ITSELF), ("met", 3, 4296, 100, 2, ITSELF), ("met", 3, 6000, 100, 3, ITSELF)]
    ends = [(2, 9, 4196, 100), (3, 9, 4296, 100), (3, -1, 6000, 100)]
    assert blocks(*met, ("reported", 9, 4096, -1000)) == ends


def test_a_storage_of_which_a_slice_was_met_first_begins_where_it_is_met() -> None:
    met = [("met", 2, 4096, 0, 1, AROUND), ("met", 2, 4196, 100, 2, ITSELF), ("met", 5, 4096, 1000, 1, AROUND)]
    assert blocks(*met) == [(2, 5, 4196, 100), (5, -1, 4096, 1000)]
    assert blocks(*met, ("gone", 7, 2, AROUND), ("gone", 8, 1, AROUND)) == [(2, 5, 4196, 100), (5, 8, 4096, 1000)]


def test_a_block_from_before_ends_where_it_is_freed_or_its_address_is_used_again() -> None:
    assert blocks(*reads(3, 4096), ("memory", 7, 4096, None)) == [(-1, 7, 4096, 4)]
    assert blocks(*reads(3, 4096), ("memory", 7, 4096, 64)) == [(7, -1, 4096, 64), (-1, 7, 4096, 4)]
    assert blocks(("memory", 1, 4096, None), *reads(3, 4096)) == [(-1, -1, 4096, 4)]  # an earlier one was freed


def test_a_second_unreported_block_at_an_address_is_not_from_before() -> None:
    found = blocks(*reads(3, 4096), ("memory", 7, 4096, None), *reads(9, 4096))
    assert found == [(-1, 7, 4096, 4), (9, -1, 4096, 4)]


KEYS = st.one_of(
    st.integers(0, 30),
    st.integers(0, 30).map(lambda row: row << 32),
    st.integers(0, 30).map(lambda block: 0x7F00_0000_0000 + 64 * block),
    st.integers(0, 2**64 - 2),
)


@given(st.lists(st.tuples(KEYS, st.one_of(st.none(), st.integers(-5, 5))), max_size=300))
def test_a_flat_map_is_a_dict(changes: list[tuple[int, int | None]]) -> None:
    expected: dict[int, int] = {}
    before: list[int | None] = []
    for key, value in changes:
        before.append(expected.get(key))
        if value is None:
            expected.pop(key, None)
        else:
            expected[key] = value
    assert collator().change_map(changes) == (expected, before, len(expected))
