"""by_line and by_function: what every line cost, on traces written by hand."""

from __future__ import annotations

from typing import Any

import pytest
from stacked import BACKWARD, FORWARD, SELF, TORCH, Program, training

import torchprof
from torchprof import ArgumentError
from torchprof.trace.schema import SCOPE_USER, Phase


def figures(table: torchprof.Table, *names: str) -> dict[str, Any]:
    """The figures of every row, by name; of one figure, without those that are 0."""
    if len(names) == 1:
        return {row["name"]: row[names[0]] for row in table.rows if row[names[0]]}
    return {row["name"]: tuple(row[name] for name in names) for row in table.rows}


def test_the_self_times_of_lines_and_of_what_is_unknown_add_up_to_the_recording() -> None:
    assert figures(torchprof.by_line(training().trace()), "self") == SELF
    assert sum(SELF.values()) == 1000


def test_backward_and_accumulation_are_of_the_line_of_the_forward_op() -> None:
    table = torchprof.by_line(training().trace())
    assert figures(table, "backward_self") == {"train.py:20": 40, "net.py:8": 110, "net.py:9": 60, "train.py:21": 90}
    assert figures(table, "backward_at") == {name: ["train.py:21"] for name in ("train.py:20", "net.py:8", "net.py:9")}


def test_backward_can_be_of_the_line_that_called_it() -> None:
    table = torchprof.by_line(training().trace(), backward_at_call=True)
    assert figures(table, "backward_self") == {"train.py:21": 300}
    assert figures(table, "self")["net.py:8"] == 130
    assert sum(row["self"] for row in table.rows) == 1000


def test_forward_and_optimizer_are_of_the_lines_that_ran_them() -> None:
    table = torchprof.by_line(training().trace())
    assert figures(table, "forward_self") == {"train.py:20": 30, "net.py:7 Net.forward": 120, "net.py:8": 130, "net.py:9": 50}
    assert figures(table, "optimizer_self") == {"train.py:22": 100}
    assert figures(table, "other_self") == {"train.py:17 train": 120, "unknown": 150}


def test_the_time_of_a_line_has_what_ran_in_functions_that_it_called() -> None:
    time = figures(torchprof.by_line(training().trace()), "time")
    assert time["net.py:8"] == 240
    assert time["train.py:20"] == 70 + 120 + 240 + 110
    assert time["train.py:21"] == 90 + 40 + 110 + 60, "the whole backward pass"
    assert time["train.py:40"] == 850


def test_functions_have_self_time_and_time_with_what_they_called() -> None:
    table = torchprof.by_function(training().trace())
    assert figures(table, "self", "time") == {
        "train.py:1 <module>": (0, 850),
        "train.py:17 train": (380, 850),
        "net.py:7 Net.forward": (470, 470),
        "unknown": (150, 150),
    }


def test_libraries_have_rows_of_their_own_on_request() -> None:
    table = torchprof.by_line(training().trace(), libraries=True)
    assert figures(table, "self") == {
        "train.py:17 train": 120,
        "train.py:20": 70,
        "graph.py:966": 90,
        "optimizer.py:500 Optimizer.step": 40,
        "optimizer.py:511": 60,
        "net.py:7 Net.forward": 120,
        "linear.py:130 Linear.forward": 20,
        "linear.py:134": 220,
        "net.py:9": 110,
        "unknown": 150,
    }


def test_backward_on_a_thread_of_autograds_has_lines_and_is_not_counted_twice() -> None:
    table = torchprof.by_line(training(backward_thread=1).trace())
    assert figures(table, "backward_self") == {"train.py:20": 40, "net.py:8": 110, "net.py:9": 60, "train.py:21": 90}
    assert figures(table, "backward_at") == {name: ["train.py:21"] for name in ("train.py:20", "net.py:8", "net.py:9")}
    assert figures(table, "self") == SELF


def test_figures_are_means_over_the_active_steps() -> None:
    p = training()
    training(first=1000, program=p)
    training(first=2000, program=p)
    for number in range(3):
        p.add("steps", start=1000 * number, end=1000 * number + 1000, number=number, warmup=number == 0)
    table = torchprof.by_line(p.trace(duration_ns=3000))
    own = figures(table, "self")
    # From the optimizer to the next call of the net is Python of `train`; the last 50 of 2000 are unknown.
    assert own == {**SELF, "train.py:17 train": 120 + (150 + 100) / 2, "unknown": 50 / 2}
    assert figures(table, "calls") == {"train.py:20": 1, "net.py:8": 1, "net.py:9": 1, "train.py:22": 1}


def test_what_python_runs_inside_backward_is_of_its_own_line() -> None:
    p = training()
    hook = p.function("double", "/home/me/net.py", 30)
    engine = p.stacks_of["op_stacks"][3]
    inside = p.stack(engine, hook, 31)
    node = next(row for row, op in enumerate(p.rows["ops"]) if op["name"] == p.string("ReluBackward0"))
    p.op("aten::mul", 570, 590, inside, parent=node, flags=BACKWARD)
    # Rows are in order of time: the op goes behind its node.
    p.rows["ops"].insert(node + 1, p.rows["ops"].pop())
    p.stacks_of["op_stacks"].insert(node + 1, p.stacks_of["op_stacks"].pop())
    for op in p.rows["ops"][node + 2 :]:
        op["parent"] = op.get("parent", -1) + (op.get("parent", -1) > node)
    table = torchprof.by_line(p.trace())
    assert figures(table, "backward_self") == {
        "train.py:20": 40,
        "net.py:8": 110,
        "net.py:9": 40,
        "net.py:31": 20,
        "train.py:21": 90,
    }


def custom_function(*, with_op: bool) -> Program:
    """``y = Double.apply(x)`` in line 5, whose node no op created; in its forward, line 11, maybe an op runs; line 6 adds 1."""
    p = Program()
    main = p.function("main", "/home/me/a.py", 3)
    apply = p.function("Function.apply", f"{TORCH}/autograd/function.py", 560)
    forward = p.function("Double.forward", "/home/me/a.py", 10)
    engine = p.function("_engine_run_backward", f"{TORCH}/autograd/graph.py", 950)
    p.op("aten::exp", 10, 20, p.stack(-1, main, 4), sequence_nr=3, flags=FORWARD)
    if with_op:
        in_forward = p.stack(p.stack(p.stack(-1, main, 5), apply, 581), forward, 11)
        p.op("aten::mul", 30, 40, in_forward, flags=FORWARD)
    p.op("aten::add", 50, 60, p.stack(-1, main, 6), sequence_nr=5, flags=FORWARD)
    in_engine = p.stack(p.stack(-1, main, 7), engine, 966)
    p.node("AddBackward0", 100, 120, 5, in_engine)
    p.node("DoubleBackward", 120, 150, 4, in_engine)
    p.node("ExpBackward0", 150, 170, 3, in_engine)
    return p


def test_the_node_of_a_function_is_of_the_line_that_applied_it() -> None:
    table = torchprof.by_line(custom_function(with_op=True).trace())
    assert figures(table, "backward_self") == {"a.py:6": 20, "a.py:5": 30, "a.py:4": 20}
    assert figures(table, "forward_self") == {"a.py:4": 10, "a.py:11": 10, "a.py:6": 10}


def test_a_node_of_which_no_forward_is_known_is_of_the_line_that_called_backward() -> None:
    table = torchprof.by_line(custom_function(with_op=False).trace())
    assert figures(table, "backward_self") == {"a.py:6": 20, "a.py:7": 30, "a.py:4": 20}


def test_the_backward_of_backward_is_of_the_line_that_the_first_differentiates() -> None:
    p = Program()
    main = p.function("main", "/home/me/a.py", 1)
    line = {number: p.stack(-1, main, number) for number in (2, 3, 4)}
    p.op("aten::exp", 10, 20, line[2], sequence_nr=0, flags=FORWARD)
    first = p.node("ExpBackward0", 30, 60, 0, line[3])
    p.op("aten::mul", 40, 50, -1, parent=first, flags=BACKWARD, sequence_nr=1)
    p.node("MulBackward0", 60, 80, 1, line[4])
    assert figures(torchprof.by_line(p.trace()), "backward_self") == {"a.py:2": 50}


def test_an_op_inside_another_is_of_its_line() -> None:
    p = Program()
    line = p.stack(-1, p.function("main", "/home/me/a.py", 1), 2)
    outer = p.op("aten::linear", 0, 100, line, flags=FORWARD)
    inner = p.op("aten::addmm", 10, 90, -1, parent=outer, flags=FORWARD)
    p.op("aten::copy_", 20, 40, -1, parent=inner, flags=FORWARD)
    table = torchprof.by_line(p.trace(duration_ns=100))
    assert figures(table, "self", "calls") == {"a.py:2": (100, 1)}, "one op that Python called"


def test_recursion_counts_once() -> None:
    p = Program()
    f, g = p.function("f", "/home/me/a.py", 1), p.function("g", "/home/me/a.py", 5)
    stack = p.stack(-1, f, 2)
    for _ in range(3):
        stack = p.stack(p.stack(stack, g, 6), f, 2)
    p.op("aten::exp", 0, 70, p.stack(stack, g, 7), flags=FORWARD)
    assert figures(torchprof.by_function(p.trace(duration_ns=70)), "self", "time") == {
        "a.py:1 f": (0, 70),
        "a.py:5 g": (70, 70),
    }
    assert figures(torchprof.by_line(p.trace(duration_ns=70)), "time") == {"a.py:2": 70, "a.py:6": 70, "a.py:7": 70}


def test_a_deep_recursion_is_no_problem() -> None:
    p = Program()
    f = p.function("f", "/home/me/a.py", 1)
    stack = -1
    for _ in range(5000):
        stack = p.stack(stack, f, 2)
    p.op("aten::exp", 0, 10, stack, flags=FORWARD)
    p.op("aten::exp", 20, 30, p.stack(-1, f, 3), flags=FORWARD)
    table = torchprof.by_line(p.trace(duration_ns=30))
    assert figures(table, "self") == {"a.py:2": 10, "a.py:3": 10, "a.py:1 f": 10}


def test_python_in_a_range_of_the_users_is_of_the_lines_in_it() -> None:
    p = Program()
    main = p.function("main", "/home/me/a.py", 1)
    at = {line: p.stack(-1, main, line) for line in (2, 3, 4)}
    around = p.op("a block", 100, 200, at[2], scope=SCOPE_USER)
    p.op("aten::exp", 110, 130, at[3], parent=around)
    p.op("aten::exp", 140, 150, at[3], parent=around)
    p.op("aten::log", 170, 190, at[4], parent=around)
    table = torchprof.by_line(p.trace(duration_ns=300))
    assert figures(table, "self") == {"a.py:3": 20 + 10, "a.py:4": 20, "a.py:1 main": 10 + 10 + 20 + 10, "unknown": 200}


def test_a_loop_around_a_line_is_not_of_the_line() -> None:
    p = Program()
    main = p.function("main", "/home/me/a.py", 1)
    net = p.function("Net.forward", "/home/me/a.py", 9)
    relu = p.function("relu", f"{TORCH}/nn/functional.py", 100)
    line = p.stack(-1, main, 3)
    for begin in (0, 100):  # for x in slow(): y = relu(net(x))
        p.call(begin, begin + 30, line)
        p.op("aten::exp", begin + 10, begin + 30, p.stack(line, net, 10), module_call=begin // 100, flags=FORWARD)
        p.op("aten::relu", begin + 40, begin + 50, p.stack(line, relu, 101))
        p.op("aten::relu_", begin + 55, begin + 60, p.stack(line, relu, 103))
    table = torchprof.by_line(p.trace(duration_ns=160))
    assert figures(table, "self") == {
        "a.py:3": 2 * (10 + 5 + 5),
        "a.py:9 Net.forward": 2 * 10,
        "a.py:10": 2 * 20,
        "a.py:1 main": 2 * 10 + 40,
    }
    assert "between its lines or calls" in str(table)


class Called:
    """``net(x)`` in line 2 of ``main``, from 0 to 100, and stacks of what may run in it."""

    def __init__(self) -> None:
        self.program = p = Program()
        self.line = p.stack(-1, p.function("main", "/home/me/a.py", 1), 2)
        self.between = p.stack(self.line, p.function("Module._call_impl", f"{TORCH}/nn/modules/module.py", 1779), 1789)
        self.call = p.call(0, 100, self.line)

    def inside(self, name: str, line: int, file: str = "/home/me/net.py", around: int | None = None) -> int:
        p = self.program
        return p.stack(self.between if around is None else around, p.function(name, file, line - line % 10), line)

    def op(self, start: int, end: int, stack: int) -> None:
        self.program.op("aten::exp", start, end, stack, module_call=self.call, flags=FORWARD)

    def own(self, **options: bool) -> dict[str, Any]:
        return figures(torchprof.by_line(self.program.trace(duration_ns=100), **options), "self")


@pytest.mark.parametrize("libraries", [False, True])
def test_python_at_the_edges_of_a_call_is_of_the_forward_that_it_ran(libraries: bool) -> None:
    called = Called()
    called.op(10, 20, called.inside("Net.forward", 41))
    called.op(30, 40, called.inside("Net.forward", 41))
    expected = {"net.py:40 Net.forward": 10 + 10 + 60, "net.py:41": 20}
    assert called.own(libraries=libraries) == expected
    assert figures(torchprof.by_line(called.program.trace(duration_ns=100)), "time") == {**expected, "a.py:2": 100}


def test_a_forward_that_only_calls_others_has_the_time_after_the_last_one() -> None:
    called = Called()
    p, forward = called.program, called.inside("Net.forward", 41)
    for start in (0, 20):  # for _ in range(2): x = self.layer(x); time.sleep(1)
        child = p.call(start, start + 5, forward, parent=called.call)
        inner = p.stack(
            p.stack(forward, p.function("Module._call_impl", f"{TORCH}/nn/modules/module.py", 1779), 1789),
            p.function("Layer.forward", "/home/me/net.py", 50),
            51,
        )
        p.op("aten::exp", start, start + 5, inner, module_call=child, flags=FORWARD)
    assert called.own() == {"net.py:40 Net.forward": 15 + 75, "net.py:51": 10}


def test_a_forward_inside_decorators_and_functions_that_it_calls_is_found() -> None:
    for decorator in ("/home/me/net.py", f"{TORCH}/utils/_contextlib.py"):
        called = Called()
        forward = called.inside("Net.forward", 41, around=called.inside("decorated", 11, decorator))
        called.op(10, 20, called.inside("helper", 61, around=forward))
        assert called.own() == {"net.py:40 Net.forward": 90, "net.py:61": 10}


def test_python_at_an_edge_beside_a_hook_is_of_the_hook() -> None:
    called = Called()
    called.op(10, 20, called.inside("Net.forward", 41))
    called.op(20, 30, called.inside("log", 71))
    assert called.own() == {"net.py:40 Net.forward": 10, "net.py:41": 10, "net.py:71": 10, "net.py:70 log": 70}


def test_beside_what_no_stack_is_known_of_it_is_of_the_only_function_in_the_call() -> None:
    called = Called()
    called.op(10, 20, called.inside("Net.forward", 41))
    called.op(20, 30, -1)
    assert called.own()["net.py:40 Net.forward"] == 10 + 70


def test_python_at_the_edges_of_a_layer_of_a_library_is_of_the_line_that_called_it() -> None:
    called = Called()
    linear = f"{TORCH}/nn/modules/linear.py"
    called.op(10, 20, called.inside("Linear.forward", 134, linear))
    called.op(20, 30, called.inside("log", 71))
    assert called.own() == {"a.py:2": 10 + 10, "net.py:71": 10, "net.py:70 log": 70}
    assert called.own(libraries=True)["linear.py:130 Linear.forward"] == 10


def test_a_call_in_which_nothing_was_recorded_is_of_the_line_that_made_it() -> None:
    assert Called().own() == {"a.py:2": 100}


def test_a_range_of_a_library_is_of_the_line_that_called_it() -> None:
    p = Program()
    main = p.stack(-1, p.function("main", "/home/me/a.py", 1), 2)
    wrapper = p.stack(main, p.function("wrapper", f"{TORCH}/optim/optimizer.py", 500), 514)
    enter = p.stack(wrapper, p.function("record_function.__enter__", f"{TORCH}/autograd/profiler.py", 900), 919)
    p.op("Optimizer.step#SGD.step", 0, 50, enter, scope=SCOPE_USER, flags=int(Phase.OPTIMIZER) << 4)
    assert figures(torchprof.by_line(p.trace(duration_ns=50)), "optimizer_self") == {"a.py:2": 50}


def test_python_in_a_with_block_is_of_no_single_line() -> None:
    p = Program()
    main = p.stack(-1, p.function("main", "/home/me/a.py", 1), 2)
    enter = p.stack(main, p.function("record_function.__enter__", f"{TORCH}/autograd/profiler.py", 900), 919)
    p.op("a block", 0, 50, enter, scope=SCOPE_USER)
    assert figures(torchprof.by_line(p.trace(duration_ns=50)), "self") == {"a.py:1 main": 50}


def test_what_no_stack_is_known_of_is_unknown_and_not_lost() -> None:
    p = Program()
    main = p.function("main", "/home/me/a.py", 1)
    p.op("aten::exp", 0, 10, -1)
    p.op("aten::exp", 10, 20, p.stack(-1, main, 2))
    p.op("aten::exp", 0, 40, -1, thread=1)
    table = torchprof.by_line(p.trace(duration_ns=20))
    assert figures(table, "self") == {"unknown": 50, "a.py:2": 10}


def test_a_stack_of_libraries_alone_is_of_its_innermost_line_beside_a_program() -> None:
    p = Program()
    p.op("aten::exp", 0, 10, p.stack(-1, p.function("main", "/home/me/a.py", 1), 2))
    loop = p.stack(-1, p.function("_loop", f"{TORCH}/utils/data/_utils/pin_memory.py", 20), 30)
    p.op("aten::pin", 0, 10, loop, thread=1)
    assert figures(torchprof.by_line(p.trace(duration_ns=10)), "self") == {"a.py:2": 10, "pin_memory.py:30": 10}


def test_a_program_of_libraries_alone_shows_their_lines() -> None:
    p = Program()
    main = p.stack(-1, p.function("main", "/usr/lib/python3.11/site-packages/tool/main.py", 1), 2)
    p.op("aten::exp", 0, 10, p.stack(main, p.function("f", f"{TORCH}/functional.py", 5), 7))
    table = torchprof.by_line(p.trace(duration_ns=10))
    assert figures(table, "self", "time") == {"functional.py:7": (10, 10), "main.py:2": (0, 10)}
    assert "there is no other code" in str(table)


def test_functions_in_c_are_of_the_line_that_called_them() -> None:
    p = Program()
    main = p.stack(-1, p.function("main", "/home/me/a.py", 1), 2)
    p.op("aten::relu", 0, 10, p.stack(main, p.function("<built-in method relu>", None)))
    assert figures(torchprof.by_line(p.trace(duration_ns=10)), "self") == {"a.py:2": 10}


def test_two_files_of_one_name_are_told_apart() -> None:
    p = Program()
    p.op("aten::exp", 0, 10, p.stack(-1, p.function("f", "/home/me/a/net.py", 1), 2))
    p.op("aten::exp", 10, 20, p.stack(-1, p.function("f", "/home/me/b/net.py", 1), 2))
    assert figures(torchprof.by_line(p.trace(duration_ns=20)), "self") == {"a/net.py:2": 10, "b/net.py:2": 10}


def test_a_trace_without_lines_is_shown_by_function() -> None:
    p = Program()
    train, forward = p.function("train", "train.py", 5), p.function("forward", "net.py", 9)
    linear = p.function("forward", "torch/nn/modules/linear.py", 130)
    call = p.stack(p.stack(p.stack(-1, train), forward), p.function("nn.Module: Linear_0", None))
    p.op("aten::linear", 0, 30, p.stack(p.stack(call, linear), p.function("<built-in function linear>", None)))
    p.op("aten::sum", 30, 40, p.stack(p.stack(-1, train), p.function("<built-in method sum>", None)))
    table = torchprof.by_line(p.trace(duration_ns=40))
    assert figures(table, "self", "time", "line") == {"net.py:9 forward": (30, 30, None), "train.py:5 train": (10, 40, None)}
    assert "knows no lines" in str(table)


def test_kernels_and_waits_are_of_the_line_that_launched_them() -> None:
    p = training()
    launches = [
        ("aten::linear", 135, 140, 0),
        ("aten::relu", 305, 310, 0),
        ("LinearBackward0", 640, 650, 0),
        ("aten::sum", 425, 445, 4),
    ]
    names = [p.strings[op["name"]] for op in p.rows["ops"]]
    for name, start, end, kind in launches:
        op = names.index(name)
        call = p.add("runtime_calls", name=p.string("cuda"), start=start, end=end, op=op, kind=kind)
        if kind == 0:
            p.add("kernels", name=p.string("kernel"), start=end, end=end + 100, op=op, runtime_call=call)
    p.add("kernels", name=p.string("seen late"), start=900, end=930)
    table = torchprof.by_line(p.trace(gpu="cupti"))
    assert figures(table, "device_self", "kernels", "device_share") == {
        **{row["name"]: (0, 0, 0) for row in table.rows},
        "net.py:8": (200, 2, 200 / 330),
        "net.py:9": (100, 1, 100 / 330),
        "unknown": (30, 1, 30 / 330),
    }
    assert figures(table, "device")["train.py:20"] == 300
    assert figures(table, "synchronizations") == {"train.py:20": 1}
    assert figures(table, "waited") == {"train.py:20": 20}
    assert [row["name"] for row in table.rows][:2] == ["net.py:8", "net.py:9"], "most device time first"


def test_a_wait_without_an_op_is_of_what_was_running_meanwhile() -> None:
    p = training()
    p.add("runtime_calls", name=p.string("cudaDeviceSynchronize"), start=810, end=840, kind=4)
    p.add("runtime_calls", name=p.string("cudaDeviceSynchronize"), start=405, end=410, kind=4)
    p.add("kernels", name=p.string("kernel"), start=900, end=930, op=0)
    table = torchprof.by_line(p.trace(gpu="cupti"))
    assert figures(table, "waited") == {"train.py:17 train": 30, "train.py:20": 5}, "between two lines of train, and in a line"


def test_memory_is_of_the_line_that_allocated_it() -> None:
    p = training()
    names = [p.strings[op["name"]] for op in p.rows["ops"]]
    p.allocation(-1, -1, 1000)
    p.allocation(
        140, 645, 64, op=names.index("aten::linear"), module_call=1, free_op=names.index("LinearBackward0"), uses=256 | 64
    )
    p.allocation(310, 600, 32, p.stacks_of["op_stacks"][1], op=names.index("aten::relu"))
    p.allocation(580, 640, 512, p.stacks_of["op_stacks"][3], op=names.index("ReluBackward0"))
    p.allocation(30, 40, 5, p.stacks_of["op_stacks"][2])
    table = torchprof.by_line(p.trace(memory=True))
    assert figures(table, "at_peak") == {"net.py:8": 64, "net.py:9": 32 + 512, "unknown": 1000}
    assert figures(table, "allocated") == {"net.py:8": 64, "net.py:9": 32 + 512, "train.py:20": 5}
    assert figures(table, "saved") == {"net.py:8": 64}
    assert torchprof.memory(p.trace(memory=True)).peak.bytes == 1000 + 64 + 32 + 512


def test_what_grows_from_step_to_step_is_of_the_line_that_allocated_it() -> None:
    p = Program()
    main = p.function("main", "/home/me/a.py", 1)
    for step in range(6):
        p.add("steps", start=100 * step, end=100 * step + 100, number=step)
        op = p.op("aten::clone", 100 * step + 10, 100 * step + 20, p.stack(-1, main, 2))
        p.allocation(100 * step + 15, -1, 64, op=op)
        op = p.op("aten::clone", 100 * step + 30, 100 * step + 40, p.stack(-1, main, 3))
        p.allocation(100 * step + 35, 100 * step + 50, 1000, op=op)
    table = torchprof.by_line(p.trace(memory=True, duration_ns=600))
    assert figures(table, "leaked") == {"a.py:2": 6 * 64}
    assert figures(table, "growth") == {"a.py:2": 64}
    assert "Leaked" in str(table)


def test_flops_are_of_the_line_of_their_op_and_unknown_ones_are_said() -> None:
    p = Program()
    f, g = p.function("f", "/home/me/a.py", 1), p.function("g", "/home/me/a.py", 5)
    call = p.stack(-1, f, 2)
    names = [p.string(name) for name in ("aten::mm", "mine::op")]
    p.rows["signatures"] = [{"name": names[0], "flops": 48}, {"name": names[1], "flops": -2}]
    p.rows["ops"] = [{"start": 0, "end": 10, "signature": 0}, {"start": 10, "end": 20, "signature": 1}]
    p.stacks_of["op_stacks"] = [p.stack(call, g, 6), p.stack(call, g, 7)]
    table = torchprof.by_line(p.trace(duration_ns=20))
    assert figures(table, "flops_self", "flops_self_unknown") == {
        "a.py:2": (0, []),
        "a.py:6": (48, []),
        "a.py:7": (None, ["mine::op"]),
    }
    assert figures(table, "flops", "flops_unknown")["a.py:2"] == (48, ["mine::op"])
    assert figures(torchprof.by_function(p.trace(duration_ns=20)), "flops") == {"a.py:1 f": 48, "a.py:5 g": 48}


@pytest.mark.parametrize("table", [torchprof.by_line, torchprof.by_function, lambda trace: torchprof.annotate(trace, training)])
def test_a_trace_without_stacks_is_an_error_that_says_how_to_have_them(table: Any) -> None:
    with pytest.raises(ArgumentError, match=r"stacks=True, the default of torchprof.profile, .*with_stack=True"):
        table(torchprof.Trace.empty())


def test_flags_are_true_or_false() -> None:
    with pytest.raises(ArgumentError, match="libraries='torch' must be True or False"):
        torchprof.by_line(training().trace(), libraries="torch")  # type: ignore[arg-type]


def test_nothing_ran() -> None:
    p = Program()
    p.stack(-1, p.function("main", "/home/me/a.py", 1), 2)
    assert len(torchprof.by_line(p.trace(duration_ns=0))) == 0


def test_the_phase_of_a_range_without_ops_is_of_its_line() -> None:
    p = Program()
    main = p.function("main", "/home/me/a.py", 1)
    p.op("iter(DataLoader)", 0, 30, p.stack(-1, main, 2), scope=SCOPE_USER, flags=int(Phase.DATA) << 4)
    assert figures(torchprof.by_line(p.trace(duration_ns=30)), "data_self") == {"a.py:2": 30}


def test_the_sums_of_an_aggregated_recording_have_lines() -> None:
    p = Program()
    f, g = p.function("f", "/home/me/a.py", 1), p.function("g", "/home/me/a.py", 5)
    call = p.stack(-1, f, 2)
    p.rows["signatures"] = [{"name": p.string("aten::mm"), "flops": 10}, {"name": p.string("aten::add")}]
    forward, backward = int(Phase.FORWARD), int(Phase.BACKWARD)
    p.add("op_totals", signature=0, count=4, time=100, self_time=80, phase=forward, stack=p.stack(call, g, 6), allocated=64)
    p.add("op_totals", signature=0, count=4, time=60, self_time=60, phase=backward, stack=p.stack(call, g, 6))
    p.add("op_totals", signature=1, count=2, time=20, self_time=20, phase=forward, stack=-1)
    p.add("call_totals", module=0, caller=-1, count=2, time=140, self_time=30, phase=forward, stack=call)
    for number in range(2):
        p.add("steps", start=100 * number, end=100 * number + 100, number=number)
    table = torchprof.by_line(p.trace(aggregate=True, duration_ns=200))
    assert figures(table, "self", "time", "forward_self", "backward_self") == {
        "a.py:6": (70, 70, 40, 30),
        "a.py:2": (15, 85, 15, 0),
        "unknown": (15, 15, 10, 0),
    }
    assert figures(table, "flops_self") == {"a.py:6": 40}
    assert figures(table, "allocated") == {"a.py:6": 32}
    str(table)


@pytest.mark.parametrize("second", ["Net.forward", "Other.forward"])
def test_sums_of_python_in_calls_are_of_the_forward_that_one_line_called(second: str) -> None:
    p = Program()
    line = p.stack(-1, p.function("main", "/home/me/a.py", 1), 2)
    between = p.stack(line, p.function("Module._call_impl", f"{TORCH}/nn/modules/module.py", 1779), 1789)
    p.rows["signatures"] = [{"name": p.string("aten::mm")}]
    for name in ("Net.forward", second):
        stack = p.stack(between, p.function(name, "/home/me/net.py", 40), 41)
        p.add("op_totals", signature=0, count=1, time=20, self_time=20, phase=int(Phase.FORWARD), stack=stack)
    p.add("call_totals", module=0, caller=-1, count=2, time=100, self_time=60, phase=int(Phase.FORWARD), stack=line)
    p.add("steps", start=0, end=100, number=0)
    own = figures(torchprof.by_line(p.trace(aggregate=True, duration_ns=100)), "self")
    of_calls = "net.py:40 Net.forward" if second == "Net.forward" else "a.py:2"
    assert own == {"net.py:41": 40, of_calls: 60}
