"""Whether a wheel is whole: its files, its metadata, and what it does once it is installed.

python tests/wheels.py build/wheels/torchprof_recorder-...whl  # makes an environment of its own beside the wheel
"""

from __future__ import annotations

import email
import fnmatch
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MADE = ("_C.*.so", "_built_for.py")
"""Files that building makes, whose names are these patterns."""

INSTALLED = """
import sys, torch, torchprof
from importlib.metadata import entry_points
from pathlib import Path

assert sys.prefix in torchprof.__file__, torchprof.__file__
for name in torchprof.__all__:
    getattr(torchprof, name)
for group in ("console_scripts", "pytest11"):
    for found in entry_points(group=group):
        if found.value.startswith("torchprof"):
            found.load()
model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())
print(torchprof.summary(model, (8,)))
with torchprof.profile(model) as prof:
    model(torch.ones(2, 8)).sum().backward()
torchprof.report(prof.trace, sys.argv[1])
assert "<html" in Path(sys.argv[1]).read_text()[:1000]
"""
MARKED = """
import pytest

@pytest.mark.limit(peak="2 GiB")
def test_that_is_limited():
    pass

def test_that_is_timed(gpu_benchmark):
    gpu_benchmark(lambda: None)
    assert gpu_benchmark.result.figures.rounds == 3
"""


def project(root: Path = ROOT) -> dict[str, Any]:
    """The table ``[project]`` of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return table


def files_of_the_package(root: Path = ROOT) -> set[str]:
    """What a wheel must have, beside what building makes: every file of torchprof/."""
    found = (path for path in (root / "torchprof").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(root).as_posix() for path in found if not _is_made(path.name)}


def _is_made(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in MADE)


def problems(wheel: Path, root: Path = ROOT) -> list[str]:
    """What is wrong with the files and the metadata of a wheel, a sentence each."""
    with zipfile.ZipFile(wheel) as archive:
        content = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    return [*_problems_of_files(set(content), root), *_problems_of_metadata(content, wheel.name, root)]


def _problems_of_files(names: set[str], root: Path) -> Iterator[str]:
    wanted = files_of_the_package(root)
    made = {name for name in names if name.startswith("torchprof/") and name.count("/") == 1 and _is_made(name[10:])}
    for pattern in MADE:
        if not fnmatch.filter(made, f"torchprof/{pattern}"):
            yield f"torchprof/{pattern} is missing: it was not built"
    yield from (f"{name} is missing" for name in sorted(wanted - names))
    own = {name for name in names if not name.partition("/")[0].endswith(".dist-info")}
    yield from (f"{name} does not belong there" for name in sorted(own - wanted - made))


def _problems_of_metadata(content: dict[str, bytes], name: str, root: Path) -> Iterator[str]:
    (folder,) = {each.partition("/")[0] for each in content if each.partition("/")[0].endswith(".dist-info")}
    metadata = email.message_from_bytes(content[f"{folder}/METADATA"])
    declared = project(root)
    built_for = re.search(r'"([\d.]+)', content.get("torchprof/_built_for.py", b"").decode())
    torch = built_for.group(1) if built_for else "unknown"
    needed = {each for each in metadata.get_all("Requires-Dist", []) if "extra ==" not in each}
    wanted = {f"torch=={torch}", *(each for each in declared["dependencies"] if not each.startswith("torch"))}
    if needed != wanted:
        yield f"it requires {sorted(needed)}, not {sorted(wanted)}"
    if not str(metadata["Version"]).endswith(f"+torch{torch}"):
        yield f"its version {metadata['Version']} does not end with +torch{torch}, which it is built for"
    extras, of_project = set(metadata.get_all("Provides-Extra", [])), set(declared["optional-dependencies"])
    if extras != of_project:
        yield f"its extras are {sorted(extras)}, not {sorted(of_project)}"
    parser = ConfigParser(delimiters="=")
    parser.read_string(content.get(f"{folder}/entry_points.txt", b"").decode())
    found = {group: dict(parser[group]) for group in parser.sections()}
    points = {"console_scripts": declared["scripts"], **declared.get("entry-points", {})}
    if found != points:
        yield f"its entry points are {found}, not {points}"
    if re.search(r"-cp3\d+-cp3\d+-", name) is None:
        yield f"{name} does not say which Python it is for"


def install(wheel: Path, place: Path) -> Path:
    """Install a wheel, with what it requires, its report and its pytest plugin, into a new environment; the Python of that."""
    venv.create(place, clear=True, with_pip=False)
    python = place / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, f"{wheel}[report,pytest]"], check=True)
    return python


def use(python: Path, folder: Path) -> list[str]:
    """What does not work of a torchprof that is installed for this Python, with what it said."""
    marked = folder / "test_marked.py"
    marked.write_text(MARKED)
    by_entry_point = "pytest11" in project().get("entry-points", {})
    plugin = ["--strict-markers"] if by_entry_point else ["-p", "torchprof.integrations.gpu_benchmark", "-k", "timed"]
    commands = {
        "torchprof --help": [python.parent / "torchprof", "--help"],
        "import, summary, report": [python, "-I", "-c", INSTALLED, folder / "report.html"],
        "pytest": [python, "-I", "-m", "pytest", "-q", *plugin, marked],
    }
    found = []
    for name, command in commands.items():
        done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True)
        if done.returncode:
            found.append(f"{name} failed:\n{done.stdout}{done.stderr}")
    return found


def main(wheel: Path) -> int:
    found = problems(wheel)
    if not found:
        with tempfile.TemporaryDirectory() as folder:
            found = use(install(wheel, wheel.parent / f"{wheel.stem}-installed"), Path(folder))
    print(*(found or [f"{wheel.name} is whole, and works where it is installed"]), sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
