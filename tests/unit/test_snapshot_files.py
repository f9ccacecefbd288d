"""Files of CUDA memory snapshots: what is read, and what is refused. Without the extension."""

from __future__ import annotations

import gzip
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchprof.errors import ArgumentError, ModuleTypeError, TraceFileError
from torchprof.importers import snapshot_file
from torchprof.importers.cuda_snapshot import CudaSnapshot
from torchprof.importers.load import load
from torchprof.importers.snapshot_entries import SnapshotBlock, SnapshotEvent, SnapshotSegment
from torchprof.importers.snapshot_file import read_snapshot

FRAMES = [
    {"filename": "??", "line": 0, "name": "at::empty"},
    {"filename": "model.py", "line": 7, "name": "forward"},
    {"filename": "train.py", "line": 3, "name": "step"},
]
SEGMENT: dict[str, Any] = {
    "device": 0,
    "address": 4096,
    "total_size": 2048,
    "segment_type": "small",
    "blocks": [{"size": 512, "state": "active_allocated", "frames": FRAMES}, {"size": 1536, "state": "inactive"}],
}
SNAPSHOT = {"segments": [SEGMENT], "device_traces": [[{"action": "alloc", "addr": 4096, "size": 5, "frames": FRAMES}]]}


class Code:
    """A pickle of it calls a function when it is read."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.ran),)


@pytest.mark.parametrize("write", [lambda data: data, gzip.compress])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_snapshot_is_read_plain_or_in_gzip_whatever_its_name(
    tmp_path: Path, write: Callable[[bytes], bytes], protocol: int
) -> None:
    path = tmp_path / "memory"
    path.write_bytes(write(pickle.dumps(SNAPSHOT, protocol)))
    assert read_snapshot(path) == SNAPSHOT
    snapshot = CudaSnapshot.of(path)
    blocks = (SnapshotBlock(512, "active_allocated", FRAMES), SnapshotBlock(1536, "inactive"))
    assert snapshot.segments(0) == [SnapshotSegment(4096, 2048, (0, (0, 0)), True, False, blocks)]
    assert snapshot.history(0) == [SnapshotEvent("alloc", 4096, 5, (0, (0, 0)))]
    assert snapshot.frames(0, 0) == FRAMES


def test_the_list_of_segments_alone_is_a_snapshot_without_history() -> None:
    snapshot = CudaSnapshot.of([SEGMENT])
    assert (len(snapshot.segments(0)), snapshot.has_history(0), snapshot.devices) == (1, False, [0])


def test_what_would_import_is_refused_before_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "bad.pickle"
    path.write_bytes(pickle.dumps({"segments": [Code(tmp_path / "ran")]}))
    with pytest.raises(TraceFileError, match=r"asks to import posix\.mkdir"):
        read_snapshot(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("wrap", [lambda data: data, gzip.compress])
def test_a_file_that_was_cut_anywhere_is_said_to_be(tmp_path: Path, wrap: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "cut.pickle"
    data = wrap(pickle.dumps(SNAPSHOT))
    for size in range(1, len(data) - 8):
        path.write_bytes(data[:size])
        with pytest.raises(TraceFileError, match=r"cut\.pickle: "):
            read_snapshot(path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "but empty"),
        (b"hello", "but no pickle"),
        (b'{"traceEvents": []}', "but a file of torch.profiler"),
        (b"<!DOCTYPE html>", "but a page"),
        (b"PK\x03\x04..", "but a zip archive: unpack it first"),
        (pickle.dumps(3), "a pickle, but of int"),
        (b"\x80\x04\x95" + b"\xff" * 8, "damaged or cut short"),
        (b"\x80\x02r\xff\xff\xff\x7f.", "damaged"),
        (gzip.compress(b"text", mtime=0), "but no pickle"),
    ],
)
def test_other_files_are_named(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "other"
    path.write_bytes(data)
    with pytest.raises(TraceFileError, match=says):
        read_snapshot(path)


def test_what_gzip_makes_too_large_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_file, "LARGEST", 2**21)
    path = tmp_path / "large.pickle.gz"
    path.write_bytes(gzip.compress(pickle.dumps({"segments": "a" * 2**22})))
    with pytest.raises(TraceFileError, match="record fewer entries"):
        read_snapshot(path)


@pytest.mark.parametrize("write", [lambda data: data, gzip.compress])
def test_load_names_the_function_that_reads_a_snapshot(tmp_path: Path, write: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "memory.pickle"
    path.write_bytes(write(pickle.dumps(SNAPSHOT)))
    with pytest.raises(TraceFileError, match=r"a memory snapshot of CUDA: torchprof\.memory\(path\) reads it"):
        load(path)


def test_what_cannot_be_opened_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_snapshot(tmp_path / "none.pickle")
    with pytest.raises(TraceFileError, match="is a folder, and one file is needed"):
        read_snapshot(tmp_path)
    with pytest.raises(ArgumentError, match="is not a path"):
        read_snapshot("\0")


def test_what_is_no_snapshot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModuleTypeError, match=r"snapshot=3 is none: give what torch\.cuda\.memory\._snapshot\(\) returned"):
        CudaSnapshot.of(3)
    with pytest.raises(ArgumentError, match=r"snapshot: it has no 'segments', but 'weights': a snapshot of"):
        CudaSnapshot.of({"weights": []})
    with pytest.raises(ArgumentError, match=r"snapshot: \['segments'\] is None and must be a list"):
        CudaSnapshot.of({"segments": None})
    with pytest.raises(ArgumentError, match="number 0 of the segments"):
        CudaSnapshot.of(["text"]).segments(0)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "but empty"),
        (gzip.compress(b"", mtime=0), "but empty"),
        ("text".encode("utf-16"), "but text in UTF-16"),
        ('{"traceEvents": []}'.encode("utf-16-le"), "but text in UTF-16"),
        ("[1]".encode("utf-16-be"), "but text in UTF-16"),
        (b"PK\x03\x04" + b"\0" * 60, "zip archive"),
        (b"\x28\xb5\x2f\xfd" + b"\0" * 60, "but packed by Zstandard: unpack it first"),
        (b"BZh91AY", "but packed by bzip2"),
        (b"\xfd7zXZ\0", "but packed by xz"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a", "but a pointer of Git LFS"),
        (b"\xef\xbb\xbf<html>", "but a page"),
    ],
)
def test_what_a_file_is_instead_is_said_by_what_reads_it(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(TraceFileError, match=says):
        read_snapshot(path)
    if not data.startswith(b"PK"):
        with pytest.raises(TraceFileError, match=says):
            load(path)


def test_a_zip_archive_of_other_files_is_to_be_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "trace.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("trace.json", "{}")
    with pytest.raises(TraceFileError, match=r"trace\.zip: a zip archive, but not a torchprof trace: unpack it first"):
        load(path)


def test_arrays_of_numpy_are_called_so(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    np.savez(path, weight=np.zeros(3))
    with pytest.raises(TraceFileError, match=r"weights\.npz: not a torchprof trace, but arrays of numpy \(\.npz\)"):
        load(path)


@pytest.mark.parametrize("wrong", [{"segments": [1] * 1000}, None, 5, [0] * 1000, 10**5000], ids=type)
def test_what_is_no_path_is_named_in_short(wrong: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^path=.* is not a path$") as raised:
        load(wrong)
    assert len(str(raised.value)) < 120


@pytest.mark.parametrize(("entry", "free"), [({"device_free": 7}, 7), ({"addr": 7}, 7), ({}, -1), ({"device_free": None}, -1)])
def test_what_a_device_had_free_is_unknown_without_it(entry: dict[str, Any], free: int) -> None:
    snapshot = CudaSnapshot.of({"segments": [], "device_traces": [[{"action": "oom", "size": 5, **entry}]]})
    assert snapshot.history(0)[0].address == free


@pytest.mark.parametrize("entry", ["alloc", 5, None, {"addr": 4096, "size": 5}])
def test_an_entry_that_cannot_be_read_is_named_by_all_that_read_it(entry: Any) -> None:
    snapshot = CudaSnapshot.of({**SNAPSHOT, "device_traces": [[*SNAPSHOT["device_traces"][0], entry]]})
    for read in (snapshot.history, snapshot.changes, snapshot.unknown_actions):
        with pytest.raises(ArgumentError, match=r"device_traces\[0\]\[1\] cannot be read"):
            read(0)


def test_an_entry_without_an_address_is_none() -> None:
    snapshot = CudaSnapshot.of({"segments": [], "device_traces": [[{"action": "alloc", "size": 5}]]})
    with pytest.raises(ArgumentError, match=r"device_traces\[0\]\[0\] cannot be read: it has no 'addr'"):
        snapshot.history(0)
