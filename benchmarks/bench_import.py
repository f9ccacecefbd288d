"""What importing torchprof costs a program that imports PyTorch anyway, in processes of their own."""

from __future__ import annotations

import subprocess
import sys

from conftest import Peer, SideBySide

MEASURE = """
import time
{before}
begin = time.perf_counter()
{imported}
print((time.perf_counter() - begin) * 1e3)
"""


def in_a_new_process(imported: str, before: str = "") -> Peer:
    """Milliseconds of some imports in a new process, after others."""

    def run() -> float:
        script = MEASURE.format(before=before, imported=imported)
        return float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)

    return run


def test_import(side_by_side: SideBySide) -> None:
    peers: dict[str, Peer] = {
        "import torch": in_a_new_process("import torch"),
        "import torchprof, after torch": in_a_new_process("import torchprof", "import torch"),
        "torchprof.profile, after torch": in_a_new_process("import torchprof; torchprof.profile", "import torch"),
        "torchprof.load and by_module, no torch": in_a_new_process("import torchprof; torchprof.load, torchprof.by_module"),
    }
    side_by_side("imports, in a new process", peers, unit="ms", rounds=10)
