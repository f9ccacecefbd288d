"""annotate: the source of a function with what its lines cost, and where that source comes from."""

from __future__ import annotations

import functools
import importlib.util
import linecache
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from goldens import Golden
from html_tables import tables_of
from stacked import BACKWARD, FORWARD, TORCH, Program

import torchprof
from torchprof import ArgumentError

SOURCE = '''import functools


def logged(function):
    @functools.wraps(function)
    def inner(*args):
        return function(*args)

    return inner


class Net:
    """A network."""

    @logged
    def forward(self, x):
        def scaled(y):
            return y * 2

        x = x.exp()  # e to the power of x
        return scaled(x)

    def __call__(self, x):
        return self.forward(x)

    @property
    def size(self):
        return 3

    @staticmethod
    def helper(x):
        return x.log()


double = lambda x: (
    x * 2
)


@logged
def train(net, x):
    for _ in range(2):

        loss = net(x)
    return loss
'''


@pytest.fixture
def net(tmp_path: Path) -> Iterator[ModuleType]:
    """A module with these functions."""
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    os.utime(path, (1, 1))
    spec = importlib.util.spec_from_file_location("net_of_a_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["net_of_a_test"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["net_of_a_test"]


def recorded(file: str, **facts: Any) -> torchprof.Trace:
    """``train`` of that file: exp 30, mul 20 and backward 40 and 10 in lines of ``Net.forward``; 5 between its lines."""
    p = Program()
    main = p.stack(-1, p.function("main", "/home/me/main.py", 1), 9)
    wrapper = p.stack(main, p.function("logged.<locals>.inner", file, 5), 7)
    train = p.stack(wrapper, p.function("train", file, 40), 44)
    call = p.stack(p.stack(train, p.function("Net.__call__", file, 23), 24), p.function("logged.<locals>.inner", file, 5), 7)
    forward = p.function("Net.forward", file, 15)
    exp = p.stack(call, forward, 20)
    scaled = p.stack(p.stack(call, forward, 21), p.function("Net.forward.<locals>.scaled", file, 17), 18)
    backward = p.stack(p.stack(main, p.function("backward", f"{TORCH}/_tensor.py", 500), 510), p.function("g", "g.py", 1), 2)
    p.op("aten::exp", 0, 30, exp, flags=FORWARD, sequence_nr=0)
    p.op("aten::mul", 35, 55, scaled, flags=FORWARD, sequence_nr=1)
    for name, start, end, number in (("MulBackward0", 55, 65, 1), ("ExpBackward0", 65, 105, 0)):
        p.node(name, start, end, number, backward)
    p.allocation(10, -1, 2048, op=0)
    p.end = 200
    return p.trace(memory=True, **facts)


def source(trace: torchprof.Trace) -> dict[str, str]:
    """The text beside every line."""
    return {row["name"].rpartition("/")[2]: row["source"] for row in torchprof.by_line(trace).rows}


def margin(table: torchprof.Table, *names: str) -> dict[int, tuple[Any, ...]]:
    """The figures of lines that have some."""
    return {row["line"]: tuple(row[name] for name in names) for row in table.rows if row["time"] is not None}


def test_the_lines_of_a_function_have_time_and_memory_in_the_margin(net: ModuleType, golden: Golden) -> None:
    table = torchprof.annotate(recorded(net.__file__ or ""), net.Net.forward)
    assert [row["line"] for row in table.rows] == list(range(15, 22))
    assert margin(table, "time", "forward", "backward", "at_peak") == {
        15: (5, 0, 0, 0),
        18: (30, 20, 10, 0),
        20: (70, 30, 40, 2048),
        21: (30, 20, 10, 0),
    }
    golden(str(table), "annotate.txt")


def kinds(net: ModuleType) -> dict[str, tuple[Any, int, int]]:
    """What can be annotated, and the lines that are shown."""
    instance = net.Net()
    return {
        "function": (net.train, 40, 45),
        "method": (instance.forward, 15, 21),
        "method of the class": (net.Net.forward, 15, 21),
        "class": (net.Net, 12, 32),
        "module": (net, 1, 45),
        "instance with forward": (instance, 15, 21),
        "code": (net.Net.forward.__wrapped__.__code__, 15, 21),
        "path": (Path(net.__file__ or ""), 1, 45),
        "text": (net.__file__, 1, 45),
        "lambda": (net.double, 35, 37),
        "partial": (functools.partial(net.train, instance), 40, 45),
        "property": (net.Net.size, 26, 28),
        "static method": (net.Net.helper, 30, 32),
        "cached": (functools.lru_cache(net.train), 40, 45),
    }


@pytest.mark.parametrize(
    "kind",
    [
        *("function", "method", "method of the class", "class", "module", "instance with forward", "code", "path", "text"),
        *("lambda", "partial", "property", "static method", "cached"),
    ],
)
def test_what_can_be_annotated(net: ModuleType, kind: str) -> None:
    what, first, last = kinds(net)[kind]
    table = torchprof.annotate(recorded(net.__file__ or ""), what)
    assert [row["line"] for row in table.rows] == list(range(first, last + 1))
    assert [row["code"] for row in table.rows] == SOURCE.splitlines()[first - 1 : last]


@pytest.mark.parametrize("what", [3, None, len, "abc".upper, int, ModuleType("made"), [].append])
def test_what_has_no_source_is_an_error(net: ModuleType, what: Any) -> None:
    with pytest.raises(ArgumentError, match="what="):
        torchprof.annotate(recorded(net.__file__ or ""), what)


def test_a_file_that_changed_since_is_not_shown(net: ModuleType) -> None:
    path = Path(net.__file__ or "")
    trace = recorded(str(path), origin_unix_ns=time.time_ns())
    assert source(trace)["net.py:20"] == "x = x.exp()  # e to the power of x"
    assert "Text left out" not in str(torchprof.by_line(trace))
    path.write_text(f"# a line more\n{SOURCE}")
    os.utime(path, ns=(0, time.time_ns() + 10**9))
    assert set(source(trace).values()) == {""}
    assert "Text left out: net.py, changed since the recording" in str(torchprof.by_line(trace))
    path.unlink()
    assert "Text left out" not in str(torchprof.by_line(trace)), "what is elsewhere did not change"
    path.write_text(f"# a line more\n{SOURCE}")
    os.utime(path, ns=(0, time.time_ns() + 10**9))
    with pytest.raises(ArgumentError, match=r"net\.py is not there, or changed since the recording.*with_source\(\)"):
        torchprof.annotate(trace, net.Net.forward)


def test_a_file_in_which_functions_begin_elsewhere_is_not_shown(net: ModuleType) -> None:
    path = Path(net.__file__ or "")
    path.write_text(f"# a line more\n{SOURCE}")
    assert set(source(recorded(str(path))).values()) == {""}


def test_a_trace_can_keep_the_source(net: ModuleType, tmp_path: Path) -> None:
    path = Path(net.__file__ or "")
    recorded(str(path)).with_source().save(tmp_path / "kept.torchprof")
    path.unlink()
    linecache.clearcache()
    trace = torchprof.load(tmp_path / "kept.torchprof")
    assert source(trace)["net.py:20"] == "x = x.exp()  # e to the power of x"
    assert [row["code"] for row in torchprof.annotate(trace, net.Net.forward).rows] == SOURCE.splitlines()[14:21]
    assert source(recorded(str(path)))["net.py:20"] == "", "without it there is none"


def test_a_cell_of_a_notebook_is_shown() -> None:
    name = "<ipython-input-3-0123abcd>"
    linecache.cache[name] = (len(SOURCE), None, SOURCE.splitlines(keepends=True), name)
    try:
        trace = recorded(name)
        assert source(trace)[f"{name}:20"] == "x = x.exp()  # e to the power of x"
        made: dict[str, Any] = {}
        exec(compile(SOURCE, name, "exec"), made)
        assert [row["line"] for row in torchprof.annotate(trace, made["Net"].forward).rows] == list(range(15, 22))
        assert len(torchprof.annotate(trace, name)) == 45
    finally:
        del linecache.cache[name]


def test_a_path_may_be_the_end_of_that_in_the_trace(net: ModuleType) -> None:
    trace = recorded(net.__file__ or "")
    assert margin(torchprof.annotate(trace, "net.py"), "time")[20] == (70,)


def test_a_file_of_torch_profiler_knows_a_part_of_the_path(net: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(net.__file__ or "").parent))
    trace = recorded("net.py")
    assert margin(torchprof.annotate(trace, net.Net.forward), "time")[20] == (70,)


def test_two_files_that_end_alike_are_an_error_that_names_them() -> None:
    p = Program()
    for folder in "ab":
        p.op("aten::exp", 0, 10, p.stack(-1, p.function("f", f"/home/{folder}/net.py", 1), 2))
    with pytest.raises(ArgumentError, match=r"'net\.py' could be any of '/home/a/net\.py', '/home/b/net\.py'"):
        torchprof.annotate(p.trace(), "net.py")


@pytest.mark.parametrize(
    "name",
    ["Net.forward", "forward", "net.py:Net.forward", "net.py:forward", "net.py:15 Net.forward", "{file}:Net.forward"],
)
def test_a_function_may_be_named(net: ModuleType, name: str) -> None:
    trace = recorded(net.__file__ or "")
    named = torchprof.annotate(trace, name.format(file=net.__file__))
    assert named.rows == torchprof.annotate(trace, net.Net.forward).rows
    assert str(named) == str(torchprof.annotate(trace, net.Net.forward))


def test_a_name_of_a_function_inside_another(net: ModuleType) -> None:
    trace = recorded(net.__file__ or "")
    for name in ("scaled", "Net.forward.<locals>.scaled"):
        assert [row["line"] for row in torchprof.annotate(trace, name).rows] == [17, 18]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Net.foward", r"what='Net.foward' is no function and no file of the trace: did you mean 'Net.forward'\?"),
        ("zebra", r"what='zebra' is no function and no file of the trace: torchprof.by_function\(trace\) lists them"),
        ("net.py:trian", r"net.py has no such function in the trace: did you mean 'train'\?"),
        ("net.py:3 train", r"what='net.py:3 train'"),
        ("nothing.py:train", r"what='nothing.py:train': nothing of nothing.py is in the trace"),
        ("nowhere.py", r"the source of nowhere.py is not there"),
    ],
)
def test_a_name_of_nothing_is_an_error_that_says_what_is_near(net: ModuleType, name: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        torchprof.annotate(recorded(net.__file__ or ""), name)


def test_a_name_of_several_functions_is_an_error_that_names_them() -> None:
    p = Program()
    for at, file in enumerate(("/a/one.py", "/a/two.py", f"{TORCH}/nn.py")):
        p.op("aten::exp", 10 * at, 10 * at + 5, p.stack(-1, p.function("f", file, 3), 4))
    with pytest.raises(ArgumentError, match=r"'f' could be any of 'one.py:3 f', 'two.py:3 f': give one of these"):
        torchprof.annotate(p.trace(), "f")
    with pytest.raises(ArgumentError, match=r"the source of /a/two\.py is not there"):
        torchprof.annotate(p.trace(), "two.py:f")


def test_a_function_in_which_nothing_ran_is_shown_with_an_empty_margin(net: ModuleType) -> None:
    table = torchprof.annotate(recorded(net.__file__ or ""), net.Net.helper)
    assert margin(table, "time") == {}
    assert [line[2:].strip() for line in str(table).splitlines()[3:6]] == ["@staticmethod", "def helper(x):", "return x.log()"]
    assert "Nothing was recorded in these lines" in str(table)


def test_a_notebook_shows_the_indentation(net: ModuleType) -> None:
    (table,) = tables_of(torchprof.annotate(recorded(net.__file__ or ""), net.Net.forward)._repr_html_())
    assert "        x = x.exp()  # e to the power of x" in table.tbody[5].cells


def test_a_function_of_a_library_is_shown_with_its_lines(tmp_path: Path) -> None:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "lib.py").write_text("def f(x):\n    return x.exp()\n")
    p = Program()
    main = p.stack(-1, p.function("main", "/home/me/main.py", 1), 2)
    p.op("aten::exp", 0, 10, p.stack(main, p.function("f", str(folder / "lib.py"), 1), 2), flags=BACKWARD)
    assert margin(torchprof.annotate(p.trace(), folder / "lib.py"), "time") == {2: (10,)}


def test_a_long_line_is_cut_beside_its_figures_and_not_in_its_function(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text(f"def f(x):\n\treturn x.exp({' ' * 80})\n")
    p = Program()
    p.op("aten::exp", 0, 10, p.stack(-1, p.function("f", str(path), 1), 2))
    by_line = str(torchprof.by_line(p.trace()))
    assert f"return x.exp({' ' * 50}…" in by_line
    assert f"return x.exp({' ' * 80})" in str(torchprof.annotate(p.trace(), path))


def test_every_call_finds_the_same(net: ModuleType) -> None:
    annotated: Callable[[], str] = lambda: str(torchprof.annotate(recorded(net.__file__ or ""), net.train))  # noqa: E731
    assert annotated() == annotated()
