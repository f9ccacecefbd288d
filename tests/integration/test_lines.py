"""by_line, by_function and annotate on real programs: every op's line against what Python says itself."""

from __future__ import annotations

import inspect
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import line_programs
import numpy as np
import pytest
import torch
from line_programs import PROGRAMS
from line_truth import Node, Ran, common, what_is_differentiated, what_ran
from torch import nn

import torchprof
from torchprof import Trace
from torchprof.analysis.lines.op_stacks import op_stacks
from torchprof.analysis.lines.records import PHASES
from torchprof.analysis.lines.user_code import counted_rows
from torchprof.analysis.python_frames import Frame, python_frames
from torchprof.trace.schema import SCOPE_BACKWARD

FILE = line_programs.__file__


def recorded(name: str, **options: Any) -> tuple[Trace, Callable[[], None], nn.Module]:
    """A program, recorded with stacks when it had run once."""
    torch.manual_seed(0)
    model, run = PROGRAMS[name]()
    run()
    with torchprof.profile(model, stacks=True, **options) as prof:
        run()
    return prof.trace, run, model


def lines_of_ops(trace: Trace, *, libraries: bool = False) -> list[Frame | None]:
    """The frame that every op is attributed to."""
    counted, frames = np.append(counted_rows(trace, libraries), -1), python_frames(trace)
    return [frames[row] if row >= 0 else None for row in counted[op_stacks(trace).attributed(counted[:-1])].tolist()]


def names_of_ops(trace: Trace) -> list[str]:
    return [trace.strings[row] for row in trace.op_names.tolist()]


def assert_lines_of_forward(trace: Trace, truth: list[Ran]) -> None:
    """The ops outside of backward passes have the lines that ran them.

    Nearly all ops of the mode are found, in their order, and as many of them when their lines must be equal as well.
    """
    ran = [(each.name, (FILE, each.line)) for each in truth if not each.in_backward]
    frames, names = lines_of_ops(trace), names_of_ops(trace)
    rows = np.flatnonzero(op_stacks(trace).called < 0).tolist()
    found = [(names[row], (frame.file, frame.line) if (frame := frames[row]) is not None else None) for row in rows]
    pairs = common([name for name, _ in ran], [name for name, _ in found])
    assert len(pairs) >= 0.98 * len(ran)
    assert len(common(ran, found)) == len(pairs), [(ran[a], found[b]) for a, b in pairs if ran[a] != found[b]]


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_op_of_forward_has_the_line_that_ran_it(name: str) -> None:
    trace, run, _ = recorded(name)
    assert_lines_of_forward(trace, what_ran(run, FILE))


@pytest.mark.parametrize("name", PROGRAMS)
def test_with_libraries_every_op_of_forward_has_the_innermost_line_of_all(name: str) -> None:
    trace, run, _ = recorded(name)
    truth = Counter((ran.name, *ran.place) for ran in what_ran(run, FILE) if not ran.in_backward)
    frames, names = lines_of_ops(trace, libraries=True), names_of_ops(trace)
    assert all(frame is not None for frame in frames)
    found = Counter((name, frame.file, frame.line) for name, frame in zip(names, frames, strict=True) if frame is not None)
    missing = truth - found  # the mode makes PyTorch call a few ops more
    assert missing.total() <= 0.02 * truth.total(), missing


@pytest.mark.parametrize("name", ["mlp", "gpt2", "bert", "cnn", "checkpointed"])
def test_every_node_of_backward_has_the_line_of_the_op_that_made_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trace, run, _ = recorded(name)
    truth = [node for nodes in what_is_differentiated(run, FILE, monkeypatch) for node in nodes]
    frames, names = lines_of_ops(trace), names_of_ops(trace)
    nodes = np.flatnonzero((trace.ops["scope"] == SCOPE_BACKWARD) & (trace.ops["sequence_nr"] >= 0))
    nodes = nodes[np.argsort(trace.ops["sequence_nr"][nodes], kind="stable")]
    found = [Node(names[row], frame.line if (frame := frames[row]) is not None else None) for row in nodes.tolist()]
    assert found == truth


@pytest.mark.parametrize("name", PROGRAMS)
def test_backward_has_lines(name: str) -> None:
    table = torchprof.by_line(recorded(name)[0])
    backward = sum(row["backward_self"] for row in table.rows)
    with_line = sum(row["backward_self"] for row in table.rows if row["line"] is not None)
    assert backward > 0
    assert with_line >= 0.98 * backward


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("libraries", [False, True])
def test_all_rows_add_up_to_the_recording(name: str, libraries: bool) -> None:
    trace, _, _ = recorded(name)
    for table in (torchprof.by_line(trace, libraries=libraries), torchprof.by_function(trace, libraries=libraries)):
        assert sum(row["self"] for row in table.rows) == pytest.approx(sum(trace.facts["phase_ns"]))
        assert sum(row["share"] for row in table.rows) == pytest.approx(1)
        for name, phase in PHASES.items():
            assert sum(row[f"{name}_self"] for row in table.rows) == pytest.approx(trace.facts["phase_ns"][phase])


def line(function: Callable[..., Any], text: str) -> int:
    """The number of the line of a function that has this text."""
    lines, first = inspect.getsourcelines(function)
    (found,) = [first + at for at, each in enumerate(lines) if text in each]
    return found


def of_line(table: torchprof.Table, number: int) -> dict[str, Any]:
    """The row of a line of the programs."""
    (row,) = [row for row in table.rows if row["file"] == FILE and row["line"] == number]
    return row


def test_a_function_with_a_backward_of_its_own_has_lines_in_it() -> None:
    table = torchprof.by_line(recorded("cnn")[0])
    assert of_line(table, line(line_programs.Clipped, "x.abs() < 1"))["calls"] == 0, "autograd called it"
    for text in ("x.abs() < 1", "grads[0] * inside"):
        row = of_line(table, line(line_programs.Clipped, text))
        assert row["backward_self"] > 0
        assert row["forward_self"] == 0
    assert of_line(table, line(line_programs.Clipped, "(x > 0).float()"))["forward_self"] > 0
    assert of_line(table, line(line_programs.Convolutions, "Clipped.apply(x)"))["backward_self"] > 0, "the node"


@pytest.mark.parametrize("name", ["checkpointed", "reentrant"])
def test_recomputation_is_of_the_lines_that_run_again(name: str) -> None:
    trace, run, _ = recorded(name)
    truth = {ran.line for ran in what_ran(run, FILE) if ran.in_backward and ran.line is not None}
    table = torchprof.by_line(trace)
    found = {row["line"] for row in table.rows if row["recompute_self"] and row["line"] is not None}
    assert (
        found == truth == {line(line_programs.Checkpointed, "y = layer(x)"), line(line_programs.Checkpointed, "torch.tanh(y)")}
    )


def test_the_optimizer_and_the_call_of_backward_are_of_their_lines() -> None:
    trace, _run, _ = recorded("mlp")
    table = torchprof.by_line(trace)
    step, backward = line(line_programs.mlp, "optimizer.step()"), line(line_programs.mlp, "loss.backward()")
    assert of_line(table, step)["optimizer_self"] > 0
    passes = {tuple(row["backward_at"]) for row in table.rows if row["backward_at"]}
    assert passes == {(f"line_programs.py:{backward}",)}
    assert of_line(torchprof.by_line(trace, backward_at_call=True), backward)["backward_self"] == pytest.approx(
        sum(row["backward_self"] for row in table.rows)
    )


def test_calls_flops_and_memory_of_lines_add_up_to_those_of_the_trace() -> None:
    trace, _run, _model = recorded("mlp")
    table = torchprof.by_line(trace)
    by_op = torchprof.by_op(trace)
    assert sum(row["flops_self"] for row in table.rows) == sum(row["flops"] for row in by_op.rows if row["flops"]) / 1
    assert sum(row["at_peak"] for row in table.rows) == torchprof.memory(trace).peak.bytes
    assert sum(row["saved"] for row in table.rows) == sum(torchprof.memory(trace).saved_by_module.values())
    main = of_line(table, line(line_programs.mlp, "x = x * 2 + 1"))
    assert main["calls"] == 2 * 2
    numbers = 2 * (4 + 8)  # 2 and 1 become tensors for a moment
    assert main["allocated"] == 2 * (2 * 32 * 64 * 4) + numbers * 2


def test_steps_are_averaged() -> None:
    torch.manual_seed(0)
    model, run = PROGRAMS["mlp"]()
    with torchprof.profile(model, stacks=True, schedule=torchprof.schedule(warmup=1, active=3)) as prof:
        for _ in range(4):
            run()
            prof.step()
    table = torchprof.by_line(prof.trace)
    assert of_line(table, line(line_programs.mlp, "x = x * 2 + 1"))["calls"] == 2 * 2
    steps = prof.trace.steps[1:]
    assert sum(row["self"] for row in table.rows) == pytest.approx((steps["end"] - steps["start"]).mean())


@pytest.mark.parametrize("name", PROGRAMS)
def test_sums_over_steps_are_of_the_same_lines(name: str) -> None:
    single, run, model = recorded(name)
    with torchprof.profile(model, stacks=True, aggregate=True) as prof:
        run()
        prof.step()
    plain, summed = torchprof.by_line(single), torchprof.by_line(prof.trace)
    for figure in ("flops_self", "device_self"):
        of_lines = [{row["name"]: row[figure] for row in table.rows if row.get(figure)} for table in (plain, summed)]
        assert of_lines[0] == of_lines[1]
    backward = [{row["name"] for row in table.rows if row["backward_self"]} for table in (plain, summed)]
    assert backward[0] == backward[1]
    assert sum(row["self"] for row in summed.rows) == pytest.approx(np.diff(prof.trace.steps[["start", "end"]].tolist()).sum())
    str(summed)


@pytest.mark.parametrize("options", [{"memory": False}, {"shapes": False}, {"modules": False}], ids=str)
def test_lines_need_no_other_option(options: dict[str, bool]) -> None:
    trace, run, _ = recorded("cnn", **options)
    assert_lines_of_forward(trace, what_ran(run, FILE))
    table = torchprof.by_line(trace)
    assert ("at_peak" in table.rows[0]) == (options != {"memory": False})
    str(table)


def test_the_margin_of_a_forward_has_the_figures_of_its_lines() -> None:
    trace, _, model = recorded("cnn")
    table = torchprof.annotate(trace, model)
    lines, _first = inspect.getsourcelines(type(model).forward)
    assert [row["code"] for row in table.rows] == [each.rstrip("\n") for each in lines]
    by_line = torchprof.by_line(trace)
    for row in table.rows:
        mine = [each for each in by_line.rows if each["file"] == FILE and each["line"] == row["line"]]
        assert (row["time"] or 0) >= sum(each["self"] for each in mine)
    timed = [row["code"].strip() for row in table.rows if row["backward"]]
    assert "x = self.norm(self.first(x))" in timed
    assert "return self.out(x.mean((2, 3)))" in timed


def test_the_margin_of_a_layer_in_a_library_has_its_own_lines() -> None:
    trace, _, model = recorded("gpt2")
    block = model.transformer.h[0]
    table = torchprof.annotate(trace, block)
    lines, first = inspect.getsourcelines(inspect.unwrap(type(block).forward))
    assert [row["line"] for row in table.rows] == list(range(first, first + len(lines)))
    (mlp,) = [row for row in table.rows if "self.mlp(" in row["code"]]
    assert mlp["backward"] > 0
    assert mlp["flops"] == 2 * 2 * 3 * 2 * (2 * 16) * 32 * 128 * 2, (
        "two layers, two steps; forward and twice backward; two products"
    )


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_what_is_wrapped_around_a_module_is_left_out(wrap: Callable[[nn.Module], Any]) -> None:
    trace, _, model = recorded("cnn")
    assert torchprof.annotate(trace, wrap(model)).rows == torchprof.annotate(trace, model).rows
    assert torchprof.annotate(trace, torch.compile(model.forward)).rows == torchprof.annotate(trace, model).rows


def test_threads_have_lines_of_their_own() -> None:
    def work() -> None:
        torch.ones(8).exp()

    with torchprof.profile(stacks=True) as prof:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert sum(row["calls"] for row in torchprof.by_line(prof.trace).rows if row["function"].endswith("work")) == 2


def test_code_of_exec_and_of_cells_has_lines() -> None:
    code = compile("def f(x):\n    y = x.exp()\n    return y.log()\nf(x)\n", "<ipython-input-7-00>", "exec")
    with torchprof.profile(stacks=True) as prof:
        exec(code, {"x": torch.ones(3)})
    rows = torchprof.by_line(prof.trace).rows
    calls = {row["name"]: row["calls"] for row in rows if row["calls"] and row["file"] != __file__}
    assert calls == {"<ipython-input-7-00>:2": 1, "<ipython-input-7-00>:3": 1}


def test_hooks_and_double_backward_have_lines() -> None:
    x = torch.ones(4, requires_grad=True)
    here = inspect.getsourcefile(test_hooks_and_double_backward_have_lines)
    with torchprof.profile(stacks=True) as prof:
        y = x.exp()
        y.register_hook(lambda grad: grad * 3)
        (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        first.sum().backward()
    trace = prof.trace
    frames, names = lines_of_ops(trace), names_of_ops(trace)
    lines: dict[str, Counter[int]] = {}
    for name, frame in zip(names, frames, strict=True):
        assert frame is not None
        assert frame.file == here
        lines.setdefault(name, Counter())[frame.line or 0] += 1
    exp = line(test_hooks_and_double_backward_have_lines, "    y = x.exp()\n")
    assert set(lines["ExpBackward0"]) == {exp}
    hook = line(test_hooks_and_double_backward_have_lines, "(lambda grad: grad * 3)\n")
    assert hook in lines["aten::mul"]


def test_compiled_code_is_of_lines_of_the_function_that_was_compiled() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = x.exp()
        return y.log()

    compiled = torch.compile(f, backend="eager")
    compiled(torch.ones(4))
    with torchprof.profile(stacks=True) as prof:
        compiled(torch.ones(4))
    trace = prof.trace
    frames, names = lines_of_ops(trace), names_of_ops(trace)
    (exp,) = [frame for frame, name in zip(frames, names, strict=True) if name == "aten::exp"]
    assert exp is not None
    lines, first = inspect.getsourcelines(test_compiled_code_is_of_lines_of_the_function_that_was_compiled)
    assert exp.line in range(first, first + len(lines))
