"""How the command line is read: every option with wrong values, what is suggested, and what shells complete."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

import pytest
from handwritten import gpu_trace
from shell import torchprof_in_a_shell
from stacked import training

import torchprof
from torchprof.cli import main as cli
from torchprof.cli.arguments import Parser
from torchprof.cli.files import beside
from torchprof.cli.inputs import Input, read_input
from torchprof.cli.main import main, parser
from torchprof.cli.values import assignment, gpu_or_bytes


def subcommands() -> dict[str, argparse.ArgumentParser]:
    of_all = next(action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(of_all.choices)


@pytest.fixture
def file(tmp_path: Path) -> str:
    gpu_trace().save(tmp_path / "gpu.torchprof")
    return str(tmp_path / "gpu.torchprof")


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said of wrong arguments: one line, without a traceback, and how to go on."""
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    said = capsys.readouterr()
    assert (exit.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert " --help\n" in said.err
    return said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("show", "the following arguments are required: FILE"),
        ("show f --by modul", "argument --by: invalid choice: 'modul'"),
        ("show f --head many", "argument --head: 'many' is no number of rows: give 0 or more"),
        ("show f --head -1", "argument --head: '-1' is no number of rows: give 0 or more"),
        ("show f --depth 1.5", "argument --depth: '1.5' is no number of levels: give 0 or more"),
        ("show f --width 19", "argument --width: '19' is no number of characters: give 20 or more"),
        ("show f --columns a,,b", "argument --columns: 'a,,b' has no name in one of its places"),
        ("show f --columns=", "argument --columns: '' has no name"),
        ("show f --phase back", "argument --phase: invalid choice: 'back'"),
        ("show f --json --csv", "argument --csv: not allowed with argument --json"),
        ("show f --sort", "argument --sort: expected one argument"),
        ("show f --colums time", "unknown argument '--colums': did you mean '--columns'?"),
        ("show f --colums=time", "unknown argument '--colums=time': did you mean '--columns'?"),
        ("show f --colu time", "unknown argument '--colu': did you mean '--columns'?"),
        ("findings f --step 77", "unknown argument '--step'. See torchprof findings --help"),
        ("findings f --s 77", "unknown argument '--s'. See torchprof findings --help"),
        ("show f --col time", "unknown argument '--col'"),
        ("show f g", "unknown argument 'g'"),
        ("memory f --csv", "unknown argument '--csv'"),
        ("export f", "the following arguments are required: --to"),
        ("export f --to svg", "argument --to: invalid choice: 'svg' (choose from 'chrome', 'speedscope', 'folded')"),
        ("export f --to folded --by tmie", "argument --by: invalid choice: 'tmie'"),
        ("annotate f", "the following arguments are required: WHAT"),
        ("annotate f g --head x", "argument --head: 'x' is no number of lines"),
        ("explain-oom f --capacity H100-80G", "'H100-80G' is no known GPU and no size: did you mean 'H100-80GB'?"),
        ("explain-oom f --capacity 0", "'0' is no known GPU and no size"),
        ("explain-oom f --capacity -5GiB", "argument --capacity: expected one argument"),
        ("explain-oom f --capacity 3XB", "'3XB' is no known GPU and no size: give memory such as 40GiB, or one of T4"),
        ("summary", "the following arguments are required: MODEL"),
        ("summary m:f --arg width", "argument --arg: 'width' is no argument with its value: give NAME=VALUE"),
        ("summary m:f --arg 3=4", "'3=4' is no argument with its value"),
        ("summary m:f --input 4,x", "'4,x' has the size 'x', which is no number"),
        ("summary m:f --input 4,-1", "'4,-1' has the size '-1', which is no number"),
        ("summary m:f --input=", "'' has no size"),
        ("summary m:f --input 1x=3", "'1x=3' is no input"),
        ("summary m:f --input a:b:3", "'a:b:3' is no input"),
        ("summary m:f --batch 0", "argument --batch: '0' is no number of samples: give 1 or more"),
        ("summary m:f --depth -2", "argument --depth: '-2' is no number of levels"),
        ("summary m:f --warmup few", "argument --warmup: 'few' is no number of passes"),
        ("estimate m:f --steps 0", "argument --steps: '0' is no number of steps: give 1 or more"),
        ("estimate m:f --device tpu", "argument --device: invalid choice: 'tpu'"),
        ("estimate m:f --gpu RTX", "argument --gpu: 'RTX' is no known GPU and no size"),
        ("completion tcsh", "argument SHELL: invalid choice: 'tcsh'"),
        ("shw f", "'shw' is no subcommand: did you mean 'show'?"),
        ("explain_oom f", "'explain_oom' is no subcommand: did you mean 'explain-oom'?"),
        ("zzz", "'zzz' is no subcommand. See torchprof --help"),
        ("--verison", "the following arguments are required: SUBCOMMAND"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(arguments.split(), capsys)


def test_a_file_in_place_of_a_subcommand_is_told_how_to_be_shown(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"torchprof show {file}" in refused([file], capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("show FILE --depth 1 --by op", "--depth is for --by module, not for --by op"),
        ("show FILE --shapes", "--shapes is for --by op, not for --by module"),
        ("show FILE --phase forward", "--phase is for --by op and --by kernel, not for --by module"),
        ("show FILE --by op --libraries", "--libraries is for --by line and --by function, not for --by op"),
        ("show FILE --by step --backward-at-call", "--backward-at-call is for --by line and --by function"),
        ("show FILE --by step --module fc", "--module is for --by op and --by kernel"),
        ("show FILE --reverse", "--reverse needs --sort COLUMN"),
        ("show FILE --by rank", "is of one process: give the folder with the files of all ranks"),
        ("show FILE --by op --module nope", "--module 'nope' has no ops"),
        ("show FILE --sort tme", "--sort: column 'tme' is unknown (did you mean 'time'?)"),
        ("show FILE --columns calls,Time", "--columns: column 'Time' is unknown (did you mean 'time'?)"),
        ("export FILE --to chrome --by time", "--by is for flame graphs, --to speedscope or folded"),
        ("export FILE --to chrome --functions", "--functions is for flame graphs"),
        ("export FILE --to folded -o FILE", "this is FILE itself, which would be lost"),
    ],
)
def test_what_does_not_go_together_is_told_in_one_line(
    file: str, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path(file).read_bytes()
    assert message in refused([file if each == "FILE" else each for each in arguments.split()], capsys)
    assert Path(file).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("show FILE --by line", "trace has no stacks of Python"),
        ("annotate FILE forward", "trace has no stacks of Python"),
        (
            "export FILE --to folded --functions",
            "trace has no stacks of Python, which --functions needs: torchprof run --stacks",
        ),
        ("export FILE --to folded -o /nowhere/out", "/nowhere/out: No such file or directory"),
        ("export FILE --to folded -o /", "/: Is a directory"),
        ("explain-oom FILE", "not a memory snapshot, which torch.cuda.memory._dump_snapshot writes"),
        ("memory FILE --snapshot FILE --device cuda:0", "not a memory snapshot"),
    ],
)
def test_what_a_file_does_not_have_and_what_cannot_be_written_is_a_failure(
    file: str, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([file if each == "FILE" else each for each in arguments.split()]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert said.err.startswith("torchprof: ")
    assert message in said.err


def test_examples_of_every_help_parse() -> None:
    examples = [
        line.strip()
        for each in (parser(), *subcommands().values())
        for line in str(each.epilog).partition("examples:")[2].split("\n\n")[0].splitlines()
        if line.strip()
    ]
    assert len(examples) > 2 * len(cli.GROUPS)
    for example in examples:
        program, *arguments = shlex.split(example)
        assert program == "torchprof"
        ends = [at for at, each in enumerate(arguments) if each in ("|", ">", ">>")]
        assert callable(parser().parse_args(arguments[: min(ends, default=None)]).run)


def test_help_lists_every_subcommand_with_what_it_does() -> None:
    text = parser().format_help()
    for name, each in subcommands().items():
        assert f"\n  {name:<12} {str(each.description).splitlines()[0]}\n" in text
        assert isinstance(each, Parser)
        assert each.format_usage().startswith(f"usage: torchprof {name} ")


def test_nothing_to_do_is_help_and_an_error() -> None:
    done = torchprof_in_a_shell()
    assert (done.returncode, done.stdout, done.stderr) == (2, "", parser().format_help())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4,3,224,224", Input("", "", (4, 3, 224, 224))),
        (" 4, 3 ", Input("", "", (4, 3))),
        ("7", Input("", "", (7,))),
        ("0,3", Input("", "", (0, 3))),
        ("int64:2,128", Input("", "int64", (2, 128))),
        ("ids=int64:B,128", Input("ids", "int64", (None, 128))),
        ("ids=2,128", Input("ids", "", (2, 128))),
        ("scale=float32:", Input("scale", "float32", ())),
        ("scale=", Input("scale", "", ())),
        ("bf16:B", Input("", "bf16", (None,))),
    ],
)
def test_inputs_are_read_as_they_are_written(text: str, expected: Input) -> None:
    assert read_input(text) == expected


def test_the_batch_stands_where_it_is_written_or_first() -> None:
    assert Input("", "", (3, 224)).with_batch(8) == (8, 3, 224)
    assert Input("", "", (3, None, 224)).with_batch(8) == (3, 8, 224)
    assert Input("", "", (3, None, 224)).with_batch(None) == (3, 1, 224)
    assert Input("", "", (3, 224)).with_batch(None) == (3, 224)
    assert Input("", "", ()).with_batch(8) == (8,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("T4", "T4"),
        ("80", 80),
        ("40GiB", 40 * 2**30),
        ("40gib", 40 * 2**30),
        ("1.5 GB", 1_500_000_000),
        ("512MiB", 512 * 2**20),
        ("1TiB", 2**40),
        ("7B", 7),
    ],
)
def test_memory_is_a_gpu_or_bytes(text: str, expected: int | str) -> None:
    assert gpu_or_bytes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n=10", ("n", 10)),
        ("n=-1.5e-3", ("n", -1.5e-3)),
        ("flag=True", ("flag", True)),
        ("name=resnet50", ("name", "resnet50")),
        ("name='7'", ("name", "7")),
        ("sizes=(3, 4)", ("sizes", (3, 4))),
        ("none=None", ("none", None)),
        ("text=a=b", ("text", "a=b")),
        ("empty=", ("empty", "")),
        ("call=open('x')", ("call", "open('x')")),
    ],
)
def test_values_of_arguments_are_what_python_reads_and_nothing_is_run(text: str, expected: tuple[str, object]) -> None:
    assert assignment(text) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("runs/step.torchprof", "step.html"),
        ("step.pt.trace.json.gz", "step.html"),
        ("trace.json", "trace.html"),
        (".json", ".json.html"),
        ("odd", "odd.html"),
    ],
)
def test_what_is_made_of_a_file_is_named_as_it_is(path: str, expected: str) -> None:
    assert beside(path, ".html") == expected


def completed(line: str) -> list[str]:
    """What a shell offers behind this line."""
    program = "import os, sys; from torchprof.cli.main import main; main()"
    read, write = os.pipe()
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    pid = os.fork()
    if not pid:
        os.dup2(write, 8)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 9)
        os.execve(sys.executable, [sys.executable, "-c", program], environment)
    os.close(write)
    with os.fdopen(read) as stream:
        found = stream.read()
    assert os.waitpid(pid, 0)[1] == 0
    return [each.strip() for each in found.split("\n") if each.strip()]


def test_shells_complete_subcommands_options_and_values(tmp_path: Path, file: str) -> None:
    pytest.importorskip("argcomplete")
    training().trace().save(tmp_path / "lines.torchprof")
    assert completed("torchprof e") == sorted(["explain-oom", "export", "estimate"], key=list(subcommands()).index)
    assert completed("torchprof show --by ") == [
        *"module op line function step kernel rank collective clock overlap imbalance bubble".split()
    ]
    assert "--columns" in completed("torchprof show --c")
    assert completed("torchprof estimate m:f --gpu H") == ["H100-80GB", "H200"]
    with_kernels = completed(f"torchprof show {file} --columns time,device_s")
    assert with_kernels == ["time,device_self", "time,device_share"]
    assert completed(f"torchprof show {tmp_path}/lines.torchprof --sort device_s") == []
    assert completed(f"torchprof annotate {tmp_path}/lines.torchprof Net") == ["Net.forward"]
    assert completed(f"torchprof show {tmp_path}/li") == [f"{tmp_path}/lines.torchprof"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("argcomplete")
    assert main(["completion", shell]) == 0
    assert "torchprof" in capsys.readouterr().out


def test_completion_without_its_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torchprof.cli.completion.find_spec", lambda name: None)
    assert main(["completion", "bash"]) == 1
    assert capsys.readouterr().err.endswith('pip install "torchprof-recorder[completion]", or argcomplete\n')


def test_phases_are_those_of_traces() -> None:
    from torchprof.cli.show import PHASES

    assert set(PHASES) == {phase.name.lower() for phase in torchprof.Phase}
