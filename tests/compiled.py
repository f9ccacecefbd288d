"""C++ that tests need, compiled once and kept in build/ until its sources change."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
CSRC = HERE.parent / "csrc"

_LOADED = os.environ.get("LD_PRELOAD", "")
SANITIZERS = (
    ["-fsanitize=address,undefined", "-fno-sanitize=vptr"]
    if "libasan" in _LOADED
    else ["-fsanitize=thread"]
    if "libtsan" in _LOADED
    else []
)
"""Options for code that ``dev.py sanitize`` is to check as well: it loads the sanitizers before everything else."""


def shared_library(source: str, *options: str, sources: Iterable[Path] = (), made_for: str | None = None) -> Path:
    """The shared library made of ``tests/native/<source>`` and ``sources``, which may include headers of csrc/.

    It is made again where these change; or with ``made_for``, a source that includes none of them, where that changes.
    """
    return _made(".so", ["-shared", "-fPIC", *options], source, sources, made_for)


def program(source: str, *options: str, sources: Iterable[Path] = ()) -> Path:
    """The same as a program, which is run as it is."""
    return _made("", [f"-I{HERE / 'native' / 'stand_ins'}", *options], source, sources, None)


def _made(suffix: str, options: list[str], source: str, sources: Iterable[Path], made_for: str | None) -> Path:
    paths = [HERE / "native" / source, *sources]
    headers = sorted(CSRC.rglob("*.h")) if made_for is None else []
    content = [*(path.read_bytes() for path in (*paths, *headers)), f"{made_for} {options}".encode()]
    digest = hashlib.sha256(b"".join(content)).hexdigest()[:16]
    library = HERE.parent / "build" / "tests" / f"{paths[0].stem}-{digest}{suffix}"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        made = library.with_suffix(f".{os.getpid()}")
        command = ["g++", "-std=c++20", "-O1", "-g1", "-pthread", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([*command, f"-I{CSRC}", *map(str, paths), "-o", str(made), *options], check=True)
        made.rename(library)
    return library


def python_module(source: str, *options: str, sources: Iterable[Path] = (), made_for: str = "") -> ModuleType:
    """The Python module ``<source without .cpp>`` that is compiled with pybind11, as `shared_library`."""
    import pybind11

    includes = [pybind11.get_include(), sysconfig.get_paths()["include"]]
    options = ("-fvisibility=hidden", *(f"-isystem{path}" for path in includes), *options)
    library = shared_library(source, *options, sources=sources, made_for=f"{made_for} {sys.version}" if made_for else None)
    spec = importlib.util.spec_from_file_location(Path(source).stem, library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
