"""The command line, in a process of its own, on traces that were written by hand."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aggregating import aggregate
from handwritten import gpu_trace, loop_trace
from kineto_files import document, function, op, step
from shell import torchprof_in_a_shell
from stacked import training

import torchprof
from torchprof.cli.main import main

FRAMES = [{"filename": "train.py", "line": 3, "name": "step"}]
SEGMENT: dict[str, Any] = {
    "device": 0,
    "address": 4096,
    "total_size": 2**21,
    "segment_type": "small",
    "blocks": [{"size": 512, "state": "active_allocated", "frames": FRAMES}, {"size": 2**21 - 512, "state": "inactive"}],
}
SNAPSHOT = {
    "segments": [SEGMENT],
    "device_traces": [[]],
    "allocator_settings": {"expandable_segments": False, "max_split_size": -1},
}
"""Without a history, so that it is read without the extension."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "step.torchprof"
    loop_trace().save(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of all kinds."""
    made = tmp_path_factory.mktemp("files")
    loop_trace().save(made / "loop.torchprof")
    gpu_trace().save(made / "gpu.torchprof")
    training().trace().with_source().save(made / "lines.torchprof")
    torchprof.Trace.empty().save(made / "nothing.torchprof")
    kineto = document([step(1, 0, 90), op("aten::mm", 1, 20), function("train.py(3): main", 0, 95)])
    (made / "kineto.json").write_text(kineto)
    (made / "kineto.json.gz").write_bytes(gzip.compress(kineto.encode()))
    (made / "snapshot.pickle").write_bytes(pickle.dumps(SNAPSHOT))
    (made / "snapshot.pickle.gz").write_bytes(gzip.compress(pickle.dumps(SNAPSHOT)))
    (made / "program.py").write_text("print('hello')\n")
    (made / "empty").write_bytes(b"")
    (made / "damaged.torchprof").write_bytes((made / "gpu.torchprof").read_bytes()[:3000])
    (made / "notes.txt").write_text("to do")
    return made


def printed(arguments: Sequence[object], capsys: pytest.CaptureFixture[str]) -> str:
    """What a subcommand prints that succeeds."""
    assert main(list(map(str, arguments))) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def failed(arguments: Sequence[object], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a subcommand that fails."""
    assert main(list(map(str, arguments))) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert said.err.startswith("torchprof: ")
    return said.err


def refused(arguments: Sequence[object], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a subcommand that is called wrongly."""
    with pytest.raises(SystemExit) as exit:
        main(list(map(str, arguments)))
    said = capsys.readouterr()
    assert (exit.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    return said.err


def test_show_prints_the_table_of_the_library(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(file)]) == 0
    assert capsys.readouterr().out == f"{torchprof.by_module(torchprof.load(file))}\n"


@pytest.mark.parametrize("by", ["module", "op", "step", "kernel"])
def test_show_has_every_table_of_ops(tmp_path: Path, capsys: pytest.CaptureFixture[str], by: str) -> None:
    path = tmp_path / "gpu.torchprof"
    gpu_trace().save(path)
    assert main(["show", str(path), "--by", by]) == 0
    assert capsys.readouterr().out == f"{getattr(torchprof, f'by_{by}')(torchprof.load(path))}\n"


@pytest.mark.parametrize("by", ["line", "function"])
def test_show_has_every_table_of_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str], by: str) -> None:
    path = tmp_path / "lines.torchprof"
    training().trace().save(path)
    assert main(["show", str(path), "--by", by]) == 0
    expected = str(getattr(torchprof, f"by_{by}")(torchprof.load(path)))
    assert capsys.readouterr().out == expected.replace("libraries=True shows", "--libraries shows") + "\n"


def test_show_sorts_selects_and_cuts(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(file), "--by", "op", "--sort", "calls", "--columns", "calls,time", "--head", "2"]) == 0
    expected = torchprof.by_op(torchprof.load(file)).sort("calls").select("calls", "time").head(2)
    assert capsys.readouterr().out == f"{expected}\n"


def test_chosen_columns_are_those_of_json_and_csv(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(file), "--by", "op", "--columns", "calls, self", "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "name,calls,self"
    assert main(["show", str(file), "--columns", "time,calls", "--json"]) == 0
    assert {tuple(row) for row in json.loads(capsys.readouterr().out)} == {("name", "path", "time", "calls")}


def test_show_gives_every_figure_as_json_and_csv(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = torchprof.by_op(torchprof.load(file))
    assert main(["show", str(file), "--by", "op", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(table.to_json())
    assert main(["show", str(file), "--by", "op", "--csv"]) == 0
    assert capsys.readouterr().out == table.to_csv()


def test_info_says_what_a_file_holds(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = torchprof.load(file)
    assert main(["info", str(file)]) == 0
    said = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert said["Ops"].strip() == f"{len(trace.ops):,}"
    assert said["Steps"].split(",")[0].strip() == f"{len(trace.steps)}"
    assert "Lost" in said


def test_info_as_data_has_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = torchprof.load(folder / "gpu.torchprof")
    found = json.loads(printed(["info", folder / "gpu.torchprof", "--json"], capsys))
    assert (found["kind"], found["steps"], found["warmup_steps"], found["gpu"]) == ("trace", 3, 1, "cupti")
    assert found["rows"] == {
        name: len(getattr(trace, name)) for name in ("ops", "module_calls", "allocations", "kernels", "runtime_calls")
    }
    assert found["file_bytes"] == (folder / "gpu.torchprof").stat().st_size
    assert (found["torch"], found["lost"]) == (None, {})


def test_info_of_an_aggregated_trace_has_what_its_sums_are_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    aggregate(loop_trace()).save(tmp_path / "sums")
    text = printed(["info", tmp_path / "sums"], capsys)
    counts = len(loop_trace().ops[loop_trace().ops["start"] >= 0])
    summed = json.loads(printed(["info", tmp_path / "sums", "--json"], capsys))["summed"]
    assert 0 < summed["ops"] <= counts
    assert f"Ops            {summed['ops']:,}, kept as " in text
    assert "Allocations    not kept: the recording was aggregated\n" in text


def test_info_tells_devices_and_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.json"
    properties = [{"id": 0, "name": "NVIDIA H100"}, {"id": 1, "name": "NVIDIA H100"}]
    path.write_text(
        document(
            [op("aten::mm", 1, 20)],
            deviceProperties=properties,
            distributedInfo={"backend": "nccl", "rank": 3, "world_size": 8},
        )
    )
    text = printed(["info", path], capsys)
    assert "Devices        2 x NVIDIA H100\n" in text
    assert "Rank           3 of 8\n" in text
    found = json.loads(printed(["info", path, "--json"], capsys))
    assert (found["devices"], found["rank"], found["world_size"]) == (["NVIDIA H100"] * 2, 3, 8)
    torchprof.Trace(**{**vars(loop_trace()), "facts": {"rank": 1, "world_size": 2}}).save(tmp_path / "of a rank")
    assert "Rank           1 of 2\n" in printed(["info", tmp_path / "of a rank"], capsys)


@pytest.mark.parametrize("name", ["snapshot.pickle", "snapshot.pickle.gz"])
def test_info_of_a_snapshot(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(["info", folder / name], capsys)
    assert "a CUDA memory snapshot" in text
    assert "Settings  the defaults" in text
    assert "cuda:0    1 segment, 2,048.0 KiB reserved at the end" in text
    assert "no history: torch.cuda.memory._record_memory_history()" in text
    found = json.loads(printed(["info", folder / name, "--json"], capsys))
    assert found["kind"] == "memory snapshot"
    assert found["devices"] == [
        {
            "device": "cuda:0",
            "segments": 1,
            "reserved": 2**21,
            "entries": None,
            "changes": None,
            "requests_failed": None,
            "duration_ns": None,
            "stacks": None,
        }
    ]


def test_memory_is_the_account_of_the_library(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "loop.torchprof"
    account = torchprof.memory(torchprof.load(path))
    assert printed(["memory", path], capsys) == f"{account}\n"
    assert printed(["memory", path, "--device", "cpu"], capsys) == f"{account}\n"
    found = json.loads(printed(["memory", path, "--json"], capsys))
    assert found == account.to_dict()
    assert (found["device"], found["peak"]["bytes"], found["by_category"]["temporaries"]) == ("cpu", 32, 32)
    assert found["held_at_ends"] == [{"step": 0, "held": 0}, {"step": 1, "held": 0}, {"step": 2, "held": 32}]
    assert sum(row["at_peak"] for row in found["modules"]) == 32


def test_memory_of_a_snapshot(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "snapshot.pickle.gz"
    assert printed(["memory", path], capsys) == f"{torchprof.memory(path)}\n"
    found = json.loads(printed(["memory", path, "--json"], capsys))
    assert (found["device"], found["peak"], found["reserved"], found["allocated"]) == ("cuda:0", 512, 2**21, 512)
    assert [(row["name"], row["held"]) for row in found["at_end"]] == [("train.py:3 step", 512)]
    assert (found["complete"], found["at_peak"]) == (None, None)
    assert "cuda:0" in refused(["memory", path, "--device", "cuda:7"], capsys)


def test_gpu_is_the_account_of_the_library(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "gpu.torchprof"
    account = torchprof.gpu(torchprof.load(path))
    assert printed(["gpu", path], capsys) == f"{account}\n"
    found = json.loads(printed(["gpu", path, "--json"], capsys))
    assert [row["busy"] for row in found["devices"] if not row["depth"]] == [device.busy for device in account.devices]
    assert sum(row["idle"] for row in found["idle"] if not row["depth"]) == sum(idle.time for idle in account.idle)
    assert "record" in failed(["gpu", folder / "loop.torchprof"], capsys)


def test_findings_are_those_of_the_library(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "loop.torchprof"
    found = torchprof.findings(torchprof.load(path))
    assert printed(["findings", path], capsys) == f"{found}\n"
    assert json.loads(printed(["findings", path, "--json"], capsys)) == json.loads(json.dumps(found.to_dict()))


def test_annotate_shows_a_function_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text("\n" * 6 + "    def forward(self, x):\n        y = self.fc(x)\n        return y\n")
    trace = training().trace()
    strings = [text.replace("/home/me/net.py", str(tmp_path / "net.py")) for text in trace.strings]
    path = tmp_path / "lines.torchprof"
    torchprof.Trace(**{**vars(trace), "strings": strings}).save(path)
    expected = torchprof.annotate(torchprof.load(path), "Net.forward")
    assert [row["line"] for row in expected.rows] == [7, 8, 9]
    for what in ("Net.forward", "forward", "net.py:Net.forward", "net.py:7 Net.forward"):
        assert printed(["annotate", path, what], capsys) == f"{expected}\n"
    whole = printed(["annotate", path, "net.py", "--csv"], capsys)
    assert [row["line"] for row in csv.DictReader(io.StringIO(whole))] == list("123456789")
    chosen = json.loads(printed(["annotate", path, "forward", "--columns", "time,code", "--head", "2", "--json"], capsys))
    assert [(tuple(row), row["code"]) for row in chosen] == [
        (("name", "time", "code"), "    def forward(self, x):"),
        (("name", "time", "code"), "        y = self.fc(x)"),
    ]
    assert "did you mean 'Net.forward'?" in refused(["annotate", path, "Net.foward"], capsys)
    assert "net.py has no such function in the trace" in refused(["annotate", path, "net.py:train"], capsys)


@pytest.mark.parametrize("by", ["time", "device", "flops", "bytes"])
@pytest.mark.parametrize("to", ["folded", "speedscope"])
def test_export_writes_what_the_library_writes(
    folder: Path, tmp_path: Path, to: str, by: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = folder / "gpu.torchprof", tmp_path / "out"
    text = printed(["export", path, "--to", to, "--by", by, "-o", out], capsys)
    getattr(torchprof, f"export_{to}")(torchprof.load(path), tmp_path / "expected", by)
    assert out.read_text() == (tmp_path / "expected").read_text()
    assert text.startswith(f"Wrote {out}, ")


def test_export_names_its_file_as_the_trace(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "https://ui.perfetto.dev" in printed(["export", folder / "gpu.torchprof", "--to", "chrome"], capsys)
    events = json.loads(gzip.decompress((tmp_path / "gpu.chrome.json.gz").read_bytes()))["traceEvents"]
    assert sum(event.get("cat") == "kernel" for event in events) > 0


def test_export_by_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    printed(["export", folder / "lines.torchprof", "--to", "folded", "--functions", "--backward-at-call", "-o", out], capsys)
    trace = torchprof.load(folder / "lines.torchprof")
    torchprof.export_folded(trace, tmp_path / "expected", functions=True, backward_at_call=True)
    assert out.read_text() == (tmp_path / "expected").read_text()


@pytest.mark.parametrize("name", ["gpu.torchprof", "kineto.json.gz", "snapshot.pickle"])
def test_report_writes_a_page(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("plotly")
    monkeypatch.chdir(tmp_path)
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    page = tmp_path / f"{name.partition('.')[0]}{'.pickle' if name == 'snapshot.pickle' else ''}.html"
    text = printed(["report", folder / name, "--title", "a <b> of mine"], capsys)
    assert text.startswith(f"Wrote {page.name}, ")
    assert "a &lt;b&gt; of mine" in page.read_text()
    assert opened == []
    printed(["report", folder / name, "-o", tmp_path / "other.html", "--open"], capsys)
    assert opened == [(tmp_path / "other.html").as_uri()]


def test_a_report_never_takes_the_place_of_its_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "gpu.torchprof"
    assert "this is FILE itself" in refused(["report", path, "-o", path], capsys)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--by", "module", "--depth", "0"], {"depth": 0}),
        (
            ["--by", "op", "--shapes", "--phase", "backward", "--module", "fc"],
            {"shapes": True, "phase": "backward", "module": "fc"},
        ),
        (["--by", "kernel", "--phase", "forward"], {"phase": "forward"}),
    ],
)
def test_show_takes_the_options_of_the_table(
    folder: Path, arguments: list[str], options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "gpu.torchprof"
    expected = getattr(torchprof, f"by_{arguments[1]}")(torchprof.load(path), **options)
    assert printed(["show", path, *arguments], capsys) == f"{expected}\n"


def test_show_by_line_with_libraries_and_backward_where_it_is_called(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "lines.torchprof"
    expected = torchprof.by_line(torchprof.load(path), libraries=True, backward_at_call=True)
    assert printed(["show", path, "--by", "line", "--libraries", "--backward-at-call"], capsys) == f"{expected}\n"


def test_show_sorts_the_smallest_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "gpu.torchprof"
    expected = torchprof.by_op(torchprof.load(path)).sort("self", descending=False)
    assert printed(["show", path, "--by", "op", "--sort", "self", "--reverse"], capsys) == f"{expected}\n"


@pytest.mark.parametrize("name", ["kineto.json", "kineto.json.gz"])
@pytest.mark.parametrize(
    "subcommand", ["show", "show --by op", "show --by function", "info", "findings", "export --to folded -o -"]
)
def test_files_of_torch_profiler_are_read_everywhere(
    folder: Path, name: str, subcommand: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main([*subcommand.split(), str(folder / name)]) == 0
    said = capfdbinary.readouterr()
    assert (bool(said.out), said.err) == (True, b"")


@pytest.mark.parametrize(
    "subcommand", ["show", "gpu", "findings", "annotate", "export --to chrome"], ids=lambda text: text.split()[0]
)
def test_what_snapshots_do_not_have_is_told(folder: Path, subcommand: str, capsys: pytest.CaptureFixture[str]) -> None:
    what = ["forward"] if subcommand == "annotate" else []
    for name in ("snapshot.pickle", "snapshot.pickle.gz"):
        path = folder / name
        line = failed([*subcommand.split(), path, *what], capsys)
        lacking = "kernels" if subcommand == "gpu" else "ops"
        assert line == f"torchprof: {path}: memory snapshots have no {lacking}: torchprof memory {path}\n"


@pytest.mark.parametrize(
    "subcommand",
    ["show", "memory", "gpu", "findings", "annotate", "explain-oom", "info", "export --to folded"],
    ids=lambda text: text.split()[0],
)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "No such file or directory"),
        ("", "is a folder"),
        ("empty", "is empty: give a file that"),
        ("program.py", "a program, not a recording: torchprof run "),
        ("damaged.torchprof", "damaged"),
        ("notes.txt", "not a"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    folder: Path, subcommand: str, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    what = ["forward"] if subcommand == "annotate" else []
    line = failed([*subcommand.split(), folder / name, *what], capsys)
    assert str(folder) in line
    assert message in line or subcommand == "explain-oom"


def test_a_file_that_may_not_be_read_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: object) -> Any:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("torchprof.cli.files.opened", refuse)
    line = failed(["show", folder / "loop.torchprof"], capsys)
    assert line == f"torchprof: {folder / 'loop.torchprof'}: Permission denied\n"


def test_a_trace_in_which_nothing_ran_has_an_answer_to_everything(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "nothing.torchprof"
    for arguments in (["show"], ["show", "--by", "op"], ["memory"], ["findings"], ["info"]):
        assert printed([*arguments, path], capsys)
    for arguments in (["show", "--by", "step"], ["show", "--by", "line"], ["gpu"]):
        assert failed([*arguments, path], capsys)


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        ("show loop.torchprof --by step", "-----"),
        ("memory snapshot.pickle", "No history was recorded"),
        ("gpu gpu.torchprof", "GPU: kernels of 2 steps"),
        ("findings loop.torchprof", "Nothing to improve was found"),
        ("info kineto.json.gz", "File "),
        ("export gpu.torchprof --to folded -o -", "other;"),
        ("completion fish", "function __fish_torchprof"),
    ],
)
def test_every_subcommand_runs_in_a_shell(folder: Path, arguments: str, begins: str) -> None:
    done = torchprof_in_a_shell(*arguments.split(), cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.lstrip().startswith(begins)


def test_an_unknown_column_is_one_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--sort: column 'speed' is unknown" in refused(["show", file, "--sort", "speed"], capsys)


def test_a_process_exits_with_the_code_of_what_happened(file: Path) -> None:
    done = torchprof_in_a_shell("show", file, "--by", "step")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Step" in done.stdout
    assert torchprof_in_a_shell("show", file.with_name("missing")).returncode == 1
    assert torchprof_in_a_shell("show").returncode == 2
    assert torchprof_in_a_shell("--version").stdout == f"torchprof {torchprof.__version__}\n"


def test_a_reader_that_leaves_early_is_no_error(file: Path) -> None:
    command = f"{sys.executable} -m torchprof show {file} --by op --json | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
