"""What setup.py refuses to leave behind: an extension with a libstdc++ of its own, which would crash beside PyTorch's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
BESIDE = Path(torch.__file__).parent / "lib" / "libc10.so"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("g++") or not shutil.which("readelf"), reason="needs g++ and readelf"
)


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Path], None]:
    def no_setup(**options: Any) -> None:
        pass

    monkeypatch.setattr("setuptools.setup", no_setup)
    monkeypatch.chdir(ROOT)
    found: Callable[[Path, Path], None] = run_path("setup.py")["check_libstdcxx"]
    return found


def linked(folder: Path, *options: str) -> Path:
    source, made = folder / "streams.cpp", folder / "streams.so"
    source.write_text('#include <iostream>\nextern "C" void say() { std::cout << 1; }\n')
    subprocess.run(["g++", "-shared", "-fPIC", str(source), "-o", str(made), *options], check=True)
    return made


def test_an_extension_that_shares_libstdcxx_stays(check: Callable[[Path, Path], None], tmp_path: Path) -> None:
    extension = linked(tmp_path)
    check(extension, BESIDE)
    assert extension.exists()


def test_one_with_a_libstdcxx_of_its_own_is_removed_and_the_compiler_is_named(
    check: Callable[[Path, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/opt/odd/g++")
    extension = linked(tmp_path, "-static-libstdc++")
    with pytest.raises(SystemExit, match=r"^CXX=/opt/odd/g\+\+ linked a copy of libstdc\+\+ into torchprof's extension"):
        check(extension, BESIDE)
    assert not extension.exists()


def test_where_it_cannot_be_told_nothing_is_refused(
    check: Callable[[Path, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_library = tmp_path / "text.so"
    no_library.write_text("no ELF")
    check(no_library, BESIDE)
    extension = linked(tmp_path, "-static-libstdc++")
    check(extension, no_library)
    monkeypatch.setenv("PATH", "")
    check(extension, BESIDE)
    assert extension.exists()
