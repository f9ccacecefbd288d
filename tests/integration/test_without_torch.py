"""Saved traces, read where PyTorch is not installed: everything prints what it prints beside PyTorch."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from corpus import traces
from environments import without_torch
from handwritten import loop_trace

import torchprof
from torchprof.trace.type_names import DeviceTypes, Dtypes

EVERYTHING = Path(__file__).parents[1] / "everything.py"


def run(python: Path | str, *arguments: object, beside_torch: bool) -> str:
    """What is printed of saved traces."""
    more = {"PYTHONPATH": str(Path(torchprof.__file__).parents[1]), "BESIDE_TORCH": "1"} if beside_torch else {}
    command = [str(python), str(EVERYTHING), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **more})
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().endswith("PyTorch was imported" if beside_torch else "PyTorch was not imported")
    return done.stdout


def test_everything_prints_the_same_where_pytorch_is_not_installed(tmp_path: Path) -> None:
    files = []
    recorded = traces()
    recorded["of_an_unknown_pytorch"] = replace(recorded["training"], dtypes=Dtypes(), device_types=DeviceTypes())
    for name, trace in recorded.items():
        files.append(tmp_path / f"{name}.torchprof")
        trace.save(files[-1])
    with_torch = run(sys.executable, tmp_path, *files, beside_torch=True)
    without = run(without_torch(), tmp_path, *files, beside_torch=False)
    assert without == with_torch
    assert "aten::convolution" in without
    assert "dtype 6" in without, "a dtype that has no name"


def test_what_needs_pytorch_says_so(tmp_path: Path) -> None:
    script = (
        "import torchprof\ntry:\n    torchprof.profile\nexcept ImportError as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run([without_torch(), "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ExtensionError torchprof.profile needs PyTorch, which is not installed here")


def test_the_command_line_reads_a_trace(tmp_path: Path) -> None:
    loop_trace().save(tmp_path / "loop")
    command = [without_torch(), "-m", "torchprof", "show", tmp_path / "loop", "--by", "op"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{torchprof.by_op(loop_trace())}\n"


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
