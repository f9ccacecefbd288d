"""Every example runs: those of the README and of each page of docs/, and those in docstrings of public names.

The blocks of a page run in order and share their names; of ``sh`` blocks, the lines that call ``torchprof``. A ``text`` block
is what the block before it prints, but for times, shares and rates; ``...`` in it stands for anything. HTML comments hold what
a reader need not see::

    <!-- invisible-code-block: python      <!-- skip: next if(not torch.cuda.is_available(), reason="needs a GPU") -->
    x = torch.randn(4, 3)
    -->

What is skipped must compile all the same. A page whose convolutions allocate what the CPU at hand makes of them says
``BYTES_VARY = True`` in a hidden block: then bytes are not compared either. On one that says ``STDERR = True``, what examples
print on standard error counts too.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import itertools
import re
import shlex
import subprocess
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prepared
import pytest
import torch
from masking import masked
from sybil import Document, Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser

import torchprof
from torchprof.cli.main import main

ROOT = Path(__file__).parents[2]
BYTES = re.compile(r"\d[\d,.]* (?:B|[KMGT]iB)\b")
NEEDS_GPU = re.compile(r'"cuda"|torch\.cuda\.')
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With one thread: small ops are faster, and which module takes longest is no matter of luck."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def parse(page: Path, *parsers: Any) -> Document:
    document = Sybil(parsers=parsers).parse(page)
    document.namespace.update(prepared.names())
    return document


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_examples_of_a_page_compile(page: Path) -> None:
    def compiles(example: Example) -> None:
        compile(example.parsed, f"{name_of(page)}:{example.line}", "exec")

    for example in parse(page, CodeBlockParser("python", compiles)):
        example.evaluate()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_examples_of_a_page_run_and_print_what_it_says(page: Path) -> None:
    printed = ""
    run = PythonEvaluator()

    def runs(example: Example) -> None:
        nonlocal printed
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.ExitStack() as stack:
            if example.namespace.get("STDERR"):
                stack.enter_context(contextlib.redirect_stderr(output))
            run(example)
        printed = output.getvalue()

    def runs_in_a_shell(example: Example) -> None:
        nonlocal printed
        with contextlib.redirect_stdout(io.StringIO()) as output:
            for line in example.parsed.splitlines():
                shell(shlex.split(line, comments=True))
        printed = output.getvalue()

    def prints(example: Example) -> None:
        said, found = example.parsed, printed
        if example.namespace.get("BYTES_VARY"):
            said, found = BYTES.sub("*", said), BYTES.sub("*", found)
        assert shows(said, found), f"{name_of(page)}:{example.line} says other than what is printed:\n{printed}"

    blocks = {"python": runs, "sh": runs_in_a_shell, "text": prints}
    for example in parse(page, *(CodeBlockParser(language, evaluate) for language, evaluate in blocks.items()), SkipParser()):
        with contextlib.suppress(unittest.SkipTest):
            example.evaluate()


def shell(command: list[str]) -> None:
    """Run a line of a shell, if it is one of torchprof's own. What sets up a machine is only looked at."""
    if command[:2] == ["torchprof", "run"]:  # which becomes the program
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
        print(done.stdout + done.stderr, end="")
        assert done.returncode == 0, done.stderr
    elif command[:1] == ["torchprof"]:
        assert main(list(itertools.takewhile(lambda word: word not in ("|", ">", ">>"), command[1:]))) == 0
    elif command[:2] == ["python3", "dev.py"]:
        assert f'command == "{command[2]}"' in (ROOT / "dev.py").read_text(encoding="utf-8")


def shows(said: str, printed: str) -> bool:
    """Whether a text is what was printed, where ``...`` stands for any line, or for any part of one."""
    lines = [
        r"(?:.*\n)*?" if line.strip(" │├└─") == "..." else re.escape(line).replace(r"\.\.\.", ".*") + "\n"
        for line in masked(said).splitlines()
    ]
    return re.fullmatch("".join(lines), masked(printed) + "\n") is not None


class AnyOutputWhereNoneIsSaid(doctest.OutputChecker):
    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


def doctests() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder()
    found = [
        test
        for name in torchprof.__all__
        for test in finder.find(getattr(torchprof, name), f"torchprof.{name}", module=False)
        if test.examples
    ]
    return list({test.docstring: test for test in found}.values())


@pytest.mark.parametrize("test", doctests(), ids=lambda test: test.name)
def test_the_examples_of_a_docstring_run(test: doctest.DocTest) -> None:
    for example in test.examples:
        compile(example.source, test.name, "exec")
        example.options[doctest.SKIP] = bool(NEEDS_GPU.search(example.source)) and not prepared.HAS_GPU
    prepared.trained().save("step.torchprof")  # which some load
    prepared.save_ranks("run/")
    on_gpu = test.name.endswith((".gpu", ".by_kernel"))
    test.globs = prepared.names_of_gpu_docstrings() if on_gpu else prepared.names_of_docstrings()
    report = io.StringIO()
    runner = doctest.DocTestRunner(AnyOutputWhereNoneIsSaid(), verbose=False, optionflags=doctest.ELLIPSIS)
    failed = runner.run(test, out=report.write, clear_globs=False).failed
    assert not failed, report.getvalue()
