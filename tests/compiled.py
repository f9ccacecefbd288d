"""C++ that tests need, compiled once and kept in build/ until its sources change."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def shared_library(source: str) -> Path:
    """The shared library made of ``tests/native/<source>``, which may include headers of csrc/."""
    path = HERE / "native" / source
    texts = [path.read_bytes(), *(header.read_bytes() for header in sorted((HERE.parent / "csrc").glob("*.h")))]
    digest = hashlib.sha256(b"".join(texts)).hexdigest()[:16]
    library = HERE.parent / "build" / "tests" / f"{path.stem}-{digest}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        made = library.with_suffix(".new")
        command = ["g++", "-std=c++20", "-O1", "-g1", "-shared", "-fPIC", "-Wall", "-Wextra", str(path), "-o", str(made)]
        subprocess.run([*command, "-pthread"], check=True)
        made.rename(library)
    return library
