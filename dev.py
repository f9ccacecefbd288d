"""Everything a developer does, on a bare clone: needs Python, pip and a C++ compiler, and installs the rest into .venv.

    python3 dev.py demo              summarize the tutorial's network and a real transformer
    python3 dev.py format [--check]  ruff format and clang-format; --check changes nothing and fails where they would
    python3 dev.py lint              ruff, mypy and format --check
    python3 dev.py test [ARGS]       lint and the tests; ARGS go to pytest
    python3 dev.py bench [ARGS]      the benchmarks, side by side with their peers
    python3 dev.py count [FUNCTIONS] instructions per recorded op, and of the FUNCTIONS that take most; needs valgrind
    python3 dev.py sanitize [ARGS]   integration tests on a build with AddressSanitizer and UndefinedBehaviorSanitizer; leaks
    python3 dev.py sanitize --threads [ARGS]
                                     tests of threads on a build with ThreadSanitizer
    python3 dev.py fuzz [SECONDS]    damages files of each kind and looks at what is made of them; a minute if nothing is said
    python3 dev.py soak [MINUTES]    records for minutes what comes and goes, and says what grows; four if nothing is said
    python3 dev.py docs              the documentation, into build/docs; fails on a broken link or reference
    python3 dev.py matrix [PAIR ...] the integration tests with other Pythons and PyTorches, such as 3.12/2.11 3.13/2.14.1
    python3 dev.py wheel [PAIR ...]  wheels for such pairs, or for that of .venv, in build/wheels; each is installed and tried

Each is repeatable: what is installed or built already is left alone until its sources change.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
BUILD = HERE / "build"
INTEGRATION = ["tests/integration"]
SIDE_BY_SIDE = ["--numprocesses=auto", "--dist=loadfile", "--no-loadscope-reorder"]
"""A process of tests per core. The tests of a file stay together, as they share what its fixtures make; the order of files is
that of tests/conftest.py."""
EVERYTHING = [*SIDE_BY_SIDE, "tests", "benchmarks"]
PYTHON_ONLY = """
    estimate* summary_on_meta torchsummary torchinfo working_call mismatch flops_of_ops training_loops what_is_said
    *torch_profiler_files explain_oom snapshot_* joined_memory damaged_files trackers trainers handlers pytest_*
    limits_on_models gpu_benchmark benchmark wrong_usage run_* advice_on_models cli_of_models diff_live error_lines
    findings_of_programs flops flops_of_files gather plan shapes_of_outputs stacks_of_files stragglers_of_ranks sharded_*
    torch_private without_torch
""".split()
"""Integration tests of Python code. Of the extension they use what others do, and sanitized they would take half an hour."""
THREADS = [
    f"tests/integration/test_{name}.py"
    for name in ("every_thread", "step_sums", "recording", "endurance", "interrupted_endings")
]
"""Tests in which several threads are recorded."""

Variables = Mapping[str, str]
NONE: Variables = MappingProxyType({})
DEVELOP: Variables = MappingProxyType({"TORCHPROF_DEVELOP": "1"})
"""Warnings of the compiler are errors: see setup.py."""

PAIR = re.compile(r"\d+\.\d+/\d+\.\d+(\.\d+)?")
SUPPORTED = ["3.11/2.13.0", "3.11/2.14.1", "3.12/2.11.0", "3.12/2.12.1", "3.13/2.14.1"]
"""The pairs of Python and PyTorch that ``dev.py matrix`` tries when it is given none."""


def main(arguments: list[str]) -> int:
    command, *rest = arguments or ["help"]
    if command == "demo":
        prepare()
        return run(python(), "examples/demo.py")
    if command == "format":
        install()
        return format_code(check="--check" in rest)
    if command == "lint":
        prepare()
        return lint()
    if command == "test":
        prepare()
        return lint() or run(python(), "-m", "pytest", "-q", "--durations=20", *(rest or EVERYTHING))
    if command == "bench":
        prepare()
        return run(python(), "-m", "pytest", "-q", "--benchmark-enable", *(rest or ["benchmarks"]))
    if command == "count":
        prepare()
        return run(python(), "benchmarks/count_instructions.py", *rest)
    if command == "sanitize":
        prepare()
        threads = [argument for argument in rest if argument != "--threads"]
        return sanitize(rest) if threads == rest else sanitize_threads(threads)
    if command == "fuzz":
        prepare()
        # Without arguments, the same damage each time: what fails is found again.
        return run(python(), "tests/fuzz.py", *(rest or ["60", "0"]), variables={"PYTHONPATH": str(HERE)})
    if command == "soak":
        prepare()
        return run(python(), "tests/soak.py", *rest, variables={"PYTHONPATH": str(HERE)})
    if command == "docs":
        prepare()
        # Not --quiet, in which no warning is an error. What it would say else is an advertisement for another tool.
        return run(python(), "-m", "mkdocs", "build", "--strict", variables={"NO_MKDOCS_2_WARNING": "1"})
    if command == "matrix":
        return matrix(rest)
    if command == "wheel":
        return wheels(rest)
    print(__doc__)
    return 0 if command in ("help", "-h", "--help") else 2


def prepare() -> None:
    """A virtual environment with the requirements in it, and torchprof built there in editable mode."""
    install()
    once("build", sources(), *pip(), "--no-build-isolation", "--no-deps", "--editable", ".", variables=DEVELOP)


def install() -> None:
    create(VENV, sys.executable)
    once("requirements", requirements(), *pip(), "-r", "requirements-dev.txt")


def create(venv: Path, interpreter: str | Path) -> None:
    if not python(venv).exists():
        subprocess.run([interpreter, "-m", "venv", venv], check=True)


def python(venv: Path = VENV) -> Path:
    return venv / "bin" / "python"


def pip(venv: Path = VENV) -> list[str | Path]:
    return [python(venv), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def requirements() -> list[Path]:
    return sorted(HERE.glob("requirements-*.txt"))


def sources() -> list[Path]:
    """What the extension and the metadata of the package are made of."""
    named = ["setup.py", "pyproject.toml", "torchprof/_version.py"]
    return [*native(), *requirements(), *(HERE / name for name in named)]


def native() -> list[Path]:
    return sorted(path for path in HERE.glob("csrc/**/*") if path.suffix in (".cpp", ".h"))


def once(
    name: str,
    inputs: Iterable[Path],
    *command: str | Path,
    venv: Path = VENV,
    replaces: Path | None = None,
    variables: Variables = NONE,
) -> None:
    """Run a command unless it has succeeded before with the same inputs, in this place and with this Python.

    What it ``replaces`` is removed before: a file that has no source any more must not stay.
    """
    digest = hashlib.sha256(f"{HERE} {sys.version} {sysconfig.get_platform()} {list(map(str, command))}".encode())
    for path in inputs:
        digest.update(str(path.relative_to(HERE)).encode() + path.read_bytes())
    stamp = venv / f"{name}.stamp"
    if stamp.exists() and stamp.read_text() == digest.hexdigest():
        return
    print(f"dev.py: {name} ...", flush=True)
    if replaces:
        shutil.rmtree(replaces, ignore_errors=True)
    if code := run(*command, venv=venv, quiet=True, variables=variables):
        sys.exit(code)
    stamp.write_text(digest.hexdigest())


def run(*command: str | Path, venv: Path = VENV, quiet: bool = False, variables: Variables = NONE) -> int:
    """Exit status of a command. What a ``quiet`` one prints is shown only where it fails."""
    path = os.pathsep.join([str(venv / "bin"), os.environ.get("PATH", os.defpath)])
    environment = {**os.environ, "PATH": path, **variables}
    if not quiet:
        return subprocess.run(command, cwd=HERE, env=environment).returncode
    done = subprocess.run(command, cwd=HERE, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
    return done.returncode


def lint() -> int:
    return run(python(), "-m", "ruff", "check", ".") or format_code(check=True) or run(python(), "-m", "mypy")


def format_code(*, check: bool) -> int:
    cpp = [*native(), *sorted(HERE.glob("tests/native/*.cpp"))]
    how = ["--dry-run", "--Werror"] if check else ["-i"]
    # Both are run, so that one call names all that is to be formatted.
    codes = [run(python(), "-m", "ruff", "format", "--quiet", *(["--check"] if check else []), ".")]
    codes.append(run(VENV / "bin" / "clang-format", *how, *cpp))
    if check and any(codes):
        print("dev.py: some code is not formatted: run `python3 dev.py format`", file=sys.stderr)
    return int(any(codes))


def sanitize(arguments: list[str]) -> int:
    place = BUILD / "sanitized"
    build_apart("sanitized", place, variables={**DEVELOP, "TORCHPROF_SANITIZE": "1"})
    preloaded = {"LD_PRELOAD": runtimes("libasan"), "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1"}
    code = pytest_apart(
        place,
        "--capture=sys",  # what a sanitizer says goes to the real standard error
        "--durations=20",
        *(arguments or [*SIDE_BY_SIDE, *INTEGRATION, *(f"--ignore-glob=*/test_{name}.py" for name in PYTHON_ONLY)]),
        variables={**preloaded, "ASAN_OPTIONS": "detect_leaks=0"},  # which are Python's and PyTorch's own, if not in leaks.py
    )
    if arguments or code:
        return code
    found = os.pathsep.join([str(place), str(HERE / "tests")])
    # It asks LeakSanitizer about a process of its own, and is not asked itself what the interpreter leaves behind.
    quiet = {"PYTHONPATH": found, "PYTHONSAFEPATH": "1", "ASAN_OPTIONS": "detect_leaks=0"}
    return run(python(), "tests/leaks.py", variables={**preloaded, **quiet})


def sanitize_threads(arguments: list[str]) -> int:
    place = BUILD / "threads"
    build_apart("threads", place, variables={**DEVELOP, "TORCHPROF_SANITIZE": "thread"})
    return pytest_apart(
        place,
        "--capture=sys",
        *(arguments or THREADS),
        # Its memory must lie where the sanitizer expects it, which it may not where the system moves mappings far apart.
        before=("setarch", "-R"),
        variables={
            "LD_PRELOAD": runtimes("libtsan"),
            "TSAN_OPTIONS": f"suppressions={HERE / 'tests' / 'races.supp'}:second_deadlock_stack=1",
        },
    )


def runtimes(sanitizer: str) -> str:
    """What is loaded before everything else.

    libstdc++ as well: the sanitizer looks up what throws exceptions when it is loaded, before Python has brought that in.
    """
    names = [f"-print-file-name={library}.so" for library in (sanitizer, "libstdc++")]
    return " ".join(subprocess.check_output(["g++", name], text=True).strip() for name in names)


def matrix(arguments: list[str]) -> int:
    pairs = [argument for argument in arguments if PAIR.fullmatch(argument)] or SUPPORTED
    tests = [argument for argument in arguments if not PAIR.fullmatch(argument)] or INTEGRATION
    interpreters = [interpreter(pair.partition("/")[0]) for pair in pairs]
    table = [f"{'pair':<12}{'passed':>8}{'failed':>8}{'skipped':>8}{'time':>8}"]
    codes = []
    for number, (pair, found) in enumerate(zip(pairs, interpreters, strict=True), 1):
        print(f"dev.py: {pair}, {number} of {len(pairs)}", flush=True)
        start = time.monotonic()
        code, counts = check_pair(pair, found, tests)
        table.append(f"{pair:<12}{counts}{time.monotonic() - start:>6.0f} s")
        codes.append(code)
    print("", *table, sep="\n")
    return int(any(codes))


def check_pair(pair: str, found: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Exit status of the tests with one Python and one PyTorch, and how many passed, failed and were skipped."""
    venv = venv_of(pair)
    results = venv / "results.xml"
    results.unlink(missing_ok=True)
    try:
        install_pair(pair, found)
        build_apart("built", venv / "built", venv=venv)
    except SystemExit as stopped:
        return 1, f"{'could not be built':>24} ({stopped.code})"
    # CI: hypothesis draws the same examples for every pair, so that what differs is the pair's.
    code = pytest_apart(venv / "built", f"--junit-xml={results}", *tests, venv=venv, variables={"CI": "true"})
    if not results.exists():
        return code or 1, f"{'did not finish':>24}"
    counts = ElementTree.parse(results).getroot()[0].attrib
    failed = int(counts["failures"]) + int(counts["errors"])
    skipped = int(counts["skipped"])
    return code, f"{int(counts['tests']) - failed - skipped:>8}{failed:>8}{skipped:>8}"


def venv_of(pair: str) -> Path:
    of_python, _, version = pair.partition("/")
    return BUILD / "matrix" / f"{of_python}-{version if version.count('.') == 2 else f'{version}.0'}"


def install_pair(pair: str, found: Path) -> None:
    """An environment with this Python, this PyTorch, and what the tests need."""
    venv = venv_of(pair)
    create(venv, found)
    # A PyTorch of the package index brings CUDA: several GB.
    command = [*pip(venv), f"torch=={venv.name.partition('-')[2]}", "-r", "requirements-test.txt"]
    once("requirements", [HERE / "requirements-test.txt"], *command, venv=venv)


def wheels(pairs: list[str]) -> int:
    """Build a wheel for each pair, and look at it: see tests/wheels.py."""
    if wrong := [pair for pair in pairs if not PAIR.fullmatch(pair)]:
        sys.exit(f"dev.py: {wrong[0]!r} is no pair of a Python and a PyTorch, such as 3.12/2.11.0")
    interpreters = [interpreter(pair.partition("/")[0]) for pair in pairs]
    if not pairs:
        install()
        return wheel(VENV)
    codes = []
    for pair, found in zip(pairs, interpreters, strict=True):
        install_pair(pair, found)
        codes.append(wheel(venv_of(pair)))
    return int(any(codes))


def wheel(venv: Path) -> int:
    """Build a wheel for the Python and the PyTorch of an environment; one that is whole goes to build/wheels."""
    place = venv / "wheel"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    # Objects of an earlier build serve again.
    build = ("build", "--build-lib", place / "lib", "--build-temp", venv / "built-objects")
    command = (python(venv), "setup.py", "--quiet", "egg_info", "--egg-base", place, *build, "bdist_wheel", "--dist-dir", place)
    print(f"dev.py: wheel for {venv.name} ...", flush=True)
    if code := run(*command, venv=venv, quiet=True, variables={"TORCHPROF_WHEEL": "1"}):
        return code
    (made,) = place.glob("*.whl")
    if code := run(python(venv), "tests/wheels.py", made, venv=venv):
        return code
    kept = BUILD / "wheels" / made.name
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(made, kept)
    print(kept)
    return 0


def interpreter(version: str) -> Path:
    """A Python of this version: the one on PATH, or else one that pyenv has installed."""
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    on_path = shutil.which(name)
    for found in [*([Path(on_path)] if on_path else []), *sorted(pyenv.glob(f"{version}*/bin/{name}"))]:
        # pyenv puts on PATH a command for every version it has; only those of the chosen versions run.
        if subprocess.run([found, "--version"], capture_output=True).returncode == 0:
            return found
    sys.exit(f"dev.py: there is no {name} on PATH or in {pyenv}")


def build_apart(name: str, place: Path, *, venv: Path = VENV, variables: Variables = NONE) -> None:
    """Build torchprof into a directory of its own. Objects of an earlier build serve again where their sources are the same."""
    build = (python(venv), "setup.py", "--quiet", "build", "--build-lib", place, "--build-temp", f"{place}-objects")
    python_files = sorted([*HERE.glob("torchprof/**/*.py"), *HERE.glob("torchprof/**/*.pyi")])
    once(name, [*sources(), *python_files], *build, venv=venv, replaces=place, variables=variables)


def pytest_apart(
    place: Path, *arguments: str, venv: Path = VENV, before: Sequence[str] = (), variables: Variables = NONE
) -> int:
    """Run tests on what ``build_apart`` built: in no process may the package beside this file hide that one."""
    variables = {"PYTHONPATH": str(place), "PYTHONSAFEPATH": "1", **variables}
    return run(*before, python(venv), "-m", "pytest", "-q", *arguments, venv=venv, variables=variables)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
