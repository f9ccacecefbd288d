"""``torchprof summary``, ``estimate``, ``memory`` and ``explain-oom`` in a shell: what needs PyTorch or the extension."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from oracle_allocator import Oracle
from shell import torchprof_in_a_shell

import torchprof
from torchprof.allocator.settings import AllocatorSettings
from torchprof.cli.main import main

MIB = 2**20
MODULE = """
import torch
from torch import nn

print_nothing = True

class Net(nn.Module):
    def __init__(self, width=8, classes=2):
        super().__init__()
        self.a = nn.Linear(4, width)
        self.b = nn.Linear(width, classes)

    def forward(self, x, scale=None):
        y = self.b(self.a(x).relu())
        return y if scale is None else y * scale

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, ids, mask):
        return self.table(ids) * mask.unsqueeze(-1)

class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.router = nn.Linear(4, 2)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x):
        chosen = self.router(x).argmax(-1)
        return torch.cat([expert(x[chosen == number]) for number, expert in enumerate(self.experts)])

class Wrong(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x):
        return self.inner(x)

def make(width=8):
    return Net(width)

class Zoo:
    @staticmethod
    def build(name, width):
        return {"net": Net}[name](width)

model = Net()
nothing = None

def returns_none():
    return None

def broken():
    try:
        {}["weights"]
    except KeyError as error:
        raise RuntimeError("no weights") from error

def square(returned):
    return (returned ** 2).mean()
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "cli_nets.py").write_text(MODULE)
    (folder / "cli_syntax.py").write_text("def f(:\n")
    (folder / "cli_needs.py").write_text("import no_such_package\n")
    (folder / "cli_exits.py").write_text("import sys\nsys.exit(sys.argv[1:] or 3)\n")
    package = folder / "cli_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inside.py").write_text("from cli_nets import Net as Inner\n")
    return folder


@pytest.fixture
def here(modules: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder is where the command line runs, in this process."""
    monkeypatch.chdir(modules)
    before = list(sys.argv), list(sys.path)
    yield modules
    assert (sys.argv, sys.path) == before
    for name in [name for name in sys.modules if name.startswith("cli_")]:
        del sys.modules[name]


def rows_of(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    """The rows of a summary, by path."""
    assert main(["summary", *arguments, "--json"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return {row["path"]: row for row in json.loads(said.out)["rows"]}


@pytest.mark.parametrize(
    ("target", "width"),
    [
        (["cli_nets:Net"], 8),
        (["cli_nets:make", "--arg", "width=16"], 16),
        (["cli_nets:model"], 8),
        (["cli_nets.py:Net", "--arg", "classes=2"], 8),
        (["cli_nets:Zoo.build", "--arg", "name=net", "--arg", "width=3"], 3),
        (["cli_package.inside:Inner"], 8),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("here")
def test_summary_of_a_class_a_function_or_a_model(target: list[str], width: int, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of([*target, "--input-size", "5,4"], capsys)
    assert (rows[""]["input_shapes"], rows[""]["output_shapes"]) == ([[5, 4]], [[5, 2]])
    assert rows["a"]["params"] == 4 * width + width
    assert rows["a"]["flops"] == 2 * 5 * 4 * width


@pytest.mark.parametrize(
    ("inputs", "shapes"),
    [
        (["--input", "5,4"], [[5, 4]]),
        (["--input", "4", "--batch", "3"], [[3, 4]]),
        (["--input", "B,4", "--batch", "3"], [[3, 4]]),
        (["--input", "5,4", "--input", "float32:"], [[5, 4], []]),
        (["--input", "x=5,4", "--input", "scale=5,2"], [[5, 4], [5, 2]]),
    ],
)
@pytest.mark.usefixtures("here")
def test_summary_takes_inputs_by_place_or_name(
    inputs: list[str], shapes: list[list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert rows_of(["cli_nets:Net", *inputs], capsys)[""]["input_shapes"] == shapes


@pytest.mark.parametrize("device", [[], ["--device", "meta"]])
@pytest.mark.usefixtures("here")
def test_summary_of_integers_on_any_device(device: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(["cli_nets:Words", "--input", "ids=long:2,6", "--input", "mask=bool:2,6", *device], capsys)
    assert rows["table"]["output_shapes"] == [[2, 6, 4]]
    assert rows[""]["output_bytes"] == 2 * 6 * 4 * 4


@pytest.mark.usefixtures("here")
def test_summary_takes_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(rows_of(["cli_nets:Net", "--depth", "0"], capsys)) == [""]
    rows = rows_of(["cli_nets:Net", "--input", "5,4", "--backward", "--warmup", "1", "--train", "--fold"], capsys)
    assert rows["a"]["backward"] > 0  # type: ignore[operator]
    assert main(["summary", "cli_nets:Net", "--input", "5,4", "--columns", "params,output", "--width", "40"]) == 0
    text = capsys.readouterr().out
    assert "Layer (type)   Params  Output" in text
    assert max(map(len, text.splitlines())) <= 40
    with pytest.raises(SystemExit):
        main(["summary", "cli_nets:Net", "--columns", "parms"])
    assert "did you mean 'params'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("summary cli_nets", "MODEL 'cli_nets' names nothing in a module: give package.module:name"),
        ("summary cli_nets:", "names nothing in a module"),
        ("summary :Net", "names nothing in a module"),
        ("summary cli_nets:Nat", "MODEL 'cli_nets:Nat': cli_nets has no 'Nat': did you mean 'Net'?"),
        ("summary cli_nets:Zoo.bild", "cli_nets has no 'Zoo.bild': did you mean 'build'?"),
        ("summary cli_nots:Net", "MODEL: no module named 'cli_nots'"),
        ("summary cli_package.nothing:Net", "MODEL: no module named 'cli_package.nothing'"),
        ("summary missing.py:Net", "MODEL: no such file: missing.py"),
        ("summary not-a-name:Net", "MODEL 'not-a-name' is no name of a module"),
        ("summary cli_nets:nothing", "cli_nets:nothing is None: give package.module:name"),
        ("summary cli_nets:returns_none", "cli_nets:returns_none returned None"),
        ("summary cli_nets:model --arg width=3", "--arg width=3: cli_nets:model is a model already"),
        ("summary cli_nets:Net --batch 3", "--batch 3 needs --input"),
        ("summary cli_nets:Net --input float31:4", "--input: 'float31' is no dtype: did you mean 'float32'?"),
        ("summary cli_nets:Net --input x=4 --input 5", "--input: some have names and others not"),
        ("summary cli_nets:Net --input x=4 --input x=5", "--input x=...: was given twice"),
        ("summary cli_nets:Net --device coda", "--device coda: "),
        ("summary cli_nets:Net --train --eval", "--train and --eval: a model is in one mode"),
        ("estimate cli_nets:Net", "--input is needed, such as --input 64,3,224,224"),
        ("estimate cli_nets:Net --input 4 --optimizer Adamw", "torch.optim has none of this name: did you mean 'AdamW'?"),
        ("estimate cli_nets:Net --input 4 --optimizer-arg lr=1", "--optimizer-arg lr needs --optimizer NAME"),
        ("estimate cli_nets:Net --input 4 --max-batch", "--max-batch needs --gpu GPU"),
        ("estimate cli_nets:Net --input 4 --amp bf17", "--amp: 'bf17' is no dtype"),
        ("estimate cli_nets:Net --input 4 --loss cli_nets:squere", "cli_nets has no 'squere': did you mean 'square'?"),
        ("estimate cli_nets:Net --input 4 --allocator nonsense:1", "nonsense"),
        ("estimate cli_nets:Net --input 4 --optimizer SGD --optimizer-arg speed=1", "unexpected keyword argument 'speed'"),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_is_wrong_is_told_in_one_line(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(arguments.split())
    said = capsys.readouterr()
    assert (exit.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith(f"torchprof {arguments.split()[0]}: ")
    assert message in said.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("summary cli_nets:Net --arg widht=3", 1, "TypeError: Net.__init__() got an unexpected keyword argument 'widht'"),
        ("estimate cli_nets:Net --input 4 --arg widht=3", 2, "got an unexpected keyword argument 'widht'"),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_their_code_refuses_is_a_failure(
    arguments: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == code
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert message in said.err


@pytest.mark.parametrize(
    ("arguments", "code", "first", "second"),
    [
        ("--gpu T4", 0, "Fits in 14.5 GiB", "Largest batch that fits: "),
        ("--gpu T4 --no-max-batch", 0, "Fits in 14.5 GiB", "Needed on cuda: "),
        ("--gpu 1MiB", 1, "DOES NOT FIT in 1,024.0 KiB", "Largest batch that fits: none, not even the smallest"),
        (
            "--gpu 1MiB --no-max-batch",
            1,
            "DOES NOT FIT in 1,024.0 KiB",
            "A smaller batch may fit: --max-batch finds it",
        ),
        ("", 0, "Needed on cuda: ", "-----"),
    ],
)
@pytest.mark.usefixtures("here")
def test_whether_it_fits_is_said_first_and_is_the_exit_code(
    arguments: str, code: int, first: str, second: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["estimate", "cli_nets:Net", "--input", "5,4", *arguments.split()]
    assert main(command) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(first)
    assert lines[1].startswith(second)
    assert any(line.startswith("By its memory it would fit on T4, V100-16GB") for line in lines) == bool(code)
    assert any("several GPUs: torchprof plan" in line for line in lines) == bool(code)
    assert main([*command, "--json"]) == code
    assert json.loads(capsys.readouterr().out)["fitting_gpus"][:2] == ["T4", "V100-16GB"]


@pytest.mark.parametrize(
    ("arguments", "first", "last"),
    [
        ("cli_nets:broken", "Traceback (most recent call last):", "RuntimeError: no weights"),
        ("cli_syntax:f", '  File "{folder}/cli_syntax.py", line 1', "SyntaxError: invalid syntax"),
        ("cli_needs:f", "Traceback (most recent call last):", "ModuleNotFoundError: No module named 'no_such_package'"),
    ],
)
def test_what_code_of_the_user_raises_is_shown_as_python_does_without_our_frames(
    here: Path, arguments: str, first: str, last: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["summary", arguments]) == 1
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert (lines[0], lines[-1], said.out) == (first.format(folder=here), last, "")
    assert "/torchprof/" not in said.err.replace(str(here), "")
    assert ("KeyError: 'weights'" in said.err) == (arguments == "cli_nets:broken")


@pytest.mark.usefixtures("here")
def test_where_a_model_raises_the_table_up_to_there_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "cli_nets:Wrong", "--input", "2,4"]) == 1
    said = capsys.readouterr()
    assert "raised RuntimeError" in said.out
    assert "in forward" in said.err
    assert "torchprof.summary: raised in module 'inner' (Linear)" in said.err
    assert "torchprof/cli" not in said.err


@pytest.mark.usefixtures("here")
def test_a_module_that_exits_exits_and_does_not_see_our_arguments() -> None:
    with pytest.raises(SystemExit) as exit:
        main(["summary", "cli_exits:f"])
    assert exit.value.code == 3


@pytest.mark.usefixtures("here")
def test_an_estimate_is_that_of_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "cli_nets:Net --input 64,4 --optimizer AdamW --optimizer-arg foreach=False --loss cli_nets:square --device cpu"
    assert main(["estimate", *arguments.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    nets = sys.modules["cli_nets"]

    expected = torchprof.estimate(
        nets.Net(),
        (64, 4),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, foreach=False),
        loss=nets.square,
        device="cpu",
    )
    assert found == {**json.loads(json.dumps(expected.to_dict())), "max_batch_size": None, "fitting_gpus": []}
    assert found["device_memory"] == expected.device_memory
    assert sum(found["by_category"].values()) == expected.device_memory
    assert (found["capacity"], found["fits"]) == (None, None)


@pytest.mark.usefixtures("here")
def test_routers_may_be_taken_to_be_balanced(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["estimate", "cli_nets:Experts", "--input", "64,4", "--device", "cpu"]
    assert main(command) == 2
    assert "--routing 'balanced' takes it that all get as many" in capsys.readouterr().err
    assert main([*command, "--routing", "balanced"]) == 0
    assert "Assumed: routing is balanced: what aten::argmax chooses" in capsys.readouterr().out


@pytest.mark.usefixtures("here")
def test_an_estimate_finds_the_largest_batch(capsys: pytest.CaptureFixture[str]) -> None:
    needs = {batch: torchprof.estimate(torch.nn.Linear(4, 8), (batch, 4), device="cpu").device_memory for batch in (5, 6)}
    (Path.cwd() / "cli_linear.py").write_text("from torch import nn\ndef linear(): return nn.Linear(4, 8)\n")
    for inputs in (["1,4"], ["B,4"], ["4", "--batch", "1"]):
        arguments = ["estimate", "cli_linear:linear", "--device", "cpu", "--gpu", str(needs[6] - 1), "--input", *inputs]
        assert main([*arguments, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["max_batch_size"], found["fits"], found["capacity"]) == (5, True, needs[6] - 1)
    assert main([*arguments[:-4], "--input", "1,4"]) == 0
    text = capsys.readouterr().out
    assert "Largest batch that fits: 5\n" in text
    assert "The batch: taken to be the first dimension of every input" in text
    assert main([*arguments, "--no-max-batch"]) == 0
    assert "Largest batch" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        ("summary cli_nets:Net --input-size 5,4", "-----"),
        (
            "estimate cli_nets:Net --input 5,4 --optimizer SGD --gpu T4 --no-max-batch --amp bf16",
            "Fits in 14.5 GiB\n",
        ),
    ],
)
def test_models_are_shown_in_a_shell(modules: Path, arguments: str, begins: str) -> None:
    done = torchprof_in_a_shell(*arguments.split(), cwd=modules)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(begins)


@pytest.fixture(scope="module")
def failed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot of a run with 64 MiB of memory, of which it has 40 MiB in two halves and asks for 40 MiB more."""
    oracle = Oracle(AllocatorSettings.parse(""), 64 * MIB, iter(range(2**41, 2**42, 2**36)))
    assert all(oracle.allocate(number, 20 * MIB, 0) for number in range(2))
    assert not oracle.allocate(2, 40 * MIB, 0)
    frames = [{"filename": "/a/train.py", "line": 12, "name": "step"}]
    free = 64 * MIB - oracle.reserved
    oracle.history.append({"action": "oom", "device_free": free, "size": 40 * MIB, "stream": 0, "frames": frames})
    path = tmp_path_factory.mktemp("snapshots") / "oom.pickle"
    path.write_bytes(pickle.dumps(oracle.snapshot(oracle.history)))
    return path


def test_a_failed_request_is_explained(failed_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain-oom", str(failed_run)]) == 0
    assert capsys.readouterr().out == f"{torchprof.explain_oom(failed_run)}\n"
    assert main(["explain-oom", str(failed_run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["device"], found["requested"], found["allocated"]) == ("cuda:0", 40 * MIB, 40 * MIB)
    assert (found["stack"], found["saved_by"]) == (["/a/train.py:12 step"], [])
    assert found["missing"] == 40 * MIB + 40 * MIB - found["capacity"]
    assert main(["explain-oom", str(failed_run), "--capacity", "1GiB"]) == 0
    assert "All fits in 1,024.0 MiB as it was recorded" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["explain-oom", str(failed_run), "--device", "cuda:4"])
    assert "cuda:4" in capsys.readouterr().err


def test_a_history_is_accounted_for_and_told(failed_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", str(failed_run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["peak"], found["complete"], found["misplaced"]) == (40 * MIB, True, 0)
    assert sum(row["at_peak"] for row in found["at_peak"]) == 40 * MIB
    assert main(["info", str(failed_run)]) == 0
    text = capsys.readouterr().out
    assert "1 request failed: torchprof explain-oom says why" in text
    done = torchprof_in_a_shell("explain-oom", failed_run)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Out of memory on cuda:0: 40.0 MiB were needed in train.py:12 step")
