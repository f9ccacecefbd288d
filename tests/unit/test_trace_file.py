"""Traces on disk: what is written is read back, and what is no trace is refused in words."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handwritten import trace, two_layer_trace
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import torchprof
from torchprof import ArgumentError, TraceFileError
from torchprof.analysis.model.summary import rows_and_totals
from torchprof.trace.file import FORMAT
from torchprof.trace.schema import LAYOUTS
from torchprof.trace.trace import Trace


def rewritten(path: Path, **members: bytes) -> Path:
    """The file with some members of its archive replaced."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents |= {f"{name}.npy": data for name, data in members.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def as_npy(array: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "two.torchprof"
    two_layer_trace().save(path)
    return path


def test_a_file_that_is_no_archive_is_refused_without_advice_about_pickles(tmp_path: Path) -> None:
    path = tmp_path / "x.torchprof"
    path.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(torchprof.TraceFileError) as refused:
        torchprof.load(path)
    assert str(refused.value) == (
        f"{path}: not a torchprof trace, but a pickle: torchprof.memory(path) reads those that "
        "torch.cuda.memory._dump_snapshot wrote"
    )


def test_a_saved_trace_is_read_back_as_it_was(saved: Path) -> None:
    before, after = two_layer_trace(), torchprof.load(saved)
    for name in LAYOUTS:
        assert np.array_equal(getattr(before, name), getattr(after, name)), name
    assert (after.strings, after.facts, after.model) == (before.strings, before.facts, before.model)
    assert (after.dtypes, after.device_types) == (before.dtypes, before.device_types)
    assert np.array_equal(before.signature_flops, after.signature_flops)
    assert rows_and_totals(after) == rows_and_totals(before)


def test_the_name_of_the_file_is_the_one_that_was_given(saved: Path) -> None:
    assert [path.name for path in saved.parent.iterdir()] == ["two.torchprof"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(saved: Path, share: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(torchprof.TraceFileError, match=r"two\.torchprof"):
        torchprof.load(saved)


@pytest.mark.parametrize("contents", [b"hello", b"\x80\x04\x95", b"PK\x03\x04 no archive", as_npy(np.arange(3))])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(contents)
    with pytest.raises(torchprof.TraceFileError, match="other"):
        torchprof.load(path)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, a=np.arange(3))
    with pytest.raises(torchprof.TraceFileError, match="not a torchprof trace"):
        torchprof.load(path)


def test_a_newer_format_says_to_update(saved: Path) -> None:
    document = json.dumps({"torchprof": FORMAT + 1}).encode()
    with pytest.raises(torchprof.TraceFileError, match=f"newer torchprof .format {FORMAT + 1}.*update"):
        torchprof.load(rewritten(saved, document=as_npy(np.frombuffer(document, dtype=np.uint8))))


def test_an_older_format_says_what_to_do(saved: Path) -> None:
    document = json.dumps({"torchprof": 3}).encode()
    with pytest.raises(torchprof.TraceFileError, match=r"older torchprof .format 3; .*record it again"):
        torchprof.load(rewritten(saved, document=as_npy(np.frombuffer(document, dtype=np.uint8))))


def test_flops_of_other_signatures_are_refused(saved: Path) -> None:
    flops = as_npy(np.zeros(7, dtype=np.int64))
    with pytest.raises(torchprof.TraceFileError, match=r"two\.torchprof: damaged: it has FLOPs for 7 of"):
        torchprof.load(rewritten(saved, signature_flops=flops))
    with pytest.raises(torchprof.TraceFileError, match="FLOPs for 7 of"):
        replace(two_layer_trace(), signature_flops=np.zeros(7, dtype=np.int64))


def test_an_empty_trace_is_saved_and_shown(tmp_path: Path) -> None:
    Trace.empty().save(tmp_path / "empty")
    empty = torchprof.load(tmp_path / "empty")
    assert all(len(getattr(empty, name)) == 0 for name in LAYOUTS)
    assert torchprof.by_op(empty).rows == []


def test_pickled_objects_are_never_loaded(saved: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (pytest.fail, ("a pickle was loaded",))

    evil = as_npy(np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(torchprof.TraceFileError):
        torchprof.load(rewritten(saved, ops=evil))


def test_a_missing_file_is_pythons_own_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        torchprof.load(tmp_path / "nowhere")


def test_tables_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        two_layer_trace().ops["start"] = 0


def test_a_table_with_other_columns_is_refused() -> None:
    with pytest.raises(torchprof.TraceFileError, match="'shapes'"):
        replace(trace(), shapes=np.zeros(3))


def test_a_saved_trace_is_analysed_where_the_extension_is_missing(saved: Path) -> None:
    script = """
import sys
sys.modules["torchprof._C"] = None
import torchprof
from torchprof.analysis.model.summary import rows_and_totals
from torchprof.rendering import torchsummary
from torchprof.tables.summary import summary_table
trace = torchprof.load(sys.argv[1])
rows, totals = rows_and_totals(trace)
print(summary_table(rows, totals))
print(torchsummary.render(trace))
try:
    with torchprof.profile():
        pass
except torchprof.ExtensionError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script, saved], capture_output=True, text=True, check=True)
    assert "act (ReLU)" in done.stdout
    assert "Total params" in done.stdout
    assert "cannot be loaded" in done.stdout


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=8))
def test_whatever_is_wrong_with_a_file_it_is_said_in_one_way(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    two_layer_trace().save(tmp_path / "good")
    damaged = bytearray((tmp_path / "good").read_bytes())
    for place, value in changes:
        damaged[place % len(damaged)] = value
    (tmp_path / "bad").write_bytes(damaged)
    with suppress(TraceFileError):
        torchprof.load(tmp_path / "bad")


def damaged(tmp_path: Path, whole: Trace, table: str, column: str, row: int, number: int) -> Path:
    """The file of a trace of which one number is another."""
    rows = getattr(whole, table).copy()
    (rows[column] if column else rows)[row] = number
    path = tmp_path / "damaged.torchprof"
    replace(whole, **{table: rows}).save(path)
    return path


@pytest.mark.parametrize(
    ("table", "column", "row", "number", "said"),
    [
        ("ops", "parent", 0, 0, "row 0 of ops is not inside another that comes before it"),
        ("ops", "parent", 1, -2, "parent -2 in row 1 of ops is not between -1 and 2147483648"),
        ("ops", "start", 0, 2**60, f"start {2**60} in row 0 of ops is not between 0 and {2**55}"),
        ("ops", "start", 1, 0, "row 1 of ops began before the row above it, on the same thread"),
        ("ops", "end", 2, 1, "row 2 of ops ends before it begins"),
        ("ops", "flags", 2, 96, "flags 96 in row 2 of ops is not between 0 and 95"),
        ("ops", "signature", 1, 10**6, "signature 1000000 in row 1 of ops names signatures that are not there"),
        ("ops", "module_call", 1, 10**6, "module_call 1000000 in row 1 of ops names module_calls that are not there"),
        ("ops", "inputs", 1, 2**32 - 1, f"inputs {2**32 - 1} in row 1 of ops names operands that are not there"),
        ("ops", "thread", 2, 1, "thread 1 in row 2 of ops names threads that are not there"),
        ("signatures", "name", 0, 2**31, f"name {2**31} in row 0 of signatures names strings that are not there"),
        ("steps", "end", 1, -1, f"end -1 in row 1 of steps is not between 0 and {2**55}"),
        ("steps", "end", 0, 0, "row 0 of steps ends before it begins"),
        ("steps", "start", 1, 0, "row 1 of steps began before the row above it"),
        ("marks", "name", 0, 9999, "name 9999 in row 0 of marks names strings that are not there"),
    ],
)
def test_a_row_that_cannot_be_followed_is_named(
    tmp_path: Path, table: str, column: str, row: int, number: int, said: str
) -> None:
    whole = trace(
        strings=["aten::add", "here"],
        ops=[{"name": 0, "start": start, "end": start + 5} for start in (10, 20, 30)],
        steps=[{"start": 5, "end": 40}, {"start": 40, "end": 50}],
        marks=[{"time": 7, "name": 1}],
    )
    path = damaged(tmp_path, whole, table, column, row, number)
    with pytest.raises(TraceFileError) as refused:
        torchprof.load(path)
    assert str(refused.value) == f"{path}: damaged: {said}"


@pytest.mark.parametrize(
    ("table", "column", "number"),
    [
        ("module_calls", "parent", 1),
        ("module_calls", "module", 10**6),
        ("tensors", "shape", 10**6),
        ("shapes", "first", 10**6),
        ("operands", "", 10**6),
        ("operands", "", -1),
        ("modules", "type", 10**6),
        ("dims", "", -3),
    ],
)
def test_rows_that_cannot_be_followed_are_damage(tmp_path: Path, table: str, column: str, number: int) -> None:
    with pytest.raises(TraceFileError, match=rf"damaged: .*row 0 of {table} "):
        torchprof.load(damaged(tmp_path, two_layer_trace(), table, column, 0, number))


def test_a_row_is_found_wherever_it_is(tmp_path: Path) -> None:
    many = trace(strings=["aten::add"], ops=[{"name": 0, "start": start, "end": start} for start in range(20_000)])
    for row in (0, 8191, 8192, 8193, 19_999):
        with pytest.raises(TraceFileError, match=rf"parent {row} in|row {row} of ops is not inside another"):
            torchprof.load(damaged(tmp_path, many, "ops", "parent", row, row))
    assert len(torchprof.load(damaged(tmp_path, many, "ops", "parent", 19_999, 19_998)).ops) == 20_000


@pytest.mark.parametrize(
    ("member", "array", "said"),
    [
        ("ops", np.zeros(3, dtype=[("end", "i8"), ("start", "i8")]), "ops has 1 dimensions of .*'end'.*, not rows of"),
        ("ops", np.arange(5.5), "ops has 1 dimensions of float64, not rows of"),
        ("operands", np.zeros((2, 2), dtype=np.int32), "operands has 2 dimensions of int32, not rows of int32"),
        ("dims", np.array([np.nan]), "dims has 1 dimensions of float64"),
        ("operands", np.zeros(3, dtype=">i4"), "operands has 1 dimensions of >i4"),
        ("signature_flops", np.zeros((), dtype=np.int64), "signature_flops has 0 dimensions"),
    ],
)
def test_arrays_of_another_kind_are_not_cast(saved: Path, member: str, array: Any, said: str) -> None:
    with pytest.raises(TraceFileError, match=f"damaged: {said}"):
        torchprof.load(rewritten(saved, **{member: as_npy(array)}))


def test_rows_that_are_not_there_take_no_memory(saved: Path) -> None:
    array = as_npy(np.zeros(0, dtype=np.int32))
    claims = array.replace(b"(0,), }" + b" " * 10, b"(99999999999,), }")
    assert len(claims) == len(array)
    with pytest.raises(TraceFileError, match=r"damaged: operands has 0 bytes, not those of 99,999,999,999 rows"):
        torchprof.load(rewritten(saved, operands=claims))


def test_what_is_compressed_is_refused_before_it_is_read(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    with pytest.raises(TraceFileError, match=r"damaged: document is compressed or encrypted, and torchprof writes neither"):
        torchprof.load(saved)


def with_document(saved: Path, **changes: Any) -> Path:
    with zipfile.ZipFile(saved) as archive:
        document = json.loads(np.load(io.BytesIO(archive.read("document.npy"))).tobytes())
    text = json.dumps({**document, **changes}).encode()
    return rewritten(saved, document=as_npy(np.frombuffer(text, dtype=np.uint8)))


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ([], "facts are list"),
        ({"duration_ns": "5"}, "facts['duration_ns'] is '5'"),
        ({"duration_ns": True}, "facts['duration_ns'] is True"),
        ({"duration_ns": 2**70}, f"facts['duration_ns'] is {2**70}"),
        ({"losses": {"ops": None}}, "facts['losses'] is {'ops': None}"),
        ({"unread_modules": 5}, "facts['unread_modules'] is 5"),
        ({"notes": "one"}, "facts['notes'] is 'one'"),
        ({"phase_ns": [1, 2]}, "facts['phase_ns'] is [1, 2]"),
    ],
)
def test_facts_of_another_kind_are_named(saved: Path, facts: Any, said: str) -> None:
    with pytest.raises(TraceFileError) as refused:
        torchprof.load(with_document(saved, facts=facts))
    assert str(refused.value) == f"{saved}: damaged: {said}"


def test_facts_that_nothing_reads_are_kept(saved: Path) -> None:
    assert torchprof.load(with_document(saved, facts={"mine": [1, {"a": None}]})).facts == {"mine": [1, {"a": None}]}


ROOT = {"path": "", "name": "Net", "type": "Net", "parent": -1, "depth": 0, "address": 1, "parameters": [], "buffers": []}
WEIGHT = {"name": "w", "shape": [2], "dtype": "float32", "device": "cpu", "numel": 2, "bytes": 8, "trainable": True}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({}, "the model is dict, not a list of modules"),
        ([5], "module 0 of the model has no path"),
        ([{**ROOT, "parent": 0}], "module 0 of the model is not inside another that comes before it"),
        ([ROOT, {**ROOT, "parent": 0, "same_as": 1}], "module 1 of the model is not inside another"),
        ([ROOT, {**ROOT, "parent": 0, "depth": 2**31}], f"module 1 of the model is at depth {2**31}, not one below"),
        ([{**ROOT, "type": None}], "module 0 of the model has no type, or another"),
        ([{**ROOT, "parameters": 3}], "module 0 of the model has no parameters, or another"),
        ([{**ROOT, "parameters": [{**WEIGHT, "numel": "2"}]}], "module 0 of the model has no numel, or another"),
        ([{**ROOT, "parameters": [{**WEIGHT, "shape": 2}]}], "module 0 of the model has no shape, or another"),
    ],
)
def test_a_model_of_another_kind_is_named(saved: Path, model: Any, said: str) -> None:
    with pytest.raises(TraceFileError, match=re.escape(said)):
        torchprof.load(with_document(saved, model=model))


def test_a_model_is_read_with_its_tensors(saved: Path) -> None:
    read = torchprof.load(with_document(saved, model=[{**ROOT, "parameters": [WEIGHT], "kernel_size": [3, 3]}])).model
    assert read is not None
    assert (read.modules[0].parameters[0].shape, read.modules[0].kernel_size) == ((2,), (3, 3))


@pytest.mark.parametrize("path", [None, 5, 1.5, {"steps.torchprof"}])
def test_what_is_no_path_is_named(path: Any) -> None:
    with pytest.raises(ArgumentError, match=re.escape(f"path={path!r} is not a path")):
        torchprof.load(path)


@pytest.mark.parametrize("row", [5, "a", None, np.zeros(0, np.int64)])
def test_shapes_know_their_rows(row: Any) -> None:
    with pytest.raises(ArgumentError, match="must be a row of shapes, of which there are 0"):
        Trace.empty().shape(row)
