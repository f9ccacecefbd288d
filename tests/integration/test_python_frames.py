"""The frames of every Python that is installed here, read without PyTorch."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from compiled import CSRC, SANITIZERS, shared_library

HERE = Path(__file__).parents[1]
VERSIONS = ["3.11", "3.12", "3.13", "3.14"]
SOURCES = [CSRC / "record" / "stacks.cpp", CSRC / "record" / "python" / "code_object.cpp"]


def python_of(version: str) -> tuple[str, str] | None:
    """An interpreter of this version and its headers: the one that runs, or one of pyenv."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable, sysconfig.get_paths()["include"]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for place in sorted(pyenv.glob(f"{version}.*")):
        if (place / "include" / f"python{version}" / "Python.h").exists():
            return str(place / "bin" / "python"), str(place / "include" / f"python{version}")
    return None


@pytest.mark.parametrize("version", VERSIONS)
def test_stacks_are_what_python_says(version: str) -> None:
    python = python_of(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    interpreter, headers = python
    library = shared_library("python_frames.cpp", *SANITIZERS, f"-isystem{headers}", sources=SOURCES)
    command = [interpreter, "-P", "-X", "faulthandler", str(HERE / "stacks_without_torch.py"), str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
