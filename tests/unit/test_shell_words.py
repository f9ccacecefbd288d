"""What functions say of their arguments is said in a shell in the words of the shell; and what a file lacks exits with 1."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path

import pytest
from handwritten import gpu_trace, loop_trace
from kineto_files import document, op
from stacked import training

import torchprof
from torchprof.cli.main import main, parser
from torchprof.cli.shell_words import ShellWords

PYTHON = re.compile(r"torchprof\.[a-z_]+|(?<![\w-])(?!record_shapes|with_stack|profile_memory|schedule|max_entries)[a-z_]+=")
"""Words of Python's; torch.profiler and torch.cuda.memory have no others."""


def words(subcommand: str) -> ShellWords:
    of_all = next(action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return ShellWords.of(of_all.choices[subcommand], of_all.choices["run"])


@pytest.mark.parametrize(
    ("subcommand", "text", "said"),
    [
        ("estimate", "capacity='T5' is no known GPU", "--gpu 'T5' is no known GPU"),
        ("explain-oom", "give capacity=", "give --capacity"),
        ("explain-oom", "is it capacity=?", "is it --capacity ?"),
        ("summary", "input_size=(3, 'x') contains 'x'", "--input (3, 'x') contains 'x'"),
        ("estimate", "pass loss=..., or step=... of your own", "pass --loss ..., or step=... of your own"),
        ("show", "module='by=3' has no ops", "--module 'by=3' has no ops"),
        ("show", "the model's own: module='a'", "the model's own: --module 'a'"),
        ("show", "libraries=True shows them", "--libraries shows them"),
        ("show", "backward_at_call=False", "no --backward-at-call"),
        ("show", "record with shapes=True", "record with shapes, as torchprof run does"),
        ("show", "recorded with aggregate=True, which", "recorded with --aggregate, which"),
        ("memory", "recorded with memory=False: record with memory=True", "recorded with --no-memory: record with --memory"),
        ("export", "by must be one of 'time', not 'tmie'", "--by must be one of 'time', not 'tmie'"),
        ("export", "torchprof.profile(stacks=True) records them", "torchprof run --stacks records them"),
        (
            "annotate",
            "what='f' is none: torchprof.by_function(trace) lists",
            "WHAT 'f' is none: torchprof show --by function lists",
        ),
        ("show", "record with record_shapes=True", "record with record_shapes=True"),
        ("show", "a torchprof.Trace", "a torchprof.Trace"),
    ],
)
def test_arguments_are_named_as_their_options(subcommand: str, text: str, said: str) -> None:
    assert words(subcommand).say(text) == said


def test_only_what_begins_with_an_option_is_wrong_usage() -> None:
    assert words("memory").begins_with_an_option("device='cuda:9': no memory was recorded there")
    assert words("export").begins_with_an_option("by must be one of 'time'")
    assert words("annotate").begins_with_an_option("what='f' is no function")
    assert not words("memory").begins_with_an_option("trace was recorded with memory=False")
    assert not words("memory").begins_with_an_option("the trace has no steps: device='cpu'")
    assert not words("memory").begins_with_an_option("file=3 is none")


def code_of(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as exit:
        return int(str(exit.code))


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings that each lack something."""
    folder = tmp_path_factory.mktemp("lacking")
    loop, lined = loop_trace(), training().trace()
    made = {
        "nothing": torchprof.Trace.empty(),
        "steps": replace(loop, steps=loop.steps[:0]),
        "model": replace(loop, model=None),
        "memory": replace(loop, facts={**loop.facts, "memory": False}, allocations=loop.allocations[:0]),
        "ops": replace(
            lined,
            facts={**lined.facts, "ops": False},
            ops=lined.ops[:0],
            op_stacks=lined.op_stacks[:0],
            allocations=lined.allocations[:0],
        ),
        "sums": replace(
            gpu_trace(aggregate=True), ops=loop.ops[:0], allocations=loop.allocations[:0], kernels=gpu_trace().kernels[:0]
        ),
        "stacks": gpu_trace(stacks=False),
    }
    for name, trace in made.items():
        trace.save(folder / f"{name}.torchprof")
    (folder / "kineto.torchprof").write_text(document([op("aten::mm", 1, 20)]))
    return folder


@pytest.mark.parametrize("subcommand", [
    *(f"show FILE --by {by}" for by in ("module", "op", "line", "function", "step", "kernel")),
    "annotate FILE train.py", "memory FILE", "gpu FILE", "findings FILE", "info FILE",
    *(f"diff FILE FILE --by {by}" for by in ("module", "op", "line", "kernel", "category")),
    "export FILE --to chrome -o OUT",
    *(f"export FILE --to folded -o OUT --by {by}" for by in ("time", "device", "flops", "allocated", "peak")),
    "export FILE --to speedscope -o OUT --functions",
])  # fmt: skip
@pytest.mark.parametrize("without", ["nothing", "steps", "model", "memory", "ops", "sums", "stacks", "kineto"])
def test_what_a_recording_lacks_is_said_in_the_words_of_the_shell(
    lacking: Path, tmp_path: Path, subcommand: str, without: str, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced = {"FILE": str(lacking / f"{without}.torchprof"), "OUT": str(tmp_path / "out")}
    code = code_of([replaced.get(each, each) for each in subcommand.split()])
    said = capsys.readouterr()
    if not code:
        assert said.err == ""
        return
    of_usage = subcommand.startswith(("diff", "annotate"))  # 1 of diff is that of a limit; a file may lack what is asked for
    assert code == 1 or (code == 2 and of_usage)
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert PYTHON.search(re.sub(r"'[^']*'", "", said.err)) is None, said.err
