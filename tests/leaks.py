"""What torchprof allocates and does not free, as LeakSanitizer finds it: ``python dev.py sanitize`` runs this at its end.

Python and PyTorch leave a lot behind when a process ends. A leak is torchprof's where its code allocated it: where a frame of
the extension is nearer to the allocation than one of the interpreter.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["leaks_of_torchprof"]

REPORT: Final = re.compile(r"^(?:Direct|Indirect) leak of .*?(?=^\s*$)", re.MULTILINE | re.DOTALL)
FRAME: Final = re.compile(r"^\s+#\d+ 0x[0-9a-f]+ (.*)$", re.MULTILINE)
EXTENSION: Final = re.compile(r"torchprof/_C\.|/csrc/\w+/")
INTERPRETER: Final = re.compile(r"\bin _?Py\w+|/libpython|/bin/python")
RECORDINGS: Final = 100


def leaks_of_torchprof(said: str) -> Iterator[str]:
    """The reports of leaks that are torchprof's, from what LeakSanitizer said."""
    for report in REPORT.findall(said + "\n\n"):
        for frame in FRAME.findall(report):
            if EXTENSION.search(frame):
                yield report
            if EXTENSION.search(frame) or INTERPRETER.search(frame):
                break


def record_again_and_again() -> None:
    """Recordings of all kinds, which leave nothing that is theirs."""
    import random

    from soak_loops import ENDS

    import torchprof

    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(RECORDINGS):
            ENDS[number % len(ENDS)](chance, number)
            with torchprof.profile(aggregate=number % 2 == 0) as prof:
                prof.step()
            path = Path(folder, "a.torchprof")
            prof.trace.save(path)
            torchprof.load(path)


def main() -> int:
    options = "detect_leaks=1:fast_unwind_on_malloc=0:malloc_context_size=40"
    variables = {
        **os.environ,
        "ASAN_OPTIONS": options,
        "LSAN_OPTIONS": "exitcode=0:print_suppressions=0",
        "PYTHONMALLOC": "malloc",
    }
    done = subprocess.run([sys.executable, __file__, "record"], env=variables, stderr=subprocess.PIPE, text=True)
    found = list(leaks_of_torchprof(done.stderr))
    if "LeakSanitizer" not in done.stderr or done.returncode:
        print(done.stderr[-4000:], "leaks.py: LeakSanitizer did not come to its end", sep="\n")
        return 1
    print(*found, f"{len(found)} leaks of torchprof, after {RECORDINGS} recordings", sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main() if len(sys.argv) == 1 else record_again_and_again())
