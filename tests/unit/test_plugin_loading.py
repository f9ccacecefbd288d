"""The plugin where nobody asks for it: it costs nothing and imports no PyTorch, and pytest finds it by its entry point."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pytest_runs import ENTRY_POINT, MODULE, loaded

from torchprof.integrations.pytest_plugin import plugin

ROOT = Path(__file__).parents[2]
PLAIN = """
import sys
def test_plain():
    loaded = {"torch", "numpy", "rich", "torchprof._C"} & sys.modules.keys()
    assert "PLUGIN" in sys.modules
    assert not loaded, loaded
""".replace("PLUGIN", MODULE)


def pytest_apart(
    folder: Path, source: str, *arguments: str, before: str = "", load: tuple[str, ...] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run pytest in a process of its own, in which nothing is imported.

    Args:
        before: what Python runs before.
        load: the arguments that load the plugin.
    """
    (folder / "test_it.py").write_text(source)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers -p no:cacheprovider\n")
    script = f"{before}\nimport pytest, sys\nsys.exit(pytest.main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, *(loaded() if load is None else load), "-q", "-p", "no:benchmark", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PATH": ""})


def test_pytest_finds_it_by_its_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"][ENTRY_POINT] == MODULE == plugin.__name__
    assert project["optional-dependencies"]["pytest"] == ["pytest>=8", "pytest-benchmark>=5"]


def installed(folder: Path) -> str:
    """A folder that makes Python see torchprof with the entry points of this source tree, as if it were installed."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    information = folder / "site" / "torchprof_recorder_again-1.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: torchprof-recorder-again\nVersion: 1\n")
    (information / "entry_points.txt").write_text(
        "[pytest11]\n" + "".join(f"{name} = {value}\n" for name, value in points.items() if name == ENTRY_POINT)
    )
    return str(information.parent)


def test_an_installed_plugin_is_loaded_and_can_be_left_out(tmp_path: Path) -> None:
    source = "import pytest\n@pytest.mark.limit(peek=1)\ndef test_limited(): pass"
    site = f"import sys; sys.path.insert(0, {installed(tmp_path)!r})"
    done = pytest_apart(tmp_path, source, before=site, load=())
    assert "there is no figure 'peek'" in done.stdout
    done = pytest_apart(tmp_path, source, "-p", f"no:{ENTRY_POINT}", before=site, load=())
    assert "'limit' not found in `markers` configuration option" in done.stdout
    assert "torchprof" not in done.stdout


def test_where_nobody_asks_for_it_nothing_is_imported(tmp_path: Path) -> None:
    done = pytest_apart(tmp_path, PLAIN)
    assert done.returncode == 0, done.stdout
    assert "torchprof" not in done.stdout


def test_reading_limits_imports_no_pytorch(tmp_path: Path) -> None:
    skipped = (
        "import pytest, sys\n@pytest.mark.limit(peak='1 GiB')\n@pytest.mark.skip\ndef test_skipped(): pass\n"
        "def test_after(): assert 'torch' not in sys.modules"
    )
    done = pytest_apart(tmp_path, skipped)
    assert done.returncode == 0, done.stdout


def test_without_pytorch_it_loads_and_says_so_of_limits(tmp_path: Path) -> None:
    source = "import pytest\ndef test_plain(): pass\n@pytest.mark.limit(ops=5)\ndef test_limited(): pass"
    done = pytest_apart(tmp_path, source, before="import sys; sys.modules['torch'] = None")
    assert "1 failed, 1 passed" in done.stdout
    assert "ops: it cannot be told that the limit of 5 is kept: PyTorch is not installed here: pip install torch" in done.stdout


def test_without_pytorch_figures_are_not_known_and_tests_pass(tmp_path: Path) -> None:
    done = pytest_apart(tmp_path, "def test_plain(): pass", "--torchprof", before="import sys; sys.modules['torch'] = None")
    assert done.returncode == 0, done.stdout
    assert "not recorded (1 test): PyTorch is not installed here: pip install torch" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--torchprof-update-baseline"], "--torchprof-update-baseline needs the file: give --torchprof-baseline FILE too"),
        (["--torchprof-tolerance", "1%"], "--torchprof-tolerance is of a baseline"),
        (["--torchprof-baseline", "b", "--torchprof-tolerance", "1"], "'1' cannot be read: write it like '2%' or 'peak=2%'"),
        (["--torchprof-baseline", "b", "--torchprof-tolerance", "time=1%"], "has no figure 'time': use one of peak, saved"),
        (["--torchprof-baseline", "test_it.py"], "test_it.py cannot be read"),
        (["--torchprof-save", "test_it.py"], "is a file: name a folder"),
    ],
)
def test_options_that_do_not_fit_are_told_at_once(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = pytest_apart(tmp_path, PLAIN, *arguments)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert said in done.stderr
    assert "Traceback" not in done.stderr
