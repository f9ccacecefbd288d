"""Files of torch.profiler with anything wrong in them: they are read, or refused with an error that says so."""

from __future__ import annotations

import gzip
import json
import os
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kineto_files import (
    AUTOGRAD,
    MAIN,
    Event,
    allocation,
    copy,
    document,
    event,
    function,
    kernel,
    launch,
    module,
    names,
    op,
    read,
    step,
    user_range,
)

import torchprof
from torchprof.importers.kineto import event as of_event

SHAPES = {"dims": [[4, 8], [8, 2], []], "types": ["float", "float", "Scalar"], "values": ["", "", "1"]}
EVERYTHING: list[Event] = [
    step(3, 0, 100),
    op("aten::mm", 10, 20, id=1, seq=0, fwd=0, **SHAPES),
    op(
        "aten::convolution",
        12,
        5,
        id=2,
        dims=[[1, 3, 8, 8], [4, 3, 3, 3], []],
        types=["float", "float", ""],
        values=["", "", ""],
    ),
    op("MmBackward0", 60, 20, id=3, seq=0, fwd=1, tid=AUTOGRAD),
    user_range("batch", 5, 40),
    module("Net_0", 8, 40),
    function("net.py(3): forward", 9, 30),
    launch(15, 2, 7),
    launch(62, 2, 8, tid=AUTOGRAD),
    kernel("gemm", 30, 10, 7, grid=[1, 2, 3], block=[32, 1, 1]),
    copy("Memcpy HtoD (Pageable -> Device)", 70, 3, 8, bytes=64),
    allocation(14, 4096, 512, total=512, reserved=1024),
    allocation(40, 4096, -512, total=0, reserved=1024),
]
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    2**70,
    1e300,
    0.5,
    "",
    "x",
    "12",
    "nan",
    [],
    [[[]]],
    [None],
    {},
    {"a": [{}]},
]


def use(trace: torchprof.Trace, folder: Path) -> None:
    """Everything that a trace is for."""
    for table in (torchprof.by_op, torchprof.by_module):
        assert str(table(trace))
    if len(trace.steps):
        assert str(torchprof.by_step(trace))
    if len(trace.stacks):
        assert str(torchprof.by_line(trace))
        assert str(torchprof.by_function(trace, libraries=True))
    if trace.facts["gpu"] != "off":
        assert str(torchprof.gpu(trace))
        assert str(torchprof.by_kernel(trace))
    if trace.facts["memory"]:
        assert str(torchprof.memory(trace))
    torchprof.export_chrome(trace, folder / "timeline.json")
    json.loads((folder / "timeline.json").read_text())
    torchprof.export_folded(trace, folder / "folded")
    trace.save(folder / "saved")
    torchprof.load(folder / "saved")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@st.composite
def changed(draw: Any) -> list[Any]:
    """Events of all kinds, of which some have a value of another kind, are missing, twice, or in another order."""
    events: list[Any] = json.loads(json.dumps(EVERYTHING))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(events) - 1))
        what = draw(st.sampled_from(["value", "argument", "drop", "twice", "replace"]))
        if what == "drop":
            del events[at]
        elif what == "twice":
            events.append(json.loads(json.dumps(events[at])))
        elif what == "replace":
            events[at] = deepcopy(draw(st.sampled_from(VALUES)))
        elif isinstance(events[at], dict):
            place = events[at] if what == "value" or not isinstance(events[at].get("args"), dict) else events[at]["args"]
            if place:
                place[draw(st.sampled_from(sorted(place)))] = deepcopy(draw(st.sampled_from(VALUES)))
        if not events:
            break
    return draw(st.permutations(events)) if draw(st.booleans()) else events


@given(changed(), st.booleans())
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_events_with_anything_in_them_make_a_trace(folder: Path, events: list[Any], plainly: bool) -> None:
    path = folder / "changed.json"
    path.write_text(document(events))
    with pytest.MonkeyPatch.context() as patch:
        if plainly:
            patch.setattr(of_event, "_decoder", None)
        use(torchprof.load(path), folder)


@given(st.data(), st.booleans())
@settings(max_examples=150)
def test_bytes_that_were_damaged_make_a_trace_or_an_error(folder: Path, data: st.DataObject, packed: bool) -> None:
    whole = bytearray(document(EVERYTHING).encode())
    if packed:
        whole = bytearray(gzip.compress(bytes(whole)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        what = data.draw(st.sampled_from(["flip", "cut", "insert", "drop"]))
        if what == "flip":
            whole[at] = data.draw(st.integers(0, 255))
        elif what == "cut":
            del whole[at + 1 :]
        elif what == "insert":
            whole[at:at] = data.draw(st.sampled_from([b'"', b"{", b"}]", b",", b"\x00", b"\xff\xfe", b"nan"]))
        else:
            del whole[at : at + data.draw(st.integers(1, 40))]
        if not whole:
            break
    path = folder / "bytes.json"
    path.write_bytes(bytes(whole))
    with suppress(torchprof.TraceFileError):
        use(torchprof.load(path), folder)


@pytest.mark.parametrize(
    "contents",
    [
        document(EVERYTHING).encode("utf-16"),
        document(EVERYTHING).encode("utf-32"),
        b"<!DOCTYPE html><html><body>Sign in</body></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        bytes(range(256)) * 20,
        b"\x00" * 5000,
        gzip.compress(gzip.compress(document(EVERYTHING).encode(), mtime=0), mtime=0),
        b"\x28\xb5\x2f\xfd" + b"\x00" * 100,
        b'"text"',
        b"12",
        b"null",
        b"[" * 100_000,
        b'{"traceEvents": ' + b"[" * 100_000,
        b'{"schemaVersion": 1, "traceEvents": [' + b'{"args": ' * 100_000,
        b'{"traceEvents": null}',
        b'{"traceEvents": 5, "schemaVersion": 1}',
    ],
    ids=lambda contents: repr(contents[:24]),
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(contents)
    with pytest.raises(torchprof.TraceFileError) as raised:
        torchprof.load(path)
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 500


def test_a_folder_and_a_file_that_may_not_be_read_are_errors_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(torchprof.TraceFileError, match="a folder without traces"):
        torchprof.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        torchprof.load(tmp_path / "none.json")
    if os.geteuid():  # root may read anything
        (tmp_path / "locked.json").write_text(document(EVERYTHING))
        (tmp_path / "locked.json").chmod(0)
        with pytest.raises(PermissionError):
            torchprof.load(tmp_path / "locked.json")


def test_ranks_that_were_merged_into_one_file_are_threads_of_their_own(tmp_path: Path) -> None:
    def rank(pid: int, device: int) -> list[Event]:
        made = [op("aten::mm", 10, 20, id=pid), launch(12, 2, pid), kernel("gemm", 40, 10, pid, device=device)]
        return [{**each, "pid": pid, "tid": pid} if each["cat"] != "kernel" else each for each in made]

    trace = read(tmp_path, *rank(1000, 0), *rank(2000, 1))
    assert trace.ops["thread"].tolist() == [0, 1]
    assert trace.ops["parent"].tolist() == [-1, -1]
    assert [trace.ops["thread"][row] for row in trace.kernels["op"]] == [0, 1]
    assert trace.kernels["device_index"].tolist() == [0, 1]


def test_steps_of_a_schedule_with_gaps_keep_their_numbers(tmp_path: Path) -> None:
    events = [step(2, 0, 100), op("aten::mm", 10, 20), step(3, 100, 100), op("aten::mm", 110, 20), step(9, 800, 100)]
    trace = read(tmp_path, *events, op("aten::mm", 810, 20), op("aten::mm", 400, 20))
    assert trace.steps["number"].tolist() == [2, 3, 9]
    assert torchprof.by_op(trace).rows[0]["calls"] == 1


def test_annotations_of_what_runs_meanwhile_are_left_out_and_said(tmp_path: Path) -> None:
    meanwhile = [{"ph": phase, "cat": "async_op", "name": "copy", "id": 1, "pid": 1, "tid": 1, "ts": 5} for phase in "be"]
    trace = read(tmp_path, op("aten::mm", 0, 5), *meanwhile)
    assert names(trace) == ["aten::mm"]
    assert "events of other kinds are left out: 2 async_op" in trace.facts["notes"]


@pytest.mark.parametrize("category", ["cpu_op", "user_annotation"])
def test_metadata_of_collectives_is_kept(tmp_path: Path, category: str) -> None:
    metadata = {
        "Collective name": "allreduce_coalesced",
        "dtype": "BFloat16",
        "In msg nelems": 1024,
        "Out msg nelems": 1024,
        "Group size": 8,
        "Process Group Name": "0",
        "Process Group Description": "default_pg",
        "Process Group Ranks": "[0, 1, ..., 7]",
    }
    trace = read(
        tmp_path,
        event(category, "record_param_comms", 10, 20, args={"External id": 5, **metadata}),
        launch(12, 2, 1, tid=MAIN),
        {**kernel("ncclDevKernel_AllReduce_Sum_bf16", 40, 10, 1), "args": {"correlation": 1, "stream": 20, **metadata}},
        distributedInfo={"backend": "nccl", "rank": 3, "world_size": 8},
    )
    of_op, of_kernel = trace.facts["collectives"]
    assert (of_op["table"], of_op["row"], of_kernel["table"], of_kernel["row"]) == ("ops", 0, "kernels", 0)
    assert (of_op["name"], of_op["in_elements"], of_op["group"], of_op["ranks"]) == (
        "allreduce_coalesced",
        1024,
        "0",
        "[0, 1, ..., 7]",
    )
    assert trace.facts["distributed"]["rank"] == 3


@pytest.mark.parametrize("plainly", [False, True])
def test_odd_events_are_counted_and_the_file_is_still_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plainly: bool
) -> None:
    if plainly:
        monkeypatch.setattr(of_event, "_decoder", None)
    trace = read(tmp_path, op("aten::mm", 0, 5), 5, [1], None, {**op("aten::add", 10, 5), "args": [1]})  # type: ignore[arg-type]
    assert names(trace) == ["aten::mm", "aten::add"]
    notes = "\n".join(trace.facts["notes"])
    assert "4 events are no objects, or their args are none" in notes
    assert "JSON" not in notes


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_said_with_either_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path = tmp_path / "trace.json"
    path.write_text(document([op("aten::mm", 0, 5, seq=123456)]).replace("123456", text))
    for decoder in (of_event._decoder, None):
        monkeypatch.setattr(of_event, "_decoder", decoder)
        assert any("1 piece of the file was no valid JSON" in note for note in torchprof.load(path).facts["notes"])


def test_a_gzip_that_was_cut_says_how_long_the_file_is(tmp_path: Path) -> None:
    packed = gzip.compress(document(EVERYTHING * 20).encode())[:300]
    path = tmp_path / "cut.json.gz"
    path.write_bytes(packed)
    with pytest.raises(torchprof.TraceFileError, match="cut short after 300 packed bytes"):
        torchprof.load(path)


@pytest.mark.parametrize("device", [-3, 128, 2**40, "x", None])
def test_a_kernel_of_no_device_is_shown_on_that_of_its_process_or_the_first(tmp_path: Path, device: Any) -> None:
    of_process = {**kernel("gemm", 40, 10, 1, device=3), "args": {"device": device, "stream": 7, "correlation": 1}}
    nowhere = {**of_process, "pid": device, "ts": 60}
    trace = read(tmp_path, op("aten::mm", 0, 20), launch(5, 1, 1), of_process, nowhere)
    assert trace.kernels["device_index"].tolist() == [3, 0]
    note = "1 kernel, copy or fill says no device that can be: shown on the first"
    assert note in trace.facts["notes"]
    assert note in str(torchprof.gpu(trace))


@pytest.mark.parametrize("sizes", [[2**60, 2**60], [2**62, 2], [2**40, 2**40], [2**27, 2**27]])
def test_sizes_that_no_tensor_has_are_unknown(tmp_path: Path, sizes: list[int]) -> None:
    events = [
        op(name, at, 5, dims=[sizes, sizes], types=["float", "float"], values=["", ""])
        for at, name in ((0, "aten::mm"), (10, "aten::add"))
    ]
    trace = read(tmp_path, *events)
    flops, moved = ({row["name"]: row[name] for row in torchprof.by_op(trace).rows} for name in ("flops", "bytes"))
    assert flops["aten::mm"] is None
    assert all(size is None or size >= 0 for size in moved.values())
    use(trace, tmp_path)
