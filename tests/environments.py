"""Environments of their own that tests need, made once and kept in build/."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def without_torch() -> Path:
    """A Python that has what torchprof depends on, PyTorch aside, and the files of torchprof on its path."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [requirement for requirement in project["dependencies"] if not requirement.startswith("torch")]
    needed += project["optional-dependencies"]["report"]
    place = ROOT / "build" / "without-torch" / f"{sys.version_info.major}.{sys.version_info.minor}"
    python, stamp = place / "bin" / "python", place / "installed"
    if not stamp.exists() or stamp.read_text().splitlines() != needed:
        venv.create(place, clear=True)
        # The pip that is here installs into that environment: it needs none of its own. A sanitizer is not to watch it.
        plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, *needed], env=plain, check=True)
        site_packages = next(place.glob("lib/*/site-packages"))
        (site_packages / "torchprof.pth").write_text(f"{ROOT}\n")
        stamp.write_text("\n".join(needed))
    return python
