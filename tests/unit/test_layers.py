"""The layers of torchprof: which package may import which. Read from the source of every module; nothing is imported."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest

PACKAGE: Final = Path(__file__).parents[2] / "torchprof"


class Room(NamedTuple):
    """A package of torchprof, or a module at its top.

    Attributes:
        purpose: what it is for.
        imports: the other rooms that it may import, also inside functions and for types only.
        torch: whether it may import PyTorch. The others work where PyTorch is not installed.
    """

    purpose: str
    imports: str = ""
    torch: bool = False


ROOMS: Final[dict[str, Room]] = {
    # The lowest first: a room imports only rooms that are listed before it.
    "wording": Room("How messages write numbers with their nouns, and values that they name."),
    "terminal": Room("Whether a stream is a terminal, how wide it is, and what may be written to it."),
    "errors": Room("The exceptions that torchprof raises.", "terminal"),
    "sizes": Room("Sizes of memory, as people write them."),
    "paths": Room("Files at paths: opened to be read, and written as a whole or not at all.", "errors wording"),
    "_version": Room("The version of torchprof."),
    "arguments": Room("Checks of arguments that several functions share.", "errors"),
    "_C": Room("The compiled extension."),
    "_built_for": Room("The PyTorch that the extension was built for."),
    "_native": Room("The gate to the extension: nothing else imports it.", "_C _built_for errors", torch=True),
    "_torch_private": Room("Finds private names of PyTorch, or says which feature misses one.", "errors", torch=True),
    "trace": Room("What one recording knows, as numpy tables, and its file format.", "paths errors _version terminal wording"),
    "flops": Room("FLOPs of ops by formula.", "errors trace wording"),
    "analysis": Room("Computes figures from a trace.", "errors trace flops wording"),
    "importers": Room("Reads what other tools recorded into a trace.", "paths errors terminal arguments trace flops wording"),
    "record": Room(
        "Runs a recording and makes the trace.",
        "errors terminal arguments trace flops analysis _native _torch_private wording sizes",
        torch=True,
    ),
    "allocator": Room(
        "The simulated CUDA allocator: settings, replay; what memory snapshots say.",
        "paths errors arguments trace importers analysis _native wording sizes",
        torch=True,
    ),
    "exporters": Room(
        "Writes a trace as a file of another tool.", "paths errors _version terminal arguments trace analysis wording"
    ),
    "rendering": Room("Lays out tables and figures as text and HTML.", "errors arguments terminal trace analysis wording"),
    "tables": Room(
        "Figures as tables, with one set of columns.",
        "paths errors arguments trace importers allocator analysis rendering wording",
    ),
    "advice": Room("Says what could be better in a program.", "errors analysis flops rendering tables trace wording"),
    "reporting": Room(
        "Writes what a trace says as one HTML file, and as numbers by name.",
        "paths errors _version terminal arguments trace allocator analysis rendering tables advice wording",
    ),
    "gathering": Room("Brings the traces of all ranks to one of them.", "errors trace analysis _native wording", torch=True),
    "estimation": Room(
        "What a program would need on a GPU, without one.",
        "paths errors _version terminal arguments trace _native _torch_private record allocator analysis rendering tables "
        "wording",
        torch=True,
    ),
    "comparison": Room(
        "What is different between two traces, estimates, summaries or accounts of memory.",
        "paths errors trace importers analysis rendering tables estimation wording",
    ),
    "benchmarking": Room(
        "How long calls take that nothing records, and what recorded ones did.",
        "errors arguments trace _native record analysis rendering tables wording",
        torch=True,
    ),
    "raised": Room(
        "Adds to an exception of a model where it was raised, and the table up to there.",
        "errors terminal trace record analysis tables",
        torch=True,
    ),
    "summarize": Room(
        "Runs a model once and shows what it consists of.",
        "errors arguments terminal trace _native record analysis rendering tables estimation raised",
        torch=True,
    ),
    "torchsummary": Room("The functions of the torchsummary package.", "rendering summarize", torch=True),
    "torchinfo": Room(
        "The function of the torchinfo package.", "errors arguments record analysis tables summarize", torch=True
    ),
    "running": Room(
        "What `torchprof run` does inside the program that it records.",
        "errors terminal trace wording importers record analysis rendering tables advice _native",
        torch=True,
    ),
    "ranges": Room("Shows modules as ranges in other profilers.", "errors wording trace _torch_private record", torch=True),
    "watching": Room(
        "Records a few steps of a long job every so often.",
        "errors arguments trace wording analysis record tables running",
        torch=True,
    ),
    "handlers": Room(
        "What to do with the trace of every cycle.", "paths errors wording trace analysis exporters reporting record running"
    ),
    "__init__": Room(
        "The public names.",
        "errors _version trace importers record allocator analysis exporters rendering tables advice comparison reporting "
        "summarize estimation ranges watching handlers benchmarking gathering _native",
    ),
    "integrations": Room(
        "Where people already work: pytest, trainers and trackers, over the public names.",
        "paths errors arguments trace wording _torch_private analysis record rendering tables comparison running handlers "
        "benchmarking _native __init__",
        torch=True,
    ),
    "cli": Room(
        "The subcommands, over the public names.",
        "paths errors _version terminal trace importers allocator rendering tables running wording sizes __init__",
        torch=True,
    ),
    "__main__": Room("Runs the command line.", "cli"),
}


class Import(NamedTuple):
    """One import statement.

    Attributes:
        module: the module that it stands in, without ``torchprof.``: ``analysis.memory.peak``.
        imported: the module that it imports, named likewise if it is one of torchprof.
        own: whether it imports a module of torchprof.
        at_import: whether it runs when the module is imported: it stands in no function and is not for types only.
    """

    module: str
    imported: str
    own: bool
    at_import: bool


@cache
def modules() -> dict[str, Path]:
    """Every module of torchprof and its file, without ``torchprof.``; and the two that are made by building."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return {**found, "_C": PACKAGE / "_C.pyi", "_built_for": PACKAGE / "_built_for.py"}


@cache
def imports() -> list[Import]:
    """Every import in torchprof."""
    found = []
    for module, path in modules().items():
        if path.suffix == ".py" and path.exists():
            for node, at_import in _statements(ast.parse(path.read_text()), at_import=True):
                found += [_import(module, name, at_import) for name in _imported_names(node)]
    return found


def _statements(node: ast.AST, *, at_import: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Every statement, and whether it runs when the module is imported."""
    for child in ast.iter_child_nodes(node):
        for_types = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
        runs = at_import and not for_types and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield child, runs
        yield from _statements(child, at_import=runs)


def _imported_names(node: ast.AST) -> list[str]:
    """The modules that a statement imports; for ``from package import name`` the name may be a module or not."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert not node.level, "imports are absolute"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def _import(module: str, name: str, at_import: bool) -> Import:
    if name.partition(".")[0] != "torchprof":
        return Import(module, name, False, at_import)
    imported = name.partition(".")[2]
    while imported and imported not in modules():  # an attribute of a module
        imported = imported.rpartition(".")[0]
    return Import(module, imported or "__init__", True, at_import)


def room_of(module: str) -> str:
    return module.partition(".")[0]


def test_the_order_names_every_room_after_those_it_imports() -> None:
    below: set[str] = set()
    for name, room in ROOMS.items():
        assert set(room.imports.split()) <= below, f"{name} imports a room that is not listed before it"
        below.add(name)
    assert {room_of(module) for module in modules()} <= below


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_imports_only_rooms_below_it(name: str) -> None:
    allowed = {name, *ROOMS[name].imports.split()}
    wrong = {
        f"{each.module} imports {each.imported}"
        for each in imports()
        if each.own and room_of(each.module) == name and room_of(each.imported) not in allowed
    }
    assert not wrong


@pytest.mark.parametrize("name", [name for name, room in ROOMS.items() if not room.torch])
def test_a_room_without_torch_never_imports_it(name: str) -> None:
    wrong = {
        f"{each.module} imports {each.imported}"
        for each in imports()
        if not each.own and room_of(each.module) == name and each.imported.partition(".")[0] == "torch"
    }
    assert not wrong


def test_modules_do_not_import_each_other_in_a_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for each in imports():
        if each.own and each.at_import and each.imported != each.module:
            graph.setdefault(each.module, set()).add(each.imported)
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules
