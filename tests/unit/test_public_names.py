"""The public names of torchprof: imported on first use, and the same ones for people, type checkers and programs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import torchprof

READING = "load by_module by_op by_step by_kernel memory gpu export_chrome export_folded export_speedscope".split()
"""Names that work where PyTorch is not installed."""

NEEDS_TORCH = "profile summary estimate compare max_batch_size ceilings".split()


def python(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_type_checkers_see_the_names_that_programs_see() -> None:
    tree = ast.parse(Path(torchprof.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == torchprof._MODULES


@pytest.mark.parametrize("name", torchprof.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(torchprof, name) is not None
    assert name in dir(torchprof)


def test_an_unknown_name_is_pythons_own_error() -> None:
    with pytest.raises(AttributeError, match="'torchprof' has no attribute 'by_modules'"):
        torchprof.by_modules  # noqa: B018


def test_everything_can_be_imported_at_once() -> None:
    assert python("from torchprof import *; print(profile.__name__, load.__name__)").split() == ["profile", "load"]


def test_without_pytorch_everything_that_works_can_be_imported_at_once() -> None:
    script = """
import sys
sys.modules["torch"] = None
from torchprof import *
print(sorted(name for name in dir() if not name.startswith("_")))
"""
    imported = set(ast.literal_eval(python(script)))
    assert set(READING) <= imported
    assert not set(NEEDS_TORCH) & imported


def test_dir_has_the_public_names_and_no_others() -> None:
    assert [name for name in dir(torchprof) if not name.startswith("__")] == sorted(torchprof.__all__)
    assert {"__version__", "__doc__", "__name__"} <= set(dir(torchprof))


def test_importing_torchprof_imports_neither_pytorch_nor_the_extension() -> None:
    script = "import sys, torchprof; print({'torch', 'numpy', 'rich', 'torchprof._C'} & sys.modules.keys())"
    assert python(script).strip() == "set()"


def test_what_reads_a_trace_imports_no_pytorch() -> None:
    names = ", ".join(f"torchprof.{name}" for name in READING)
    assert python(f"import sys, torchprof; {names}; print('torch' in sys.modules)").strip() == "False"


def error_without_torch(use: str) -> str:
    """What is said by using something where PyTorch is missing."""
    return python(
        f"""
import sys
sys.modules["torch"] = None
import torchprof
try:
    {use}
except ImportError as error:
    print(type(error).__name__, error)
"""
    )


@pytest.mark.parametrize("name", NEEDS_TORCH)
def test_what_needs_pytorch_says_so_where_it_is_missing(name: str) -> None:
    said = error_without_torch(f"torchprof.{name}")
    start = f"ExtensionError torchprof.{name} needs PyTorch, which is not installed here: run `pip install torch`"
    assert said.startswith(start)
    assert all(each in said for each in READING), "what works without it"


def test_the_simulated_allocator_says_that_it_needs_pytorch() -> None:
    said = error_without_torch("torchprof.replay(torchprof.Trace.empty().allocations)")
    assert said.startswith("ExtensionError torchprof's compiled recorder needs PyTorch")


def test_every_module_that_reads_a_trace_can_be_imported_without_pytorch() -> None:
    packages = "trace analysis tables rendering cli errors".split()
    script = f"""
import importlib, pkgutil, sys
sys.modules["torch"] = sys.modules["torchprof._C"] = None
import torchprof
for name in {packages}:
    package = importlib.import_module(f"torchprof.{{name}}")
    for found in pkgutil.walk_packages(getattr(package, "__path__", []), f"{{package.__name__}}."):
        importlib.import_module(found.name)
        print(found.name)
"""
    imported = python(script).split()
    assert len(imported) > 40
    assert "torchprof.analysis.gpu.account" in imported
