"""Which files are of libraries, and what is folded into the line that called them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stacked import Program, training

import torchprof
from torchprof.analysis.lines.op_stacks import op_stacks
from torchprof.analysis.lines.user_code import counted_rows
from torchprof.trace.library_files import is_library


@pytest.mark.parametrize(
    "file",
    [
        "/usr/lib/python3.11/site-packages/torch/nn/modules/linear.py",
        "/usr/lib/python3/dist-packages/numpy/core.py",
        "/home/me/.venv/lib/python3.12/site-packages/transformers/models/gpt2/modeling_gpt2.py",
        "/home/me/.pyenv/versions/3.13.1/lib/python3.13/threading.py",
        "/opt/conda/envs/a/lib/python3.11/contextlib.py",
        "/Library/Frameworks/Python.framework/Versions/3.12/lib/python3.12/runpy.py",
        r"C:\Users\me\AppData\Local\Programs\Python\Python312\Lib\threading.py",
        r"C:\me\.venv\Lib\site-packages\torch\optim\sgd.py",
        "/usr/lib/python311.zip/threading.py",
        "<frozen runpy>",
        "<frozen importlib._bootstrap>",
        "<eval_with_key>.12",
        "/tmp/torchinductor_me/ab/cabcdef.py",
        "torch/nn/modules/linear.py",
        "torch/_tensor.py",
        "transformers/models/bert/modeling_bert.py",
        "threading.py",
        "concurrent/futures/thread.py",
        "contextlib.py",
        torchprof.__file__,
        str(Path(torchprof.__file__).parent / "record" / "profile.py"),
    ],
)
def test_a_file_of_a_library(file: str) -> None:
    assert is_library(file)


@pytest.mark.parametrize(
    "file",
    [
        "/home/me/train.py",
        "/home/me/torch/train.py",
        "/home/me/pythonproject/lib/train.py",
        "/home/me/site-packages-of-mine/train.py",
        r"C:\Users\me\train.py",
        "train.py",
        "mylib/net.py",
        "torch.py",
        "<stdin>",
        "<string>",
        "<ipython-input-3-0123abcd>",
        "/tmp/ipykernel_1234/567890.py",
        "<doctest a[0]>",
        "",
    ],
)
def test_a_file_of_the_user(file: str) -> None:
    assert not is_library(file)


def test_a_pytorch_that_is_built_in_its_sources_is_a_library() -> None:
    p = Program()
    line = p.stack(-1, p.function("main", "/home/me/train.py", 1), 2)
    call = p.stack(line, p.function("Module._call_impl", "/home/me/pytorch/torch/nn/modules/module.py", 5), 6)
    p.op(
        "aten::linear", 0, 10, p.stack(call, p.function("Linear.forward", "/home/me/pytorch/torch/nn/modules/linear.py", 7), 8)
    )
    assert [row["name"] for row in torchprof.by_line(p.trace(duration_ns=10)).rows] == ["train.py:2"]


FILES = ["/home/me/a.py", "/home/me/b.py", "/usr/lib/python3.11/site-packages/torch/c.py", "<frozen d>", None]


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Calls and ops at random in stacks at random, one after another or inside each other."""
    p = Program()
    functions = [p.function(f"f{n}", file, 1) for n, file in enumerate(FILES)]
    stacks = [-1]
    for _ in range(draw(st.integers(1, 12))):
        function = draw(st.sampled_from(functions))
        line = draw(st.integers(1, 3)) if FILES[function] is not None else -1
        stacks.append(p.stack(draw(st.sampled_from(stacks)), function, line))
    now = 0
    for _ in range(draw(st.integers(1, 8))):
        start = now + draw(st.integers(0, 5))
        call = p.call(start, start + 100, draw(st.sampled_from(stacks))) if draw(st.booleans()) else -1
        now = start + draw(st.integers(0, 5))
        for _ in range(draw(st.integers(0, 4))):
            begin = now + draw(st.integers(0, 5))
            now = begin + draw(st.integers(1, 10))
            p.op("aten::exp", begin, now, draw(st.sampled_from(stacks)), module_call=call, flags=16)
        now = start + 100 if call >= 0 else now
    p.rows.setdefault("ops", [])
    p.end = now + draw(st.integers(0, 5))
    return p


@given(programs(), st.booleans())
def test_rows_add_up_to_the_recording_whatever_is_folded(p: Program, libraries: bool) -> None:
    trace = p.trace()
    for table in (torchprof.by_line(trace, libraries=libraries), torchprof.by_function(trace, libraries=libraries)):
        assert sum(row["self"] for row in table.rows) == pytest.approx(p.end)
        assert sum(row["calls"] for row in table.rows) == len(trace.ops)
        for row in table.rows:
            assert row["time"] >= row["self"] >= 0
            assert row["time"] == pytest.approx(
                sum(row[name] for name in ("forward", "backward", "optimizer", "data", "other"))
            )
            assert row["time"] <= p.end + 1e-6


@given(programs())
def test_folding_gives_every_stack_one_line_that_is_in_it(p: Program) -> None:
    trace = p.trace()
    files = [None if file < 0 else trace.strings[file] for file in trace.functions["file"].tolist()]
    for libraries in (False, True):
        counted = counted_rows(trace, libraries)
        for row, found in enumerate(counted.tolist()):
            chain = [row]
            while (parent := int(trace.stacks["parent"][chain[-1]])) >= 0:
                chain.append(parent)
            own = [files[int(trace.stacks["function"][at])] for at in chain]
            is_there = [at for at, file in zip(chain, own, strict=True) if file is not None and "/me/" in file]
            has_users = any("/me/" in (files[f] or "") for f in trace.stacks["function"].tolist())
            with_file = [at for at, file in zip(chain, own, strict=True) if file is not None]
            expected = with_file if libraries or not has_users else is_there
            assert found == (expected[0] if expected else -1)


def test_ops_are_attributed_alike_however_often_they_are_asked_for() -> None:
    trace = training().trace()
    first = op_stacks(trace).attributed(counted_rows(trace, False))
    assert np.array_equal(first, op_stacks(trace).attributed(counted_rows(trace, False)))
    assert (first >= 0).all(), "every op has a line"
