"""C++ that tests need, compiled once and kept in build/ until its sources change."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
CSRC = HERE.parent / "csrc"


def shared_library(source: str, *options: str, made_for: str | None = None) -> Path:
    """The shared library made of ``tests/native/<source>``, which may include headers of csrc/.

    It is made again where these change; or with ``made_for``, a source that includes none of them, where that changes.
    """
    path = HERE / "native" / source
    headers = sorted(CSRC.rglob("*.h"))
    about = [header.read_bytes() for header in headers] if made_for is None else [made_for.encode()]
    digest = hashlib.sha256(b"".join([path.read_bytes(), *about])).hexdigest()[:16]
    library = HERE.parent / "build" / "tests" / f"{path.stem}-{digest}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        made = library.with_suffix(f".{os.getpid()}")
        command = ["g++", "-std=c++20", "-O1", "-g1", "-shared", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Werror", f"-I{CSRC}"]
        subprocess.run([*command, str(path), "-o", str(made), *options], check=True)
        made.rename(library)
    return library
