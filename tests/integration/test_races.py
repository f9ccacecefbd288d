"""ThreadSanitizer on what threads share: logs that are written while recordings begin, add up their steps, and end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from compiled import CSRC, SANITIZERS, program

SANITIZED = ["-fsanitize=thread", "-Wno-tsan"]  # GCC warns of fences, which ThreadSanitizer does not see


def has_thread_sanitizer() -> bool:
    found = subprocess.run(["g++", "-print-file-name=libtsan.so"], capture_output=True, text=True).stdout.strip()
    return Path(found).is_absolute()


@pytest.mark.skipif(bool(SANITIZERS), reason="it is a program of its own")
@pytest.mark.skipif(sys.platform != "linux", reason="setarch(8) is used")
def test_no_thread_reads_what_another_writes_and_no_op_is_lost() -> None:
    if not has_thread_sanitizer():
        pytest.skip("this compiler has no ThreadSanitizer")
    sources = [
        CSRC / "record" / "thread_slot.cpp",
        CSRC / "session" / "step_sums.cpp",
        *sorted((CSRC / "collate").glob("*.cpp")),
    ]
    threads = program("threads.cpp", *SANITIZED, sources=sources)
    # Its memory must lie where the sanitizer expects it, which it may not where the system moves mappings far apart.
    command = ["setarch", "-R", str(threads), "3"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TSAN_OPTIONS": "halt_on_error=1"})
    assert done.returncode == 0, done.stdout + done.stderr
    recordings = int(done.stdout.split()[0])
    assert recordings >= 1
