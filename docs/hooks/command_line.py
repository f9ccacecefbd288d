"""The options of the command line, made from its parser when the documentation is built.

``<!-- options of show -->`` becomes a table of the arguments and options of ``torchprof show``.
"""

from __future__ import annotations

import argparse
import re
from typing import Any

from torchprof.cli.main import parser

PLACE = re.compile(r"^<!-- options of (.+?) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs with the text of each page."""
    return PLACE.sub(lambda place: options_of(place[1]), markdown)


def subcommands() -> dict[str, argparse.ArgumentParser]:
    """The parser of every subcommand, by its name."""
    of_all = next(action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(of_all.choices)


def options_of(name: str) -> str:
    """Its usage, and its arguments and options as a table."""
    found = subcommands()[name]
    rows = [f"| {written(action)} | {meaning(found, action)} |" for action in found._actions if is_shown(action)]
    return "\n".join([f"```text\n{found.usage}\n```", "", "| | |", "| --- | --- |", *rows])


def written(action: argparse.Action) -> str:
    """How it is written: `--head N`."""
    value = action.metavar or ("" if action.nargs == 0 or action.choices else action.dest.upper())
    if not action.option_strings:
        return f"`{value}`"
    return ", ".join(f"`{option}{f' {value}' if value else ''}`" for option in action.option_strings)


def is_shown(action: argparse.Action) -> bool:
    return action.dest != "help" and action.help != argparse.SUPPRESS


def meaning(of: argparse.ArgumentParser, action: argparse.Action) -> str:
    """What it does, and which values there are."""
    text = of._get_formatter()._expand_help(action).replace("|", r"\|").replace("<", "&lt;").replace("[", r"\[")
    return f"{text}: {', '.join(f'`{each}`' for each in action.choices)}" if action.choices and action.option_strings else text
