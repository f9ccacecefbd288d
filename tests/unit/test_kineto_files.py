"""Files of torch.profiler as files: packed, cut, damaged, of other tools, and with things that should not be in them."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kineto_files import document, event, kernel, launch, module, names, op, read, step

import torchprof
from torchprof.importers import progress
from torchprof.importers.kineto import document as of_document
from torchprof.importers.kineto import event as of_event
from torchprof.importers.kineto.numbers import integer, integers, nanoseconds

EVENTS = [
    step(0, 0, 1000),
    module("Net_0", 1, 900),
    *(op(f"aten::op{n}", 10 * n + 2, 5, id=n, dims=[[n, 2]], types=["float"]) for n in range(50)),
    *(launch(10 * n + 3, 2, n) for n in range(1, 50)),
    *(kernel(f'k "{n}" }}, {{"ph": [', 10 * n + 8, 1.5, n) for n in range(1, 50)),
]


def figures(trace: torchprof.Trace) -> list[str]:
    """All that tables say."""
    return [str(table(trace)) for table in (torchprof.by_op, torchprof.by_module, torchprof.by_kernel, torchprof.gpu)]


@pytest.fixture(params=["msgspec", "json"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With msgspec, and with the json of Python."""
    if request.param == "json":
        monkeypatch.setattr(of_event, "_decoder", None)
    else:
        pytest.importorskip("msgspec")
    return str(request.param)


def test_both_decoders_make_the_same_trace(tmp_path: Path, decoder: str) -> None:
    trace = read(tmp_path, *EVENTS)
    assert len(trace.ops) == 50
    assert len(trace.kernels) == 49
    assert (trace.kernels["runtime_call"] >= 0).all()
    assert len(trace.signatures) == 50


def test_the_contents_tell_what_a_file_is_and_not_its_name(tmp_path: Path) -> None:
    expected = read(tmp_path, *EVENTS)
    packed, spaced = tmp_path / "trace.torchprof", tmp_path / "steps.pickle"
    packed.write_bytes(gzip.compress(document(EVENTS).encode()))
    spaced.write_text("\ufeff \n\t" + json.dumps(json.loads(document(EVENTS)), indent=2))
    own = tmp_path / "own.json"
    expected.save(own)
    for path in (packed, spaced, own):
        assert figures(torchprof.load(path)) == figures(expected)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("size", [200, 1000, 5000])
def test_it_is_the_same_trace_wherever_the_list_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: str, size: int, indent: int | None
) -> None:
    expected = figures(read(tmp_path, *EVENTS))
    pieces = 0
    path = tmp_path / "cut.json"
    path.write_text(json.dumps(json.loads(document(EVENTS, deviceProperties=[{"id": 0, "name": "GPU"}])), indent=indent))
    monkeypatch.setattr(of_document, "PIECE", size)
    original = of_document.decode

    def counting(text: bytes) -> Any:
        nonlocal pieces
        pieces += 1
        return original(text)

    monkeypatch.setattr(of_document, "decode", counting)
    trace = torchprof.load(path)
    assert figures(trace) == expected
    assert trace.facts["devices"] == ["GPU"]
    assert pieces > 3


def test_what_stands_before_and_after_the_events_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trace.json"
    rest = json.dumps([{"ph": "a"}, {"ph": "b"}] * 100)  # after the list, and as events look
    before = '"deviceProperties": [{"name": "GPU"}], "note": "\\"traceEvents\\": ["'
    after = f'"rest": {rest}, "baseTimeNanoseconds": 1751410836000000000, "distributedInfo": {{"rank": 2}}'
    path.write_text(f'{{{before}, "traceEvents": {json.dumps(EVENTS)}, {after}}}')
    monkeypatch.setattr(of_document, "PIECE", 500)
    trace = torchprof.load(path)
    assert len(trace.ops) == 50
    assert (trace.facts["devices"], trace.facts["distributed"]) == (["GPU"], {"rank": 2})
    assert trace.facts["origin_unix_ns"] == 1_751_410_836_000_000_000


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, share: float, pack: bool) -> None:
    whole = document(EVENTS).encode()
    whole = gzip.compress(whole) if pack else whole
    path = tmp_path / "trace.json"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(torchprof.TraceFileError, match="cut short"):
        torchprof.load(path)


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        (b"", "but empty"),
        (b"garbage", "not a torchprof trace"),
        (b"{", "damaged or cut short"),
        (b"{}", "it has no 'traceEvents'"),
        (b'{"a": [1, 2, {"b": null}]}', "it has no 'traceEvents'"),
        (b"[]", "a JSON list"),
        (b'[{"ph": "X", "name": "a", "ts": 1, "dur": 2}]', "a JSON list"),
        (b'{"traceEvents": []}', "a Chrome trace, but none of torch.profiler"),
        (b'{"traceEvents": [{"ph": "X", "cat": "v8", "name": "a", "ts": 1, "dur": 2}]}', "a Chrome trace, but none of"),
        (b'{"traceEvents": {"a": 1}}', "it has no 'traceEvents'"),
        (b'{"schemaVersion": 1, "traceEvents": [{"ph": "X"} {"ph": "X"}]}', "damaged"),
        (b'{"schemaVersion": 1, "traceEvents": [{"ph": "X", "name": "a"}, garbage]}', "damaged"),
        (b'{"a": {"traceEvents": [{"ph": "X", "name": "a"}]}}', "damaged, or neither"),
        (b'{"schemaVersion": 1, "traceEvents": [1]} rest', "damaged or cut short after its events"),
        (b"\x1f\x8bnot packed", "damaged"),
        (gzip.compress(b"not JSON", mtime=0), "neither a trace of torchprof nor a file of torch.profiler"),
    ],
)
def test_what_is_no_such_file_is_refused_and_said_so(tmp_path: Path, contents: bytes, says: str, decoder: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(contents)
    with pytest.raises(torchprof.TraceFileError, match=says) as raised:
        torchprof.load(path)
    assert str(path) in str(raised.value)


def test_a_file_in_which_nothing_ran_is_an_empty_trace(tmp_path: Path) -> None:
    trace = read(tmp_path)
    assert (len(trace.ops), trace.facts["duration_ns"]) == (0, 0)
    assert "Ops were not recorded: record with ProfilerActivity.CPU" in str(torchprof.by_op(trace))


def test_damage_in_the_middle_of_a_long_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_document, "PIECE", 500)
    path = tmp_path / "trace.json"
    text = document(EVENTS)
    path.write_text(text[: len(text) // 2] + '"}}]]' + text[len(text) // 2 :])
    with pytest.raises(torchprof.TraceFileError, match="damaged"):
        torchprof.load(path)


def test_numbers_that_are_none_and_text_that_is_not_utf_8_are_read_around(tmp_path: Path, decoder: str) -> None:
    path = tmp_path / "trace.json"
    text = document([op("aten::mm: inf, nan", 0, 5), kernel("café", 10, 1, 1, bandwidth=1.5)]).replace("1.5", "-nan")
    path.write_bytes(text.encode().replace(b"caf\\u00e9", b"caf\xe9"))
    trace = torchprof.load(path)
    assert names(trace) == ["aten::mm: inf, nan"]
    assert trace.strings[int(trace.kernels["name"][0])] == "caf�"
    assert any("1 piece of the file was no valid JSON" in note for note in trace.facts["notes"])


def test_events_that_cannot_be_are_counted_and_said(tmp_path: Path, decoder: str) -> None:
    trace = read(
        tmp_path,
        op("aten::mm", 10, 5, id=1),
        op("aten::add", 20, -3, id=1),
        op("aten::late", "soon", 5),
        {"ph": "X", "cat": "cpu_op", "name": "aten::endless", "ts": 5, "pid": 1, "tid": 1},
        {"ph": "X", "cat": "cpu_op", "ts": 5, "dur": 5},
        event("cuda_sync", "Event Sync", 5, 5),
        event("cuda_sync", "Event Sync", 6, 5),
        event("overhead", "Buffer Flush", 6, 5),
    )
    assert names(trace) == ["aten::mm", "aten::add"]
    assert trace.ops["end"].tolist() == [5_000, 10_000]
    notes = "\n".join(trace.facts["notes"])
    assert "events of other kinds are left out: 2 cuda_sync, 1 overhead" in notes
    assert "3 events have no name, no time or no duration, and are left out" in notes
    assert "1 event ends before it begins: it counts as 0 ns" in notes
    assert "1 op has the External id of another one" in notes
    assert "Read from torch.profiler: events of other kinds are left out: 2 cuda_sync" in str(torchprof.by_op(trace))


@pytest.mark.parametrize("strange", [5, None, "text", [], {}, {"args": 5}, {"ph": "X", "cat": [], "name": {}}, {"args": []}])
def test_events_of_any_shape_do_no_harm(tmp_path: Path, strange: Any, decoder: str) -> None:
    assert names(read(tmp_path, op("aten::mm", 0, 5), strange)) == ["aten::mm"]


@pytest.mark.parametrize("key", ["pid", "tid", "ts", "dur", "args"])
@pytest.mark.parametrize("value", [None, "x", [], {}, -1, 2**70, 1e300, True])
def test_values_of_any_kind_do_no_harm(tmp_path: Path, key: str, value: Any, decoder: str) -> None:
    broken = [
        {**made, key: value} for made in (op("aten::a", 1, 2), kernel("k", 3, 2, 1), launch(2, 1, 1), module("N_0", 1, 1))
    ]
    trace = read(tmp_path, op("aten::mm", 0, 5), *broken)
    assert "aten::mm" in names(trace)
    assert "aten::mm" in str(torchprof.by_op(trace))


@pytest.mark.parametrize("value", [None, "x", [], {}, -5, 2**70, 1.5, "0x10", [1, 2, 3], ["a", None, 2**80]])
def test_arguments_of_any_kind_do_no_harm(tmp_path: Path, value: Any, decoder: str) -> None:
    args = dict.fromkeys(of_event.ARGUMENTS.values(), value)
    broken = [{**made, "args": args} for made in (op("aten::a", 1, 2), kernel("k", 3, 2, 1), launch(2, 1, 1))]
    memory = {"ph": "i", "cat": "cpu_instant_event", "name": "[memory]", "pid": 1, "tid": 1, "ts": 3, "args": args}
    trace = read(tmp_path, op("aten::mm", 0, 5), *broken, memory)
    assert names(trace) == ["aten::mm", "aten::a"]
    for table in (torchprof.by_op, torchprof.by_module, torchprof.by_kernel, torchprof.gpu):
        assert str(table(trace))


@pytest.mark.parametrize(
    ("value", "ns"),
    [
        (5, 5_000),
        ("1712195495519761.132", 1_712_195_495_519_761_132),
        ("1712195495519761.1", 1_712_195_495_519_761_100),
        ("0.0005", 0),
        ("0.0015", 2),
        ("-1.5", -1_500),
        ("1e3", 1_000_000),
        ("nan", None),
        ("1e300", None),
        (2**70, None),
        (None, None),
        (True, None),
        ("", None),
    ],
)
def test_times_are_exact(value: Any, ns: int | None) -> None:
    assert nanoseconds(value) == ns


def test_whole_numbers_may_be_in_quotes() -> None:
    assert [integer(value) for value in (7, "7", "7.0", "0x10", "x", None, 2**70, 1.5)] == [7, 7, 7, 16, -1, -1, -1, -1]
    assert integers([1, "2", -3], 3, 2) == (1, 2, 0)
    assert integers([1, 2], 3, 9) == (0, 0, 0)


def test_a_saved_trace_says_what_that_of_the_file_says(tmp_path: Path) -> None:
    trace = read(tmp_path, *EVENTS)
    trace.save(tmp_path / "saved")
    again = torchprof.load(tmp_path / "saved")
    assert figures(again) == figures(trace)
    assert again.facts == trace.facts


def test_the_command_line_reads_it_without_pytorch(tmp_path: Path) -> None:
    path = tmp_path / "trace.json.gz"
    path.write_bytes(gzip.compress(document(EVENTS).encode()))
    program = (
        "import sys; from torchprof.cli.main import main\n"
        "code = main(sys.argv[1:]); print('torch' in sys.modules); sys.exit(code)"
    )
    for arguments, says in ((["info"], "torch.profiler"), (["show", "--by", "op"], "aten::op7"), (["show"], "Net_0")):
        ran = subprocess.run(
            [sys.executable, "-c", program, *arguments, str(path)], capture_output=True, text=True, check=False
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        assert says in ran.stdout
        assert ran.stdout.endswith("False\n")


def test_a_long_file_shows_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace.json.gz"
    path.write_bytes(gzip.compress(document(EVENTS).encode()))
    told: list[int] = []
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(progress, "is_terminal", lambda stream: True)
    monkeypatch.setattr("rich.progress.Progress.advance", lambda bar, task, read: told.append(read))
    assert len(torchprof.load(path).ops) == 50
    assert sum(told) == path.stat().st_size
    assert capsys.readouterr().out == ""
