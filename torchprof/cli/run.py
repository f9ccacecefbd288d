"""``torchprof run SCRIPT ARGS``: records a program as it is."""

from __future__ import annotations

import argparse
import math
import os
import re
from pathlib import Path
from typing import Any, Final

from torchprof.cli.arguments import UsageError
from torchprof.cli.values import budget
from torchprof.errors import ArgumentError
from torchprof.running.launch import free_name, start_command, start_python
from torchprof.running.options import FIRST_STEPS, RunOptions
from torchprof.wording import shown

__all__ = ["add_parser", "run"]

USAGE: Final = """torchprof run [OPTIONS] SCRIPT [ARGS ...]
       torchprof run [OPTIONS] -m MODULE [ARGS ...]
       torchprof run [OPTIONS] -- torchrun ... SCRIPT [ARGS ...]"""
ABOUT: Final = f"""Record a script as it is.

It runs as `python SCRIPT ARGS` does. Its models and steps are found, and at its end some lines on standard error say what
was recorded. Options of torchprof come before SCRIPT; what comes after it is the program's.

A step ends when the optimizer has stepped or, in a program that has none, when a call of the model ends. The first
{FIRST_STEPS} steps are recorded, if --steps says nothing else; the program then goes on unrecorded."""
EXAMPLES: Final = """examples:
  torchprof run train.py --epochs 3
  torchprof run --steps 10:20 -o step.torchprof train.py
  torchprof run -m package.train --lr 0.1
  torchprof run -- torchrun --nproc-per-node 2 train.py      each rank writes a file: train.rank0.torchprof, ..."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the arguments of ``run``."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "run",
        usage=USAGE,
        description=ABOUT,
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add("-o", "--output", metavar="FILE", help="the file, which is replaced (default: SCRIPT.torchprof, or SCRIPT-2, ...)")
    add(
        "--steps",
        metavar="FIRST:LAST",
        help="steps to record, counted from 0, without the last, as slices of Python: 3:8 are 3 to 7, 5 the first five, 3: all "
        f"from 3 on, : all (default: {FIRST_STEPS}; with --aggregate all). Step 0, which includes what runs once, is left "
        "out of tables as warm-up, if at least two others are recorded",
    )
    add(
        "--steps-by",
        metavar="WHAT",
        default="auto",
        help="what a step is: optimizer, a step of all optimizers; forward, a call of the model; batches, of DataLoaders; "
        "range:NAME, a torch.profiler.record_function(NAME) (default: optimizer or, where there is none, forward)",
    )
    add("--seconds", metavar="S", type=float, help="end the recording with the first step that ends S seconds after it began")
    add("--aggregate", action="store_true", help="keep sums over steps, not single ops: for long recordings")
    flag = argparse.BooleanOptionalAction
    add("--memory", action=flag, default=True, help="record every allocation")
    add("--stacks", action=flag, default=True, help="record which line of Python each op is of")
    add(
        "--budget",
        metavar="SIZE",
        type=budget,
        default=2**30,
        help="what the recording may take, such as 64MiB or '1 GiB'; a number alone is of MiB (default: 1 GiB)",
    )
    add("--quiet", action="store_true", help="say nothing at the end")
    add("-m", dest="module", metavar="MODULE", nargs=argparse.REMAINDER, help="run a module, as python -m does")
    add("program", metavar="SCRIPT", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def run(options: argparse.Namespace) -> None:
    """Become the program.

    Raises:
        UsageError: there is no such program, or an option has a value that is not accepted.
        OSError: the file cannot be written there.
    """
    try:
        _start(options)
    except ArgumentError as error:  # all of it is about how this was called
        raise UsageError(str(error)) from None


def _start(options: argparse.Namespace) -> None:
    program: list[str] = options.program
    if options.module is not None:
        if not options.module:
            raise UsageError("-m needs the name of a module, such as in `torchprof run -m package.train`")
        start_python(["-m", *options.module], _options(options, options.module[0]))
    if program[:1] == ["--"] and len(program) > 1:
        scripts = (
            each for each in program[1:] if each.endswith(".py") and (os.path.exists(each) or not re.search(r"\s", each))
        )
        script = next(scripts, program[1])
        start_command(program[1:], _options(options, Path(script).stem))
    if not program or program == ["--"]:
        raise UsageError("which program? `torchprof run SCRIPT`, `torchprof run -m MODULE` or `torchprof run -- COMMAND`")
    if program[0] != "-" and not os.path.exists(program[0]):
        raise UsageError(f"there is no script {shown(program[0])}: options of torchprof come before it, its own after it")
    start_python(program, _options(options, Path(program[0]).stem if program[0] != "-" else "stdin"))


def _options(given: argparse.Namespace, name: str) -> RunOptions:
    file = given.output if given.output is not None else free_name(name or "program")
    path = Path(os.path.abspath(file))
    if path.is_dir():
        raise UsageError(f"-o {file} is a folder: name a file in it")
    if not path.parent.is_dir():
        raise UsageError(f"-o {file}: there is no folder {path.parent}: make it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(13, "Permission denied: name another place, as in -o /tmp/train.torchprof", str(file))
    if given.seconds is not None and not 0 < given.seconds < math.inf:
        raise UsageError(f"--seconds takes a number above 0, not {given.seconds:g}")
    by = given.steps_by
    if by not in ("auto", "optimizer", "forward", "batches") and not (by.startswith("range:") and len(by) > len("range:")):
        raise UsageError(f"--steps-by takes optimizer, forward, batches or range:NAME, not {shown(by)}")
    first, last = _steps(given.steps) if given.steps is not None else (0, None if _is_long(given) else FIRST_STEPS)
    return RunOptions(
        output=str(path),
        shown=file,
        steps_by=by,
        first=first,
        last=last,
        seconds=given.seconds,
        aggregate=given.aggregate,
        memory=given.memory,
        stacks=given.stacks,
        budget=given.budget,
        quiet=given.quiet,
    )


def _is_long(given: argparse.Namespace) -> bool:
    return given.aggregate or given.seconds is not None


def _steps(text: str) -> tuple[int, int | None]:
    """``3:8`` and the like.

    Raises:
        UsageError: it is none of these, or there is no step between its ends.
    """
    first, colon, last = text.strip().rpartition(":")
    if all(part.isdecimal() or (not part and colon) for part in ((first or "0"), last)):
        found = int(first or 0), int(last) if last else None
        if found[1] is None or found[0] < found[1]:
            return found
    raise UsageError(f"--steps takes FIRST:LAST, such as 3:8 for steps 3 to 7, or how many, such as 5; not {shown(text)}")
