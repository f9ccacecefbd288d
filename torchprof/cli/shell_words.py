"""What functions of torchprof say of their arguments, in the words of the command line: ``capacity='T5'`` is ``--gpu 'T5'``.

A message names arguments as Python writes them. Here each of these is the option that it came from; what a recording was told
(``aggregate=True``) is the option of ``torchprof run``; and a function that a message recommends is its subcommand.
"""

from __future__ import annotations

import argparse
import re
from typing import Final, NamedTuple

__all__ = ["ShellWords"]

ALIASES: Final = {
    "annotate": {"count": "--head"},
    "estimate": {
        "capacity": "--gpu",
        "inputs": "--input",
        "input_size": "--input",
        "input_data": "--input",
        "batch_size": "--batch",
    },
    "export": {"path": "-o"},
    "plan": {"cache": "--no-cache"},
    "report": {"path": "-o"},
    "show": {"count": "--head"},
    "summary": {"input_size": "--input", "input_data": "--input", "batch_size": "--batch"},
}
"""Arguments of functions that have other names than the options that they come from, by subcommand."""
FUNCTIONS: Final = {
    **{f"by_{each}": f"torchprof show --by {each}" for each in ("module", "op", "line", "function", "step", "kernel")},
    **{f"export_{each}": f"torchprof export --to {each}" for each in ("chrome", "speedscope", "folded")},
    **{
        each: f"torchprof {each}"
        for each in ("annotate", "memory", "gpu", "findings", "report", "diff", "summary", "estimate", "plan")
    },
    "explain_oom": "torchprof explain-oom",
    "load": "torchprof show",
    "profile": "torchprof run",
    "schedule": "torchprof run --steps",
}
"""What does in a shell what a function does in Python."""
ALWAYS_RECORDED: Final = ("ops", "shapes", "modules")
"""By ``torchprof run``, which has no options for these."""
FILE: Final = "FILE"
QUOTED: Final = r"""(?P<quoted>(?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"))"""
FUNCTION: Final = r"torchprof\.(?P<function>[a-z_]+)\b(?:\((?P<given>[^()]*)\))?"
RECORDED: Final = r"(?P<how>record(?:ed)? with(?:out)? )(?P<told>[a-z_]+)=(?P<flag>True|False)\b"
NAMED: Final = r"(?<![\w.])(?P<name>[a-z_]+)=(?P<value>True\b|False\b|(?=[\s,;:).]|$)(?!\.\.\.))?"
WORDS: Final = re.compile("|".join((QUOTED, FUNCTION, RECORDED, NAMED)))
FIRST: Final = re.compile(r"(?P<name>[a-z_]+)(?:=|(?P<must> must ))")


class ShellWords(NamedTuple):
    """The words of a subcommand.

    Attributes:
        options: the option, or the place, of each of its arguments, by the name that it has in Python.
        flags: how those are written that are there or not: where they are, and where they are not.
        recording: the flags of ``torchprof run``.
    """

    options: dict[str, str]
    flags: dict[str, tuple[str, str]]
    recording: dict[str, tuple[str, str]]

    @classmethod
    def of(cls, parser: argparse.ArgumentParser, run: argparse.ArgumentParser) -> ShellWords:
        """Those of a parser.

        Args:
            run: the parser of ``torchprof run``.
        """
        options = {action.dest: _written(action) for action in parser._actions}
        return cls({**options, **ALIASES.get(parser.prog.rpartition(" ")[2], {})}, _flags(parser), _flags(run))

    def say(self, text: str) -> str:
        """A message in these words. What is quoted in it stays as it is."""
        first = FIRST.match(text)
        if first is not None and first["must"] and first["name"] in self.options:
            text = f"{self.options[first['name']]} must {text[first.end() :]}"
        return WORDS.sub(self._word, text)

    def begins_with_an_option(self, text: str) -> bool:
        """Whether a message begins with an argument that was given: what is wrong is that, and not what the file holds."""
        found = FIRST.match(text)
        return found is not None and self.options.get(found["name"], FILE) != FILE

    def _word(self, found: re.Match[str]) -> str:
        if found["function"] is not None:
            return self._subcommand(found["function"], found["given"] or "") or found[0]
        if (told := found["told"]) is not None:
            if told in ALWAYS_RECORDED and found["flag"] == "True":
                return f"{found['how']}{told}, as torchprof run does"
            return f"{found['how']}{_flag(self.recording[told], found['flag'])}" if told in self.recording else found[0]
        if found["name"] is None or found["name"] not in self.options:
            return found[0]
        if found["value"] and found["name"] in self.flags:
            return _flag(self.flags[found["name"]], found["value"])
        option = self.options[found["name"]]
        return option if found["value"] == "" else f"{option} {found['value'] or ''}"

    def _subcommand(self, function: str, given: str) -> str:
        """What does the same in a shell; empty where nothing does."""
        told = FUNCTIONS.get(function, "")
        if function == "profile":
            named = (each.partition("=") for each in given.split(", "))
            told += "".join(f" {_flag(self.recording[name], value)}" for name, _, value in named if name in self.recording)
        return told


def _flags(parser: argparse.ArgumentParser) -> dict[str, tuple[str, str]]:
    return {action.dest: (_written(action), _negated(action)) for action in parser._actions if action.nargs == 0}


def _flag(written: tuple[str, str], value: str) -> str:
    return written[value != "True"]


def _written(action: argparse.Action) -> str:
    """As it is written in a command line; or the name that the usage has for its place."""
    if not action.option_strings:
        return str(action.metavar or action.dest)
    return next((each for each in action.option_strings if each.startswith("--")), action.option_strings[0])


def _negated(action: argparse.Action) -> str:
    return next((each for each in action.option_strings if each.startswith("--no-")), f"no {_written(action)}")
