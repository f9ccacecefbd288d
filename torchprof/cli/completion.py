"""``torchprof completion SHELL``: what makes a shell complete subcommands, options, columns and functions."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from typing import Any, Final

from torchprof.cli.arguments import subcommand
from torchprof.cli.output import write
from torchprof.errors import MissingPackageError

__all__ = ["add_parser", "run"]

SHELLS: Final = ("bash", "zsh", "fish")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the arguments of ``completion``."""
    parser = subcommand(
        subparsers,
        "completion SHELL",
        "Print what makes a shell complete these commands; needs argcomplete.",
        "completion bash >> ~/.bashrc",
        "completion zsh >> ~/.zshrc",
        "completion fish > ~/.config/fish/completions/torchprof.fish",
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    return parser


def run(options: argparse.Namespace) -> None:
    """Print it."""
    if find_spec("argcomplete") is None:
        raise MissingPackageError('completion needs argcomplete: pip install "torchprof-recorder[completion]", or argcomplete')
    from argcomplete.shell_integration import shellcode

    write(f"{shellcode(['torchprof'], shell=options.shell)}\n")
