"""The hook of a Python function sees every call of it, with every Python that has headers here: it needs no PyTorch."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from compiled import CSRC, shared_library

SOURCES = [CSRC / "record" / name for name in ("function_hook.cpp", "evaluator_switch.cpp")]

PROGRAM = """
import gc, importlib.util, sys, threading

spec = importlib.util.spec_from_file_location("function_hook", sys.argv[1])
native = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)


class Base:
    def _wrapped(self, *args, **kwargs):
        return self.forward(*args, **kwargs)

    __call__ = _wrapped


class Adds(Base):
    def forward(self, x, y=1):
        return x + y


class Own(Base):
    def __call__(self, x):
        return super().__call__(x)

    def forward(self, x):
        return x


def program(times):
    adds, own = Adds(), Own()
    stored = adds.__call__
    for _ in range(times):  # often enough for the interpreter to specialize each call
        assert adds(1) == stored(1) == adds.__call__(1) == Base.__call__(adds, 1) == Adds.__call__(adds, 0, y=2) == 2
        assert Base._wrapped(adds, *[1], **{"y": 2}) == 3
        assert list(map(stored, [1])) == [2]
        assert own(5) == 5


SWITCH = gc.is_tracked  # stands for what Dynamo calls
program(100)
for _ in range(3):
    kind, function = type(Base._wrapped), Base._wrapped
    assert native.hook(function, SWITCH)
    program(100)
    thread = threading.Thread(target=program, args=(10,))
    thread.start()
    thread.join()
    SWITCH(1)
    program(1)
    gc.collect()
    assert native.unhook() == (111 * 8, 1)
    assert Base._wrapped is function and type(function) is kind
    program(10)
assert not native.hook(len, SWITCH)
assert native.unhook() == (0, 0)
"""


def python_with_headers(version: str) -> tuple[Path, Path] | None:
    """A Python of this version that runs here, on PATH or of pyenv, and its headers."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    on_path = shutil.which(f"python{version}")
    for found in [*([Path(on_path)] if on_path else []), *sorted(pyenv.glob(f"{version}*/bin/python{version}"))]:
        command = [found, "-c", "import sysconfig; print(sysconfig.get_paths()['include'])"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0 and (headers := Path(done.stdout.strip()) / "Python.h").exists():
            return found, headers.parent
    return None


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_every_call_of_a_hooked_function_is_seen_and_nothing_is_left(version: str) -> None:
    found = python_with_headers(version)
    if found is None:
        pytest.skip(f"there is no Python {version} with headers here")
    python, headers = found
    library = shared_library("function_hook.cpp", f"-isystem{headers}", "-fvisibility=hidden", sources=SOURCES)
    done = subprocess.run([python, "-c", PROGRAM, library], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
