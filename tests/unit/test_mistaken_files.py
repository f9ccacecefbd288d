"""One kind of file given where another is wanted: the message says what it is, and what reads it; and always which file."""

from __future__ import annotations

import gzip
import io
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handwritten import gpu_trace, loop_trace
from kineto_files import document, op
from stacked import training

import torchprof
from torchprof import TraceFileError
from torchprof.cli.main import main
from torchprof.trace.schema import STACKS

SNAPSHOT: dict[str, Any] = {"segments": [], "device_traces": [[]], "allocator_settings": {}}
FACTS: dict[str, Any] = {"world_size": 2, "run": "a", "host": "one"}

IS: dict[str, str] = {
    "own.torchprof": "a trace of torchprof: torchprof.load(path) reads it",
    "profiler.json": "a file of torch.profiler: torchprof.load(path) reads",
    "profiler.json.gz": "a file of torch.profiler: torchprof.load(path) reads",
    "snapshot.pickle": "a memory snapshot of CUDA: torchprof.memory(path) reads it",
    "snapshot.pickle.gz": "a memory snapshot of CUDA: torchprof.memory(path) reads it",
    "other.pickle": "a pickle: torchprof.memory(path) reads those that torch.cuda.memory._dump_snapshot wrote",
    "model.pt": "what torch.save wrote, a model or tensors: torchprof.summary(model) shows a model",
    "old.pt": "what torch.save wrote, a model or tensors: torchprof.summary(model) shows a model",
    "weights.safetensors": "weights in safetensors: torchprof.summary(model) shows the model that they are of",
    "arrays.npz": "arrays of numpy (.npz)",
    "page.html": "a page, such as a report of torchprof",
    "nsys.sqlite": "a database, as nsys export makes",
    "train.py": "a program: torchprof run records one",
    "empty": "empty",
}
"""What each of the files below is said to be."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("mistaken")
    loop_trace().save(made / "own.torchprof")
    kineto = document([op("aten::mm", 1, 20)]).encode()
    snapshot = pickle.dumps(SNAPSHOT)
    for name, content in {
        "profiler.json": kineto,
        "profiler.json.gz": gzip.compress(kineto),
        "snapshot.pickle": snapshot,
        "snapshot.pickle.gz": gzip.compress(snapshot),
        "other.pickle": pickle.dumps(["settings", 3]),
        "weights.safetensors": (2).to_bytes(8, "little") + b'{"w": {}}',
        "page.html": b"<!doctype html><title>torchprof</title>",
        "nsys.sqlite": b"SQLite format 3\0" + bytes(80),
        "train.py": b"import torch\n",
        "empty": b"",
    }.items():
        (made / name).write_bytes(content)
    torch.save(torch.nn.Linear(2, 2).state_dict(), made / "model.pt")
    torch.save(torch.nn.Linear(2, 2).state_dict(), made / "old.pt", _use_new_zipfile_serialization=False)
    np.savez(made / "arrays.npz", numbers=np.arange(3))
    return made


@pytest.mark.parametrize("name", [name for name in IS if not name.startswith(("own", "profiler", "arrays"))])
def test_what_is_no_trace_is_told_where_one_is_wanted(files: Path, name: str) -> None:
    path = files / name
    for wanted in (torchprof.load, lambda path: torchprof.memory(path, snapshot=SNAPSHOT)):
        with pytest.raises(TraceFileError) as refused:
            wanted(path)
        assert str(refused.value).startswith(f"{path}: not a torchprof trace")
        assert f"but {IS[name]}" in str(refused.value)


@pytest.mark.parametrize("name", [name for name in IS if not name.startswith(("snapshot", "other"))])
@pytest.mark.parametrize(
    "wanted",
    [torchprof.memory, torchprof.explain_oom, torchprof.replay_snapshot],
    ids=lambda function: function.__name__,
)
def test_what_is_no_snapshot_is_told_where_one_is_wanted(files: Path, wanted: Callable[[Any], Any], name: str) -> None:
    path = files / name
    with pytest.raises(TraceFileError) as refused:
        wanted(path)
    assert str(refused.value).startswith(f"{path}: not a memory snapshot of CUDA, but {IS[name]}")


def test_a_trace_where_the_snapshot_beside_one_is_wanted_is_told(files: Path) -> None:
    with pytest.raises(TraceFileError, match=r"own\.torchprof: not a memory snapshot of CUDA, but a trace of torchprof"):
        torchprof.memory(gpu_trace(memory=True), "cuda:0", snapshot=files / "own.torchprof")


def test_two_that_cannot_be_compared_are_told(files: Path) -> None:
    with pytest.raises(TraceFileError, match=r"model\.pt: not a torchprof trace, .* but what torch\.save wrote"):
        torchprof.diff(files / "own.torchprof", files / "model.pt")


@pytest.mark.parametrize(
    "table",
    [torchprof.by_module, torchprof.by_op, torchprof.by_line, torchprof.gpu, torchprof.findings, torchprof.figures],
    ids=lambda function: function.__name__,
)
def test_a_path_where_the_trace_itself_is_wanted_says_what_reads_one(files: Path, table: Callable[[Any], Any]) -> None:
    with pytest.raises(
        torchprof.ModuleTypeError, match=r"is a path, and no torchprof\.Trace: torchprof\.load\(path\) reads one"
    ):
        table(str(files / "own.torchprof"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for rank in range(2):
        loop = loop_trace()
        loop.facts.update(FACTS, rank=rank)
        loop.save(tmp_path / f"rank-{rank:04}-of-0002.torchprof")
    return tmp_path


@pytest.mark.parametrize("subcommand", ["memory", "gpu", "annotate", "diff", "explain-oom", "memory --snapshot"])
def test_a_folder_of_ranks_is_told_to_name_one_of_them(
    folder: Path, subcommand: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one = str(folder / "rank-0000-of-0002.torchprof")
    words = {
        "annotate": [str(folder), "forward"],
        "diff": [one, str(folder)],
        "memory --snapshot": [str(folder), "--snapshot", one],
    }
    assert main([subcommand.split()[0], *words.get(subcommand, [str(folder)])]) in (1, 2)
    said = capsys.readouterr().err
    assert said == (
        f"torchprof: {folder}: is a folder of 2 files: name that of one rank, such as {one}; "
        "torchprof show reads those of all ranks\n"
    )


def test_a_folder_of_ranks_is_told_in_python_too(folder: Path) -> None:
    one = folder / "rank-0000-of-0002.torchprof"
    for call in (
        lambda: torchprof.diff(one, folder),
        lambda: torchprof.memory(folder, snapshot=SNAPSHOT),
    ):
        with pytest.raises(
            TraceFileError, match=re.escape(f"{folder}: is a folder of 2 files: name that of one rank, such as {one}")
        ):
            call()
    for call in (torchprof.memory, torchprof.explain_oom, torchprof.replay_snapshot):
        with pytest.raises(TraceFileError, match=r"is a folder of traces, and no memory snapshot of CUDA: torchprof\.load"):
            call(folder)


def test_a_folder_of_one_snapshot_or_of_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(TraceFileError, match=r"is a folder, and one file is needed: no name in it ends in \.pickle"):
        torchprof.memory(tmp_path)
    (tmp_path / "a.pickle").write_bytes(pickle.dumps(SNAPSHOT))
    with pytest.raises(TraceFileError, match=r"is a folder, and one file is needed: name it, .*a\.pickle$"):
        torchprof.memory(tmp_path)


def without(path: Path, name: str) -> Path:
    """The file without a member, or with that member empty."""
    with zipfile.ZipFile(path) as archive:
        contents = {each: archive.read(each) for each in archive.namelist() if each != f"{name}.npy"}
    with zipfile.ZipFile(path, "w") as archive:
        for each, data in contents.items():
            archive.writestr(each, data)
    return path


@pytest.mark.parametrize("name", STACKS)
def test_a_file_that_lacks_a_table_of_stacks_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "lines.torchprof"
    training().trace().save(path)
    try:
        torchprof.load(without(path, name))
    except TraceFileError as error:
        assert str(error).startswith(f"{path}: damaged: ")  # noqa: PT017
    else:
        assert name not in ("functions", "stacks", "op_stacks")


def test_all_that_is_wrong_with_a_file_names_it(tmp_path: Path) -> None:
    """Each member in turn is missing, empty, of another layout or longer: what is said begins with the path."""
    path = tmp_path / "lines.torchprof"
    training().trace().save(path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    other = io.BytesIO()
    np.save(other, np.arange(5, dtype=np.float32))
    refused = 0
    for name in names:
        for data in (None, b"", other.getvalue()):
            path.write_bytes(whole)
            without(path, name.removesuffix(".npy"))
            if data is not None:
                with zipfile.ZipFile(path, "a") as archive:
                    archive.writestr(name, data)
            try:
                torchprof.load(path)
            except TraceFileError as error:
                refused += 1
                assert str(error).startswith(f"{path}: ")  # noqa: PT017
    assert refused > 2 * len(names)


@pytest.mark.parametrize(
    "snapshot",
    [
        {"weights": 1},
        {"segments": None},
        {"segments": [3]},
        {"segments": [], "device_traces": [[]]},
        {"segments": [], "device_traces": [[3]]},
        {"segments": [], "device_traces": [[{"action": "alloc"}]]},
        {"segments": [{"device": -1}]},
        {**SNAPSHOT, "allocator_settings": {"max_split_size": "much"}},
    ],
)
def test_what_is_wrong_with_a_snapshot_names_its_file(tmp_path: Path, snapshot: Any) -> None:
    path = tmp_path / "memory.pickle"
    path.write_bytes(pickle.dumps(snapshot))
    for read in (torchprof.explain_oom, torchprof.replay_snapshot):
        with pytest.raises(torchprof.ArgumentError) as refused:
            read(path)
        assert str(refused.value).startswith(f"{path}: ")
