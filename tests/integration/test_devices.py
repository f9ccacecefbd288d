"""What holds on a device, on one that does not exist: tests/device.

They run in a process of their own: a device is there to the end of the process, PyTorch takes it for its accelerator, and what
other tests then saw of the CPU, or of a GPU, would not be what users see.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DEVICE = Path(__file__).resolve().parents[1] / "device"


def test_everything_holds_on_a_device() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", str(DEVICE)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
