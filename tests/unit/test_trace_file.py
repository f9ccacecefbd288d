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
from handwritten import loop_trace, trace, two_layer_trace
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
    assert str(refused.value) == f"{path}: not a torchprof trace; a memory snapshot of CUDA is read by torchprof.memory(path)"


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


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=8))
def test_whatever_is_wrong_with_a_file_it_is_said_in_one_way(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    two_layer_trace().save(tmp_path / "good")
    damaged = bytearray((tmp_path / "good").read_bytes())
    for place, value in changes:
        damaged[place % len(damaged)] = value
    (tmp_path / "bad").write_bytes(damaged)
    with suppress(TraceFileError):
        torchprof.load(tmp_path / "bad")


@pytest.mark.parametrize(
    ("table", "column", "number"),
    [
        ("ops", "parent", 0),
        ("module_calls", "parent", 1),
        ("ops", "signature", 10**6),
        ("ops", "module_call", 10**6),
        ("module_calls", "module", 10**6),
        ("tensors", "shape", 10**6),
        ("shapes", "first", 10**6),
        ("operands", None, 10**6),
    ],
)
def test_rows_that_cannot_be_followed_are_damage(tmp_path: Path, table: str, column: str | None, number: int) -> None:
    damaged = loop_trace() if table == "ops" else two_layer_trace()
    rows = getattr(damaged, table).copy()
    (rows if column is None else rows[column])[0] = number
    path = tmp_path / "damaged.torchprof"
    replace(damaged, **{table: rows}).save(path)
    with pytest.raises(TraceFileError, match=r"damaged: rows (name|of) "):
        torchprof.load(path)


@pytest.mark.parametrize("path", [None, 5, 1.5, b"steps.torchprof"])
def test_what_is_no_path_is_named(path: Any) -> None:
    with pytest.raises(ArgumentError, match=re.escape(f"path={path!r} is not a path")):
        torchprof.load(path)
