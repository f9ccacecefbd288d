"""What the user's own modules hold, as ``package.module:name``: imported as ``python -m`` would, and called.

What that raises is the user's: it is printed as Python prints it, without the frames of torchprof around.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from torchprof.cli.arguments import UsageError, completes, did_you_mean
from torchprof.cli.values import assignment
from torchprof.errors import TorchprofError
from torchprof.wording import shown

if TYPE_CHECKING:
    from traceback import TracebackException

    from torch import nn

__all__ = ["UserError", "add_arg", "add_target", "attribute_of", "builder_of", "of_the_user"]

FORM: Final = "give package.module:name or path/to/file.py:name, of a model, a class, or a function that returns one"
NOT_THEIRS: Final = (os.path.join(os.path.dirname(os.path.dirname(__file__)), ""), "<frozen ", importlib.__file__)


class UserError(Exception):
    """The user's own code raised. What is to be said of it is its text, unless that was printed."""


def add_target(parser: argparse.ArgumentParser) -> None:
    """Declare ``MODEL`` and its arguments."""
    target = parser.add_argument(
        "model",
        metavar="MODEL",
        help="package.module:name or file.py:name, of a model, a class, or a function that returns one; imported from here",
    )
    completes(target, lambda prefix, **_: [])
    add_arg(parser, "an argument of the class or function, such as num_classes=10")


def add_arg(parser: argparse.ArgumentParser, what: str) -> None:
    """Declare ``--arg``, and say what it is of."""
    parser.add_argument(
        "--arg",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        type=assignment,
        help=f"{what}; may be repeated",
    )


def builder_of(options: argparse.Namespace) -> Callable[[], nn.Module]:
    """What makes the model that the arguments of `add_target` name, or returns it where it is one already.

    Raises:
        UsageError: there is none of this name, or it is no model.
        UserError: its module raised.
    """
    found = attribute_of("MODEL", options.model)
    given = dict(options.arg)
    from torch import nn

    if isinstance(found, nn.Module):
        if given:
            raise UsageError(f"--arg {next(iter(given))}={shown(given[next(iter(given))])}: {options.model} is a model already")
        return lambda: found
    if not callable(found):
        raise UsageError(f"{options.model} is {_type_of(found)}: {FORM}")

    def build() -> nn.Module:
        model = found(**given)
        if not isinstance(model, nn.Module):
            raise UsageError(f"{options.model} returned {_type_of(model)}: {FORM}")
        return model

    return build


def _type_of(value: object) -> str:
    return f"of type {type(value).__name__}" if value is not None else "None"


def attribute_of(argument: str, text: str) -> Any:
    """What ``package.module:name`` names; ``name`` may have dots.

    Raises:
        UsageError: there is no such module or name.
        UserError: the module raised.
    """
    place, colon, name = text.rpartition(":")
    if not colon or not place or not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"{argument} {text!r} names nothing in a module: {FORM}")
    module = _module(argument, place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            near = did_you_mean(part, [each for each in dir(found) if not each.startswith("_")])
            what = f"has no {part!r}" if found is module else f"has no {name!r}"
            raise UsageError(f"{argument} {text!r}: {place} {what}{near or ': ' + FORM}")
        found = getattr(found, part)
    return found


def _module(argument: str, place: str) -> ModuleType:
    """A module, imported as ``python -m`` would; or that of a file, as from its folder."""
    folder, name = os.getcwd(), place
    if place.endswith(".py"):
        if not os.path.isfile(place):
            raise UsageError(f"{argument}: no such file: {place}")
        folder, name = os.path.dirname(os.path.abspath(place)), os.path.basename(place).removesuffix(".py")
    elif not all(part.isidentifier() for part in place.split(".")):
        raise UsageError(f"{argument} {place!r} is no name of a module: {FORM}")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    sys.argv = [place]  # what the module may read are not our arguments
    with of_the_user(place):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
                raise  # another one, that it imports
            raise UsageError(
                f"{argument}: no module named {error.name!r}: it is looked for in {folder} and where Python is installed"
            ) from None


@contextmanager
def of_the_user(named: str) -> Iterator[None]:
    """What the user's own code raises meanwhile is printed as Python prints it, without the frames of ours around it.

    Args:
        named: as it was given to us.

    Raises:
        UserError: it raised.
    """
    try:
        yield
    except (TorchprofError, UserError):
        raise
    except Exception as error:
        from traceback import TracebackException

        told = TracebackException.from_exception(error)
        _leave_out_ours(told)
        if not told.stack and not isinstance(error, SyntaxError):  # none of their frames: of wrong arguments
            raise UserError(f"{named}: {type(error).__name__}: {error}") from error
        if sys.stderr is not None:
            sys.stderr.write("".join(told.format()).encode(sys.stderr.encoding or "utf-8", "backslashreplace").decode())
        raise UserError from error


def _leave_out_ours(told: TracebackException | None) -> None:
    """Leave out the frames that are ours, or of what imports modules; of causes, too."""
    if told is None:
        return
    from traceback import StackSummary

    theirs = [frame for frame in told.stack if not frame.filename.startswith(NOT_THEIRS)]
    told.stack = StackSummary.from_list(theirs)
    _leave_out_ours(told.__cause__)
    _leave_out_ours(told.__context__)
    for each in told.exceptions or ():
        _leave_out_ours(each)
