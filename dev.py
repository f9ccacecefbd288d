"""Everything a developer does, on a bare clone: needs Python, pip and a C++ compiler, and installs the rest into .venv.

    python3 dev.py demo             summarize the tutorial's network and a real transformer
    python3 dev.py test [ARGS]      ruff, mypy and the tests; ARGS go to pytest
    python3 dev.py bench [ARGS]     the benchmarks, side by side with their peers
    python3 dev.py sanitize [ARGS]  the integration tests on a build with AddressSanitizer and UndefinedBehaviorSanitizer

Each is repeatable: what is installed or built already is left alone until its sources change.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
PYTHON = VENV / "bin" / "python"
SANITIZED = HERE / "build" / "sanitized"


def main(arguments: list[str]) -> int:
    command, *rest = arguments or ["help"]
    if command == "demo":
        prepare()
        return run(PYTHON, "examples/demo.py")
    if command == "test":
        prepare()
        return (
            run(PYTHON, "-m", "ruff", "check", ".")
            or run(PYTHON, "-m", "mypy")
            or run(PYTHON, "-m", "pytest", "-q", *(rest or ["tests", "benchmarks"]))
        )
    if command == "bench":
        prepare()
        return run(PYTHON, "-m", "pytest", "-q", "--benchmark-enable", *(rest or ["benchmarks"]))
    if command == "sanitize":
        prepare()
        return sanitize(rest)
    print(__doc__)
    return 0 if command in ("help", "-h", "--help") else 2


def prepare() -> None:
    """A virtual environment with the requirements in it, and torchprof built there in editable mode."""
    if not PYTHON.exists():
        venv.create(VENV, with_pip=True)
    pip = (PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    once("requirements", [HERE / "requirements-dev.txt"], *pip, "-r", "requirements-dev.txt")
    once("build", sources(), *pip, "--no-build-isolation", "--no-deps", "--editable", ".")


def sources() -> list[Path]:
    return [*sorted(HERE.glob("csrc/*")), HERE / "setup.py", HERE / "pyproject.toml", HERE / "requirements-dev.txt"]


def once(name: str, inputs: Iterable[Path], *command: str | Path, **environment: str) -> None:
    """Run a command unless it has succeeded before with the same inputs, in this place and with this Python."""
    digest = hashlib.sha256(f"{HERE} {sys.version} {sysconfig.get_platform()}".encode())
    for path in inputs:
        digest.update(path.name.encode() + path.read_bytes())
    stamp = VENV / f"{name}.stamp"
    if stamp.exists() and stamp.read_text() == digest.hexdigest():
        return
    print(f"dev.py: {name} ...", flush=True)
    if code := run(*command, **environment):
        sys.exit(code)
    stamp.write_text(digest.hexdigest())


def run(*command: str | Path, **environment: str) -> int:
    path = os.pathsep.join([str(VENV / "bin"), os.environ.get("PATH", os.defpath)])
    return subprocess.run(list(map(str, command)), cwd=HERE, env={**os.environ, "PATH": path, **environment}).returncode


def sanitize(arguments: list[str]) -> int:
    objects = HERE / "build" / "sanitized-objects"
    build = (PYTHON, "setup.py", "--quiet", "build", "--build-lib", SANITIZED, "--build-temp", objects)
    once("sanitized", [*sources(), *sorted(HERE.glob("torchprof/**/*.py"))], *build, TORCHPROF_SANITIZE="1")
    # libstdc++ as well: the sanitizer looks up what throws exceptions when it is loaded, before Python has brought that in.
    names = [f"-print-file-name={library}.so" for library in ("libasan", "libstdc++")]
    runtime = [subprocess.check_output(["g++", name], text=True).strip() for name in names]
    # -P: the package beside this file must not hide the sanitized one. Leaks are Python's and PyTorch's own.
    return run(
        PYTHON,
        "-P",
        "-m",
        "pytest",
        "-q",
        "--capture=sys",  # what a sanitizer says goes to the real standard error
        *(arguments or ["tests/integration"]),
        PYTHONPATH=str(SANITIZED),
        LD_PRELOAD=" ".join(runtime),
        ASAN_OPTIONS="detect_leaks=0",
        UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
