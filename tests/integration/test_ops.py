"""What is recorded of every op, against what Python and torch.profiler know of the same code."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import networks
import pytest
import torch
from reading import inputs, op_names, outputs, path_of_call, rows_named
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import torchprof
from torchprof.trace.schema import OP_ATTRIBUTED


def train_step(model: nn.Module, x: Tensor) -> None:
    model(x).sum().backward()
    model.zero_grad()


MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "convolutional": lambda: (networks.Convolutional(), torch.ones(1, 3, 112, 112)),
    "nested": lambda: (networks.Nested(), torch.ones(2, 3, 16, 16)),
    "transformer": lambda: (nn.TransformerEncoderLayer(16, 2, 32, dropout=0, batch_first=True), torch.ones(2, 4, 16)),
}


def seen_by_torch_profiler(run: Callable[[], None]) -> Counter[tuple[str, str]]:
    """(parent, op) of everything that torch.profiler records of the dispatcher and of autograd."""
    with torch.autograd.profiler.profile(use_kineto=True, use_cpu=True) as profiler:
        run()
    return Counter(
        (event.cpu_parent.name if event.cpu_parent is not None else "", event.name)
        for event in profiler.function_events
        if not event.name.startswith("[")
    )


def seen_by_torchprof(run: Callable[[], None]) -> Counter[tuple[str, str]]:
    """The same, of the calling thread: torch.profiler does not see the ops of its helpers."""
    with torchprof.profile() as prof:
        run()
    names, parents = op_names(prof.trace), prof.trace.ops["parent"].tolist()
    (engine,) = rows_named(prof.trace, "run_backward(autograd)")  # which is torchprof's own
    assert parents[engine] == -1
    parents = [-1 if parent == engine else parent for parent in parents]
    children = Counter(parents)
    return Counter(
        (names[parent] if parent >= 0 else "", name)
        for name, parent, thread in zip(names, parents, prof.trace.ops["thread"].tolist(), strict=True)
        # torch.profiler leaves out an op whose only child has its name, and names the child's children's parent alike
        if thread == 0 and name != names[engine] and not (parent >= 0 and names[parent] == name and children[parent] == 1)
    )


@pytest.mark.parametrize("name", MODELS)
def test_ops_and_their_parents_are_those_that_torch_profiler_sees(name: str) -> None:
    model, x = MODELS[name]()
    train_step(model, x)  # the first run does more
    assert seen_by_torchprof(lambda: train_step(model, x)) == seen_by_torch_profiler(lambda: train_step(model, x))


def test_inputs_and_outputs_are_recorded_with_shape_and_dtype() -> None:
    a, b = torch.ones(2, 3), torch.ones(3, 4)
    with torchprof.profile() as prof:
        a @ b
    trace = prof.trace
    (row,) = rows_named(trace, "aten::mm")
    assert inputs(trace, trace.ops[row]) == [("float32", (2, 3)), ("float32", (3, 4))]
    assert outputs(trace, trace.ops[row]) == [("float32", (2, 4))]


def test_views_name_the_storage_of_what_they_look_at() -> None:
    x = torch.ones(4, 6)
    with torchprof.profile() as prof:
        x[1:, ::2].t()
    storages = {int(row["storage"]) for row in prof.trace.tensors}
    assert storages == {x.untyped_storage().data_ptr()}
    assert set(prof.trace.tensors["storage_bytes"].tolist()) == {x.untyped_storage().nbytes()}


def test_tensors_in_lists_are_inputs_too() -> None:
    with torchprof.profile() as prof:
        torch.cat([torch.ones(1, 2), torch.ones(3, 2)])
    (row,) = rows_named(prof.trace, "aten::cat")
    assert [shape for _, shape in inputs(prof.trace, prof.trace.ops[row])] == [(1, 2), (3, 2)]


def test_outputs_in_tuples_and_lists_are_outputs() -> None:
    with torchprof.profile() as prof:
        torch.ones(4, 4).max(dim=1)
        torch.ones(6).split(4)
    trace = prof.trace
    assert [shape for _, shape in outputs(trace, trace.ops[rows_named(trace, "aten::max")[0]])] == [(4,), (4,)]
    assert [shape for _, shape in outputs(trace, trace.ops[rows_named(trace, "aten::split")[0]])] == [(4,), (2,)]


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(lambda: torch.tensor(3.0) + 1, id="no dimension"),
        pytest.param(lambda: torch.empty(0, 5).sum(), id="no element"),
        pytest.param(lambda: torch.eye(3).to_sparse() @ torch.ones(3, 1), id="sparse"),
        pytest.param(lambda: torch.eye(3).to_sparse_csr(), id="compressed sparse"),
        pytest.param(lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]) * 2, id="nested"),
        pytest.param(lambda: torch.ones(3).to_mkldnn(), id="opaque"),
        pytest.param(lambda: torch.ones(2, dtype=torch.complex64).abs(), id="complex"),
        pytest.param(lambda: torch.nn.functional.layer_norm(torch.ones(2, 3), (3,), None, None), id="undefined"),
        pytest.param(lambda: torch.func.vmap(torch.sin)(torch.ones(2, 3)), id="batched"),
        pytest.param(lambda: torch.func.grad(lambda x: x.sin().sum())(torch.ones(3)), id="functional gradient"),
        pytest.param(lambda: nn.Parameter(torch.ones(2)).square(), id="subclass"),
        pytest.param(lambda: torch.masked.masked_tensor(torch.ones(2), torch.tensor([True, False])) + 1, id="masked"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_every_kind_of_tensor_can_pass_through(run: Callable[[], object]) -> None:
    with torchprof.profile() as prof:
        run()
    assert len(prof.trace.ops) > 0


def test_fake_tensors_are_recorded_with_their_shapes() -> None:
    with FakeTensorMode(), torchprof.profile() as prof:
        torch.empty(2, 3) + torch.empty(3)
    assert (2, 3) in {prof.trace.shape(row) for row in range(len(prof.trace.shapes))}


@pytest.mark.filterwarnings("ignore")
def test_values_of_symbolic_shapes_are_not_read() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    with torchprof.profile() as prof:
        graph = make_fx(lambda x: x.sin() + x.shape[0], tracing_mode="symbolic")(torch.ones(5))
    assert "sym_size" in graph.code  # the size was not specialised
    assert len(prof.trace.ops) > 0


def test_a_backward_op_belongs_to_the_module_whose_op_it_differentiates() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2))
    with torchprof.profile(model) as prof:
        model(torch.ones(5, 3)).sum().backward()
    trace = prof.trace
    nodes = [
        (name, path_of_call(trace, int(op["module_call"])))
        for name, op in zip(op_names(trace), trace.ops, strict=True)
        if op["forward_thread"] and op["flags"] & OP_ATTRIBUTED and op["module_call"] >= 0
    ]
    assert nodes[:5] == [
        ("AddmmBackward0", "2"),
        ("torch::autograd::AccumulateGrad", "2"),
        ("TBackward0", "2"),
        ("torch::autograd::AccumulateGrad", "2"),
        ("SigmoidBackward0", "1"),
    ]


def test_gradients_are_accumulated_in_the_module_that_owns_the_parameter() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    for repetition in range(2):  # the second time there is a gradient to add to
        with torchprof.profile(model) as prof:
            model(torch.ones(5, 3)).sum().backward()
        rows = rows_named(prof.trace, "torch::autograd::AccumulateGrad")
        paths = [path_of_call(prof.trace, int(prof.trace.ops["module_call"][row])) for row in rows]
        assert sorted(paths) == ["0", "0", "1", "1"], repetition


def test_user_ranges_are_recorded_by_name() -> None:
    with torchprof.profile() as prof, torch.profiler.record_function("my range"):
        torch.ones(1)
    names = op_names(prof.trace)
    assert names[prof.trace.ops["parent"][rows_named(prof.trace, "aten::ones")[0]]] == "my range"


def test_a_range_that_outlives_the_op_it_began_in_is_not_inside_it() -> None:
    class Passing(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    with torchprof.profile() as prof, Passing(), torch.profiler.record_function("mine"):
        torch.ones(2) + 1
    ops = prof.trace.ops
    (mine,) = rows_named(prof.trace, "mine")
    inside = ops[ops["parent"] >= 0]
    assert (inside["end"] <= ops["end"][inside["parent"]]).all()
    assert mine in inside["parent"]


def test_an_op_that_raises_is_recorded_and_closed() -> None:
    with torchprof.profile() as prof:
        with pytest.raises(RuntimeError):
            torch.ones(2, 3) @ torch.ones(2, 3)
        torch.ones(1)
    trace = prof.trace
    assert trace.ops["end"][rows_named(trace, "aten::mm")[0]] >= 0
    assert trace.ops["parent"][rows_named(trace, "aten::ones")[-1]] == -1


def test_recording_prints_no_warning() -> None:
    block = torch.ones(1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torchprof.profile():
            del block
            (torch.ones(10) * 2).sum()


@pytest.mark.parametrize("level", ["grad", "vmap of grad", "jvp"])
def test_ops_inside_torch_func_have_their_own_inputs_alone(level: str) -> None:
    def square(x: Tensor) -> Tensor:
        return (x @ x).sum()

    transforms: dict[str, Callable[[Tensor], Any]] = {
        "grad": torch.func.grad(square),
        "vmap of grad": lambda x: torch.func.vmap(torch.func.grad(square))(x[None]),
        "jvp": lambda x: torch.func.jvp(square, (x,), (x,)),
    }
    with torchprof.profile() as prof:
        transforms[level](torch.ones(4, 4))
    trace = prof.trace
    products = [row for row, name in enumerate(trace.op_names) if trace.strings[name] in ("aten::mm", "aten::bmm")]
    assert products
    assert {int(trace.ops["n_inputs"][row]) for row in products} == {2}
