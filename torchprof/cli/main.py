"""``torchprof SUBCOMMAND FILE ...``: reads the arguments, runs the subcommand, and says in one line what went wrong.

A subcommand is a module of this package with two functions: ``add_parser`` declares its arguments, ``run`` does the work and
may return an exit code. argparse reads them: it has subcommands in files of their own, needs nothing to be installed, and is
imported in some milliseconds, where click and typer take as long as all else that ``show`` does; what it does not do, pages,
bars and completion, is done by a pager, rich and argcomplete.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from types import ModuleType
from typing import Any, Final

from torchprof._version import __version__
from torchprof.cli import (
    annotate,
    completion,
    diff,
    estimate,
    explain_oom,
    export,
    findings,
    gpu,
    info,
    memory,
    plan,
    report,
    run,
    show,
    stragglers,
    summary,
)
from torchprof.cli.arguments import WRONG_ARGUMENTS, Parser, UsageError, did_you_mean
from torchprof.cli.files import quoted
from torchprof.cli.shell_words import ShellWords
from torchprof.cli.targets import UserError
from torchprof.errors import ArgumentError, TorchprofError
from torchprof.terminal import printable

__all__ = ["main"]

GROUPS: Final = {
    "record a program": (run,),
    "see what a recording holds": (show, annotate, memory, gpu, findings, stragglers, explain_oom, info),
    "compare two": (diff,),
    "make a file of it": (report, export),
    "look at a model": (summary, estimate, plan),
    "set up": (completion,),
}
"""The subcommands, as ``--help`` lists them."""
FAILED: Final = 1
INTERRUPTED: Final = 130
"""As shells say of what SIGINT ended."""
EXAMPLES: Final = """examples:
  torchprof run train.py --epochs 3
  torchprof show step.torchprof --by op --head 20
  torchprof memory step.torchprof
  torchprof findings trace.json.gz
  torchprof report step.torchprof --open
  torchprof summary package.module:Net --input-size 4,3,224,224

FILE is what torchprof run, Trace.save() or torch.profiler wrote or, for memory, explain-oom, info, report and diff, a
memory snapshot of CUDA.
torchprof SUBCOMMAND --help says more."""
OF_WRITING: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
COMPLETING: Final = "_ARGCOMPLETE"
"""Set in the environment where a shell asks what it can complete."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 where it failed, 2 where the arguments are wrong.

    Raises:
        SystemExit: with 2 where the arguments are wrong, with 0 after ``--help`` and ``--version``.
    """
    options, code = argparse.Namespace(), None
    program, places = sys.argv, list(sys.path)  # which are those of a model while it is made
    try:
        made = parser()
        if COMPLETING in os.environ:
            _complete(made)
        given = list(sys.argv[1:] if arguments is None else arguments)
        _check_subcommand(made, given)
        options, unknown = made.parse_known_args(given)
        if unknown:
            options.parser.error(f"unknown argument {unknown[0]!r}{did_you_mean(unknown[0], options.parser.options())}")
        code = options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _print_no_more()
        return code or 0
    except SystemExit:  # also of --help
        _print_no_more()
        raise
    except (TorchprofError, OSError) as error:
        _print_no_more()
        _fail(options, error)
        return int(getattr(options, "failed", FAILED))
    except UserError as error:
        if str(error):  # otherwise it was printed
            _complain(str(error))
        return int(getattr(options, "failed", FAILED))
    except MemoryError:
        _complain("the memory of this machine is not enough for that")
        return int(getattr(options, "failed", FAILED))
    except KeyboardInterrupt:
        _print_no_more()
        return INTERRUPTED
    finally:
        sys.argv, sys.path[:] = program, places
    return code or 0


def _fail(options: argparse.Namespace, error: Exception) -> None:
    """Say what went wrong, in the words of the shell.

    Raises:
        SystemExit: the arguments are wrong.
    """
    text = _text_of(error)
    if isinstance(error, TorchprofError) and hasattr(options, "parser"):
        words = options.words()
        if isinstance(error, UsageError):  # which is in these words
            options.parser.error(text)
        if isinstance(error, ArgumentError) and words.begins_with_an_option(text):
            options.parser.error(words.say(text))
        text = words.say(text)
    _complain(text)


def _text_of(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, TorchprofError) and error.strerror:
        where = os.fsdecode(error.filename) if error.filename else "standard output" if error.errno in OF_WRITING else ""
        return f"{where}: {error.strerror}" if where else error.strerror
    return str(error)


def _complain(text: str) -> None:
    if sys.stderr is not None:
        with suppress(OSError):
            print(f"torchprof: {printable(text)}", file=sys.stderr)


def _print_no_more() -> None:
    """What was not written to standard output is not tried again at exit, where Python would complain."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complete(made: argparse.ArgumentParser) -> None:
    """Say what a shell can complete, and exit."""
    try:
        import argcomplete
    except ImportError:
        sys.exit(FAILED)
    argcomplete.autocomplete(made, always_complete_options=False)


def parser() -> Parser:
    """The parser of all subcommands."""
    made = Parser(
        prog="torchprof",
        usage="torchprof SUBCOMMAND ...",
        description="See a PyTorch program: its layers, where its time goes, what holds its memory.",
    )
    made.add_argument("--version", action="version", version=f"torchprof {__version__}")
    subparsers = made.add_subparsers(prog="torchprof", metavar="SUBCOMMAND", required=True, help=argparse.SUPPRESS)
    lines: list[str] = []
    for title, modules in GROUPS.items():
        lines += [f"{title}:"]
        for module in modules:
            added = module.add_parser(subparsers)
            added.set_defaults(run=module.run, parser=added, words=partial(_words, subparsers, added))
            lines += [f"  {_name_of(module):<12} {(added.description or '').partition(chr(10))[0]}"]
        lines += [""]
    made.epilog = "\n".join([*lines, EXAMPLES])
    return made


def _words(subparsers: Any, added: argparse.ArgumentParser) -> ShellWords:
    return ShellWords.of(added, subparsers.choices["run"])


def _name_of(module: ModuleType) -> str:
    """The name of the subcommand in this module."""
    return module.__name__.rpartition(".")[2].replace("_", "-")


def _check_subcommand(made: Parser, given: Sequence[str]) -> None:
    """Say which subcommand was meant where the first argument is none."""
    names = [_name_of(module) for modules in GROUPS.values() for module in modules]
    if not given:
        made.print_help(sys.stderr)
        sys.exit(WRONG_ARGUMENTS)
    if given[0].startswith("-") or given[0] in names:
        return
    file = f": to see a table of this file, torchprof show {quoted(given[0])}" if os.path.exists(given[0]) else ""
    made.error(f"{given[0]!r} is no subcommand{file or did_you_mean(given[0], names)}")
