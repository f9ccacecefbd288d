"""How many instructions it takes to record an op, and in which functions: counted by Valgrind, so the same on a busy machine.

    python3 dev.py count [FUNCTIONS]    what each way of recording takes, and the FUNCTIONS that take most of it (12)

Instructions of the kernel are not counted, nor what a processor waits for: time is the judge at the end (bench_ops.py,
bench_training.py). The first steps of a recording are left out, as names, shapes and sums are new to them. Sums are made on
another thread while the next step runs, and its instructions count too.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from peers import HERE, empty_callback, observers
from peers.training import Training

import torchprof

BUILD = HERE.parents[1] / "build" / "count"
ADDITIONS = 2_000
LAYERS = 4
LEFT_OUT, COUNTED = 2, 2
"""Steps of a recording."""

Observer = Callable[[Any], AbstractContextManager[Any]]
PEERS: dict[str, Observer] = {
    "bare": lambda model: nullcontext(),
    "empty callback": lambda model: empty_callback(tensors=False),
    "empty callback, tensors handed over": lambda model: empty_callback(tensors=True),
    "ops only": lambda model: torchprof.profile(model, shapes=False, memory=False, stacks=False),
    "everything but memory and stacks": lambda model: torchprof.profile(model, memory=False, stacks=False),
    "everything but stacks": lambda model: torchprof.profile(model, stacks=False),
    "everything": lambda model: torchprof.profile(model),
    "everything, aggregated": lambda model: torchprof.profile(model, aggregate=True),
}


def main(arguments: list[str]) -> int:
    """Run this file again under Valgrind, and print what that wrote."""
    if arguments == ["--counted"]:
        run_all()
        return 0
    if shutil.which("valgrind") is None:
        print("dev.py count: there is no valgrind here; `apt-get install valgrind` has it", file=sys.stderr)
        return 1
    observers()  # built before, as a compiler would run under Valgrind too
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={BUILD / 'out'}"]
    with (BUILD / "log").open("w") as log:
        code = subprocess.call([*valgrind, sys.executable, __file__, "--counted"], stdout=log, stderr=log)
    if code:
        print(f"dev.py count: the run under Valgrind failed: see {BUILD / 'log'}", file=sys.stderr)
        return code
    ops = {name: int(count) for name, count in re.findall(r"^ops of (.*): (\d+)$", (BUILD / "log").read_text(), re.MULTILINE)}
    found = dict(counted_files())
    if not found:
        print(
            "dev.py count: nothing was counted: valgrind/callgrind.h is missing. Install it and remove build/benchmarks",
            file=sys.stderr,
        )
        return 1
    for what, count in ops.items():
        print_table(what, count, {name: found[f"{what}: {name}"] for name in PEERS}, int(arguments[0]) if arguments else 12)
    return 0


def run_all() -> None:
    """Each peer runs each program twice; the second time is counted."""
    torch.set_num_threads(1)
    a, b = torch.ones(4, 4), torch.ones(4, 4)
    training = Training(LAYERS)
    training.step()

    def add() -> None:
        with torch.no_grad():
            observers().add(a, b, ADDITIONS)

    for what, program, model in (("at::add", add, None), ("training step", training.step, training.model)):
        for name, observer in PEERS.items():
            with observer(model) as running:
                for step in range(LEFT_OUT + COUNTED):
                    if step == LEFT_OUT:
                        observers().start_counting()
                    program()
                    if running is not None:
                        running.step()
                observers().stop_counting(f"{what}: {name}")
            if name == "everything":
                print(f"ops of {what}: {len(running.trace.ops) * COUNTED // (LEFT_OUT + COUNTED)}", flush=True)


def counted_files() -> Iterator[tuple[str, Counter[str]]]:
    """What was counted, and its instructions by function, without those of what it calls."""
    for path in BUILD.glob("out.*"):
        text = path.read_text()
        if title := re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE):
            yield title[1], by_function(text.splitlines())


def by_function(lines: list[str]) -> Counter[str]:
    """Of a file of Callgrind: a function stands before its lines, and a line after "calls=" is of what it calls.

    >>> lines = ["fn=(1) main", "0 3", "cfn=(2) add", "calls=1 0", "0 9", "0 1", "fn=(2)", "0 9"]
    >>> by_function(lines)
    Counter({'add': 9, 'main': 4})
    """
    names: dict[str, str] = {}
    found: Counter[str] = Counter()
    function, is_of_call = "", False
    for line in lines:
        if named := re.match(r"(c?)fn=(\(\d+\)) ?(.*)", line):
            called, number, name = named.groups()
            if name:
                names[number] = name
            if not called:
                function = names[number]
        elif line.startswith("calls="):
            is_of_call = True
        elif cost := re.fullmatch(r"[+*-]?\d* (\d+)", line):
            if not is_of_call:
                found[function] += int(cost[1])
            is_of_call = False
    return found


def print_table(what: str, ops: int, found: dict[str, Counter[str]], functions: int) -> None:
    bare = found["bare"]
    more = {name: counts.total() - bare.total() for name, counts in found.items()}
    print(f"\n{what}: instructions per op on top of its own {bare.total() / ops:,.0f}, {ops:,} ops")
    for name, count in more.items():
        if name != "bare":
            print(f"  {name:<38}{count / ops:10,.0f}{count / more['empty callback']:9.2f}x")
    for name in ("everything", "everything, aggregated"):
        by_name = found[name].copy()
        by_name.subtract(bare)
        print(f"  of {name}, by function")
        for function, count in by_name.most_common(functions):
            print(f"  {count / ops:10,.1f}  {function[:110]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
