"""What is printed fits where it is printed, aligns in any script, and lets no control character through."""

from __future__ import annotations

import io
import re
import sys
from typing import Any

import pytest
from goldens import Golden
from handwritten import loop_trace, two_layer_trace
from rich.cells import cell_len

import torchprof
from torchprof import ArgumentError, Table, TorchprofError
from torchprof.analysis.model.rows import Row
from torchprof.analysis.model.totals import Totals
from torchprof.cli.main import main
from torchprof.rendering.text import lines_of
from torchprof.tables.summary import Summary, summary_table
from torchprof.terminal import printable

AWKWARD = "a\nb\tc\x1b[31md\x7f\u202e\u2028[red]"
ESCAPED = r"a\nb\tc\x1b[31md\x7f\u202e\u2028[red]"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def encoder() -> Table:
    """Two layers of a transformer, as a summary shows them."""
    shape = ((8, 128, 512),)
    rows = [Row("", "Encoder", "Encoder", 0, 1, shape, shape, 2**21, forward=4_000_000)]
    rows.append(Row("layers", "layers", "ModuleList", 1, forward=4_000_000))
    for layer in (0, 1):
        path = f"layers.{layer}"
        rows.append(Row(path, str(layer), "TransformerEncoderLayer", 2, 1, shape, shape, 2**21, forward=2_000_000))
        for name, kind in (("attention", "MultiheadAttention"), ("feed_forward_projection", "Linear"), ("dropout", "Dropout")):
            note = "not called" if kind == "Dropout" else ""
            rows.append(Row(f"{path}.{name}", name, kind, 3, 1 - bool(note), shape, shape, 2**21, 262_144, note=note))
    return summary_table(rows, Totals(params=1_048_576, forward=4_000_000))


@pytest.mark.parametrize(
    ("width", "file"),
    [(100, "width_100.txt"), (80, "width_80.txt"), (60, "width_60.txt"), (40, "width_40.txt"), (20, "width_20.txt")],
)
def test_a_table_fits_the_width(golden: Golden, width: int, file: str) -> None:
    text = encoder().to_text(width)
    assert all(cell_len(line) <= width for line in text.splitlines())
    golden(text, file)


def test_where_there_is_room_nothing_changes() -> None:
    table = encoder()
    widest = max(map(len, str(table).splitlines()))
    assert table.to_text() == table.to_text(widest) == table.to_text(1000) == str(table)
    assert table.to_text(widest - 1) != str(table)


@pytest.mark.parametrize("width", range(20, 130, 7))
def test_every_kind_of_table_fits_every_width(width: int) -> None:
    made = [torchprof.by_module(loop_trace()), torchprof.by_op(loop_trace(), shapes=True), torchprof.by_step(loop_trace())]
    made += [encoder(), encoder().sort("params")]
    for table in (*made, torchprof.memory(loop_trace())):
        assert all(cell_len(line) <= width for line in table.to_text(width).splitlines())


def test_the_columns_that_matter_least_go_first() -> None:
    headers = [re.split("  +", encoder().to_text(width).splitlines()[1])[1:] for width in (140, 115, 105, 95, 80, 60)]
    assert headers[0] == ["Input", "Output", "Params", "Out size", "Forward", "Self", "Share"]
    gone = [[name for name in headers[0] if name not in left] for left in headers]
    order = ["Share", "Self", "Input", "Out size", "Forward"]
    assert all(set(names) == set(order[: len(names)]) for names in gone)
    assert [len(names) for names in gone] == sorted(len(names) for names in gone)
    assert set(gone[-1]) == set(order)


def test_rows_as_data_do_not_depend_on_the_width() -> None:
    table = encoder()
    before = table.to_csv()
    table.to_text(30)
    assert table.to_csv() == before


def test_a_terminal_gets_what_fits_and_a_file_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    table = encoder()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys, "stdout", out := Terminal())
    table.print()
    assert re.sub(r"\x1b\[[\d;]*m", "", out.getvalue()) == table.to_text(60) + "\n"
    monkeypatch.setattr(sys, "stdout", out := Terminal())
    table.print(width=100)
    assert re.sub(r"\x1b\[[\d;]*m", "", out.getvalue()) == table.to_text(100) + "\n"
    monkeypatch.setattr(sys, "stdout", file := io.StringIO())
    table.print()
    table.print(width=60)
    assert file.getvalue() == f"{table}\n{table.to_text(60)}\n"


def test_a_summary_keeps_the_width_it_was_given() -> None:
    found = Summary(two_layer_trace(), width=50)
    assert str(found) == found.table.to_text(50) != str(found.table)
    assert found.to_text(200) == str(found.table)


@pytest.mark.parametrize("width", [19, 0, -1, 80.0, "80", True])
def test_a_width_that_cannot_be_is_named(width: Any) -> None:
    for call in (encoder().to_text, lambda width: encoder().print(width=width)):
        with pytest.raises(ArgumentError, match=re.escape(f"width must be an int of at least 20, not {width!r}")):
            call(width)


def test_what_is_to_the_character_is_never_cut() -> None:
    recorded = two_layer_trace()
    recorded.facts.update(batch_size=-1, input_sizes=[[2, 3]])
    assert Summary(recorded, "torchsummary").to_text(20) == str(Summary(recorded, "torchsummary"))


def test_wide_and_combining_characters_align(golden: Golden) -> None:
    names = ["注意機構", "e\u0301tage", "\u1112\u1161\u11ab", "🔥", "plain"]
    rows = [{"name": name, "calls": 10 * at, "note": "特別" if at == 1 else ""} for at, name in enumerate(names, start=1)]
    text = str(Table("層", rows, ("calls",)))
    golden(text, "wide_characters.txt")
    rows_of_text = text.splitlines()[3:8]
    assert {cell_len(line.partition("0")[0]) for line in rows_of_text} == {9 + len("  Calls") - 2}


def test_a_name_with_control_characters_is_escaped_and_breaks_nothing() -> None:
    rows = [{"name": AWKWARD, "calls": 1, "note": AWKWARD, "module": AWKWARD}, {"name": "b", "calls": 2, "module": ""}]
    table = Table(AWKWARD, rows, ("calls", "module"), (AWKWARD,), details=lambda row: [(AWKWARD, AWKWARD)])
    for text in (str(table), table.to_text(40)):
        assert all(line.isprintable() for line in text.splitlines())
        assert len(text.splitlines()) >= 9
    assert str(table).count(ESCAPED) == 1 + 3 + 2 * 2 + 1
    assert str(table).splitlines()[3].startswith(f"{ESCAPED}  ")


def test_lines_between_tables_are_escaped_too() -> None:
    assert [line.text for line in lines_of([AWKWARD])] == [ESCAPED]


def test_a_terminal_is_sent_neither_escapes_nor_markup_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "stdout", out := Terminal())
    Table("Op", [{"name": f"{AWKWARD}[/red][bold]:smile:", "calls": 1}], ("calls",)).print()
    shown = re.sub(r"\x1b\[[\d;]*m", "", out.getvalue())
    assert f"{ESCAPED}[/red][bold]:smile:" in shown
    assert "\x1b[31m" not in out.getvalue()


def test_errors_are_one_line() -> None:
    assert str(TorchprofError(f"no {AWKWARD}")) == f"no {ESCAPED}"
    with pytest.raises(ArgumentError) as caught:
        encoder().select(AWKWARD)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["", "abc", "注意", "e\u0301", "🔥", r"back\slash"])
def test_what_is_seen_stays_as_it_is(text: str) -> None:
    assert printable(text) is text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\r", r"\r"), ("\x00", r"\x00"), ("\x9b", r"\x9b"), ("\u200b", r"\u200b"), ("\ud800", r"\ud800"), ("\xa0", r"\xa0")],
)
def test_what_is_not_seen_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_the_command_line_takes_a_width_and_escapes_what_a_file_says(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = loop_trace()
    recorded.facts["torch"] = AWKWARD
    recorded.strings[:] = [text.replace("aten::mm", AWKWARD) for text in recorded.strings]
    recorded.save(tmp_path / "a.torchprof")
    assert main(["show", str(tmp_path / "a.torchprof"), "--by", "op", "--width", "60"]) == 0
    shown = capsys.readouterr().out
    assert "a\\nb" in shown
    assert all(len(line) <= 60 and line.isprintable() for line in shown.split("\n"))
    assert main(["info", str(tmp_path / "a.torchprof")]) == 0
    assert ESCAPED in capsys.readouterr().out
    assert main(["show", str(tmp_path / "no\x1b.torchprof")]) == 1
    assert capsys.readouterr().err.removesuffix("\n").isprintable()


def test_a_reader_that_has_seen_enough_does_not_end_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    torchprof.by_op(loop_trace()).print()
