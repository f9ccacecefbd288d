"""Memory in a summary where nothing has any: on meta and on fake tensors it is what the named device's kernels would take.

The truth is a run of the same model on the CPU, whose allocations are measured, and the estimate of the same model for a GPU.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import architectures
import pytest
import torch
from my_network import MyNetwork
from torch import Tensor, nn

import torchprof
from torchprof.errors import ArgumentError
from torchprof.record.nested import find_tensors


def on_meta(value: Any) -> Any:
    """A copy of a model, or of inputs, on meta."""
    if isinstance(value, nn.Module):
        return copy.deepcopy(value).to("meta")
    if isinstance(value, dict):
        return {name: on_meta(item) for name, item in value.items()}
    return value.to("meta") if isinstance(value, Tensor) else value


def totals(model: Any, *inputs: Any, **options: Any) -> Any:
    return torchprof.summary(model, *inputs, verbose=0, **options).totals


def figures(found: Any) -> tuple[Any, ...]:
    return found.allocated, found.peak, found.peak_with_backward, found.saved


def linear_and_gelu() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.GELU())


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x * self.scale, x, x)


class Blocks(nn.Module):
    """What a network has beside matrix products: norms, dropout, gates, losses of precision, views."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.up = nn.LayerNorm(32), nn.Dropout(0.1), nn.Linear(32, 64)
        self.gate, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(x)
        x = x + self.drop(self.down(nn.functional.silu(self.gate(hidden)) * self.up(hidden)))
        return nn.functional.softmax(x, -1).transpose(0, 1).reshape(-1)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear and gelu": (linear_and_gelu, (8, 1024, 64)),
    "blocks": (Blocks, (4, 16, 32)),
    "batch norm": (lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout()), (16, 8)),
    "gru": (lambda: nn.GRU(16, 32, 2), (5, 3, 16)),
    "attention": (Attention, (2, 4, 16, 8)),
    "parametrized": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(64, 64)), (8, 64)),
    "reparametrized": (lambda: nn.utils.weight_norm(nn.Linear(64, 64)), (8, 64)),
}
WITH_WORKSPACES = ("batch norm", "attention")
"""Whose kernels need memory while they run, which is not counted."""
LARGE = 2**40


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_as_on_the_cpu_is_what_the_cpu_takes(name: str, train: bool) -> None:
    make, size = NETWORKS[name]
    real = totals(make().train(train), size, backward=True)
    with torch.device("meta"):
        model = make().train(train)
    counted = totals(model, size, backward=True, device="cpu")
    assert (counted.memory, counted.counted_as, real.memory) == ("meta", "cpu", "measured")
    assert counted.saved == real.saved
    assert counted.allocated <= real.allocated
    if name in WITH_WORKSPACES:
        assert counted.peak <= real.peak
        assert counted.peak_with_backward < real.peak_with_backward
    else:
        assert (counted.peak, counted.peak_with_backward) == (real.peak, real.peak_with_backward)


@pytest.mark.parametrize("make", architectures.ALL, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore")
def test_transformers_keep_on_meta_what_they_keep_on_the_cpu(make: Callable[[], architectures.Case]) -> None:
    model, data = make()
    model.eval()
    totals(model, input_data=data)  # the first run makes what later ones keep
    real = totals(model, input_data=data)
    counted = totals(on_meta(model), input_data=on_meta(data), device="cpu")
    assert counted.unknown_because == ""
    assert counted.saved == pytest.approx(real.saved, rel=0.03)  # a mask that masks nothing is left out where values are read
    assert 0.9 * real.peak <= counted.peak <= 1.03 * real.peak  # below: what kernels need while they run


@pytest.mark.parametrize("make", [architectures.gpt2, architectures.llama, architectures.vit], ids=lambda make: make.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_what_is_saved_is_what_an_estimate_says(
    make: Callable[[], architectures.Case], dtype: torch.dtype, device: str
) -> None:
    model, data = make()
    model, data = on_meta(model.to(dtype)), on_meta(data)
    data = {name: value.to(dtype) if value.is_floating_point() else value for name, value in data.items()}
    counted = torchprof.summary(model, input_data=data, device=device, verbose=0)

    def step(model: nn.Module, optimizer: None, **inputs: Tensor) -> None:
        graph = [out.grad_fn for out in find_tensors(model(**inputs)) if out.grad_fn is not None]
        torch.empty(LARGE, dtype=torch.uint8)  # the peak is here, when outputs are gone and the graph is there
        del graph

    held = torchprof.estimate(model, data, step=step, steps=1, device=device).memory.by_category
    kept = sum(count for name, count in held.items() if name not in ("parameters", "buffers", "inputs")) - LARGE
    assert counted.totals.saved - counted.trace.facts["saved_input_bytes"] == kept > 0


def test_the_kernels_of_a_gpu_are_counted_by_default() -> None:
    """On a GPU, flash attention keeps its output and one number per row; on the CPU too; PyTorch's meta kernels all scores."""
    x = torch.empty(2, 4, 1024, 64, dtype=torch.bfloat16, device="meta", requires_grad=True)
    found = totals(Attention().to(torch.bfloat16), input_data=x)
    output, log_sum_exp = 2 * 4 * 1024 * 64 * 2, 2 * 4 * 1024 * 4
    assert (found.memory, found.counted_as) == ("meta", "cuda")
    assert found.allocated == pytest.approx(2 * output + log_sum_exp, abs=64)  # the query, and the seed of dropout
    assert found.saved == pytest.approx(3 * output + log_sum_exp, abs=64)  # with the input


def test_dropout_keeps_a_mask_of_bytes_on_a_gpu_and_of_numbers_on_the_cpu() -> None:
    model = nn.Sequential(nn.Dropout(), nn.ReLU()).to("meta")
    x = torch.empty(1000, device="meta", requires_grad=True)
    result_and_input = 4000 + 4000
    assert totals(model, input_data=x).saved == 1000 + result_and_input
    assert totals(model, input_data=x, device="cpu").saved == 4000 + result_and_input


def test_the_table_says_whose_kernels_were_counted() -> None:
    model = linear_and_gelu().to("meta")
    assert "(counted as on cuda, on meta tensors: nothing was allocated)" in str(torchprof.summary(model, (2, 64), verbose=0))
    cpu = torchprof.summary(model, (2, 64), device="cpu", verbose=0)
    assert "Forward allocated: 1.0 KiB, peak 1.0 KiB (counted as on cpu, on meta tensors: nothing was allocated)" in str(cpu)


@pytest.mark.parametrize("device", [None, "meta", "cuda", "cuda:1", torch.device("cuda")], ids=str)
@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (linear_and_gelu().to("meta"), {"input_size": (2, 64)}),
        (linear_and_gelu().to("meta"), {"input_data": torch.empty(2, 64, device="meta")}),
        (linear_and_gelu, {"input_size": (2, 64)}),
        (linear_and_gelu, {"input_data": torch.rand(2, 64)}),
        (linear_and_gelu(), {"input_data": torch.empty(2, 64, device="meta")}),
    ],
    ids=["model", "model and inputs", "function", "function and real inputs", "inputs"],
)
def test_what_has_no_memory_is_counted_as_on_cuda(model: Any, inputs: Any, device: Any) -> None:
    found = torchprof.summary(model, **inputs, device=device, verbose=0)
    assert (found.totals.memory, found.totals.counted_as, found.totals.allocated) == ("meta", "cuda", 2 * 2 * 64 * 4)
    assert found.rows[0].output_shapes == ((2, 64),)


def test_inputs_of_a_real_model_are_put_on_meta_to_count_them() -> None:
    found = totals(nn.Linear(64, 64), (10**6, 64), device="meta")
    assert (found.memory, found.saved, found.allocated) == ("meta", 256 * 10**6, 256 * 10**6)


def test_a_real_model_is_measured_as_ever() -> None:
    assert totals(nn.Linear(4, 4), (2, 4)).memory == totals(nn.Linear(4, 4), (2, 4), device="cpu").memory == "measured"


def test_a_device_whose_kernels_are_not_known_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"device='xla'.*cuda and cpu"):
        totals(nn.Linear(4, 4, device="meta"), (2, 4), device="xla")
    with pytest.raises(ArgumentError, match="device='gpu' is not a device"):
        totals(nn.Linear(4, 4, device="meta"), (2, 4), device="gpu")


class OutOfSight(nn.Module):
    """Tensors where no parameter is: in lists and dicts, in attributes and in a closure."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64, device=device)
        self.weights = [torch.rand(64, 64, device=device), torch.rand(64, 64, device=device)]
        self.named = {"a": torch.rand(64, device=device), "deep": [torch.rand(64, device=device)]}
        self.bias = torch.rand(64, device=device)
        closed = torch.rand(64, 64, device=device)
        self.project = lambda x: x @ closed.t()

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = x @ weight
        return self.layer(self.project(x) + self.named["a"] + self.named["deep"][0] + self.bias)


def test_tensors_that_are_no_parameters_were_there_before() -> None:
    real = totals(OutOfSight("cpu"), (8, 64), backward=True)
    assert figures(totals(OutOfSight("meta"), (8, 64), device="cpu", backward=True)) == figures(real)


class Caches(nn.Module):
    """Keeps a tensor of its own from the first call on."""

    def __init__(self) -> None:
        super().__init__()
        self.mask: Tensor | None = None
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.mask is None:
            self.mask = torch.ones_like(x)
        return x * self.mask.view(-1)


def test_what_a_warmup_keeps_was_there_before_the_pass() -> None:
    x = torch.empty(256, device="meta")
    assert totals(Caches(), input_data=x).allocated == 2 * 1024
    assert totals(Caches(), input_data=x, warmup=1).allocated == 1024


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_every_tensor_of_the_model_is_its_own_afterwards(error: type[BaseException] | None) -> None:
    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
            self.kept, self.table = torch.rand(4), [torch.rand(4)]

        def forward(self, x: Tensor) -> Tensor:
            self.made = self.norm(self.layer(x))
            self.kept = self.kept + 1
            self.table.append(x)
            self.layer.weight = nn.Parameter(torch.ones(4, 4))
            self.layer.bias = None
            if error is not None:
                raise error
            return self.made

    model = Changing().to("meta")
    model.kept, model.table = model.kept.to("meta"), [model.table[0].to("meta")]
    held = [dict(vars(module)) for module in model.modules()]
    registries = [(list(m._parameters.items()), list(m._buffers.items())) for m in model.modules()]
    table = list(model.table)
    if error is None:
        totals(model, (2, 4))
    else:
        with pytest.raises(error):
            totals(model, (2, 4))
    for module, before, registry in zip(model.modules(), held, registries, strict=True):
        assert list(vars(module)) == list(before)
        assert all(vars(module)[name] is before[name] for name in before)
        now = list(module._parameters.items()), list(module._buffers.items())
        assert [[(name, id(value)) for name, value in part] for part in now] == [
            [(name, id(value)) for name, value in part] for part in registry
        ]
    assert len(model.table) == len(table)
    assert all(one is other for one, other in zip(model.table, table, strict=True))
    assert type(torch.empty(1)) is Tensor


class ReadsValues(nn.Module):
    """Runs on plain meta tensors, for the tensor that it reads is a real one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * float(torch.arange(3).sum())


def test_memory_that_cannot_be_counted_is_unknown_and_says_why() -> None:
    found = torchprof.summary(ReadsValues().to("meta"), (2, 64), verbose=0, backward=True)
    assert found.totals.memory == "unknown"
    assert figures(found.totals) == (None, None, None, None)
    assert "_local_scalar_dense" in found.totals.unknown_because
    assert [row.output_bytes for row in found.rows] == [512, 512]
    assert "Forward allocated: unknown, peak unknown, with backward unknown (nothing was allocated, and it cannot be" in str(
        found
    )
    assert "Saved for backward: unknown" in str(found)


def test_small_tensors_that_forward_writes_down_have_their_values() -> None:
    class Grid(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            heights = torch.tensor([[2, 3], [4, 5]]).prod(1).tolist()
            return x.split(heights, 1)[1]

    found = torchprof.summary(Grid(), input_data=torch.empty(3, 26, device="meta"), verbose=0)
    assert (found.totals.memory, found.rows[0].output_shapes) == ("meta", ((3, 20),))


def test_an_error_of_the_model_is_its_own() -> None:
    with pytest.raises(RuntimeError) as caught:
        totals(nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 5)).to("meta"), (2, 4))
    assert any("module '1' (Linear)" in note for note in caught.value.__notes__)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_rows_calls_and_parameters_are_those_of_a_real_run() -> None:
    real = torchprof.summary(MyNetwork(num_class=2), (3, 112, 112), batch_size=4, verbose=0)
    meta = torchprof.summary(on_meta(MyNetwork(num_class=2)), (3, 112, 112), batch_size=4, verbose=0)

    def shown(row: Any) -> tuple[Any, ...]:
        return row.path, row.type, row.calls, row.params, row.input_shapes, row.output_shapes, row.output_bytes, row.note

    assert [shown(row) for row in meta.rows] == [shown(row) for row in real.rows]
    assert meta.totals.param_bytes_by_device == {"meta": real.totals.param_bytes}
    assert meta.totals.input_bytes == real.totals.input_bytes
    assert torchprof.summary(on_meta(MyNetwork(num_class=2)), (3, 112, 112), batch_size=4, verbose=0, style="torchsummary")


def test_the_layers_of_a_transformer_encoder_are_called_as_ever() -> None:
    """In the mode in which it would run one kernel for each on a device, of which only the result could be counted."""
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2).eval()
    with torch.no_grad():
        found = torchprof.summary(encoder.to("meta"), (2, 7, 32), verbose=0)
    assert {row.calls for row in found.rows if row.name == "linear1"} == {1}
    assert torch.backends.mha.get_fastpath_enabled()


class Cast(nn.Module):
    def __init__(self, device: str) -> None:
        super().__init__()
        self.layer, self.device = nn.Linear(64, 64), device

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device, dtype=torch.bfloat16):
            return self.layer(x)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_autocast_of_the_device_that_is_counted_works() -> None:
    cast_once = 2 * (64 * 64 + 64 + 8 * 64)
    result = 2 * 8 * 64
    make = torch.autocast.__init__
    assert totals(Cast("cuda").to("meta"), (8, 64)).allocated == cast_once + result
    assert totals(Cast("cpu").to("meta"), (8, 64), device="cpu").allocated == cast_once + result
    assert totals(Cast("cuda").to("meta"), (8, 64), device="cpu").allocated == 2 * result
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert totals(nn.Linear(64, 64, device="meta"), (8, 64), device="cpu").allocated == cast_once + result
        assert totals(nn.Linear(64, 64, device="meta"), (8, 64)).allocated == 2 * result
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")
    assert torch.autocast.__init__ is make


def test_lazy_modules_are_counted_and_lazy_afterwards() -> None:
    model = nn.Sequential(nn.LazyLinear(64, device="meta"), nn.LazyBatchNorm1d(device="meta"))
    eager = nn.Sequential(nn.Linear(32, 64, device="meta"), nn.BatchNorm1d(64, device="meta"))
    found = torchprof.summary(model, (8, 32), verbose=0)
    assert figures(found.totals) == figures(totals(eager, (8, 32)))
    assert found.totals.params == 32 * 64 + 64 + 2 * 64
    assert isinstance(model[0], nn.LazyLinear)
    assert model[0].has_uninitialized_params()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_parameters_of_torchscript_were_there_before() -> None:
    scripted = torch.jit.script(nn.Linear(64, 64, device="meta"))  # type: ignore[no-untyped-call]
    assert figures(totals(scripted, (8, 64))) == figures(totals(nn.Linear(64, 64, device="meta"), (8, 64)))


def test_what_a_compiled_model_takes_is_unknown() -> None:
    compiled = torch.compile(linear_and_gelu().to("meta"), backend="eager")
    found = torchprof.summary(compiled, (8, 64), verbose=0)
    assert (found.totals.memory, found.totals.allocated, found.rows[0].output_shapes) == ("unknown", None, ((8, 64),))
    assert "is compiled: torchprof.estimate(..., compile=True)" in str(found)
    torch._dynamo.reset()


# Fake tensors


def test_fake_tensors_of_the_caller_are_counted_and_left_alone() -> None:
    mode = torch._subclasses.FakeTensorMode()
    with mode:
        model = linear_and_gelu()
        x = torch.rand(8, 1024, 64)
        inside = torchprof.summary(model, input_data=x, verbose=0)
        sized = torchprof.summary(model, (8, 1024, 64), verbose=0)
        assert type(torch.empty(1)) is type(x)
    outside = torchprof.summary(model, input_data=x, verbose=0)
    for found in (inside, sized, outside):
        assert (found.totals.memory, found.totals.counted_as) == ("meta", "cpu")
        assert (found.totals.allocated, found.totals.peak, found.totals.saved) == (2**22, 2**22, 2**22)
    assert all(parameter.fake_mode is mode for parameter in model.parameters())  # type: ignore[attr-defined]
    assert torchprof.summary(model, input_data=x, device="cuda", verbose=0).totals.counted_as == "cuda"


def test_fake_tensors_on_a_gpu_are_counted_as_on_a_gpu() -> None:
    with torch._subclasses.FakeTensorMode():
        x = torch.empty(4, 4, device="cuda")
    assert totals(nn.ReLU(), input_data=x).counted_as == "cuda"


def test_a_real_model_under_a_fake_mode_is_counted() -> None:
    model, x = nn.Linear(64, 64), torch.rand(8, 64)
    with torch._subclasses.FakeTensorMode():
        assert figures(totals(model, input_data=x)) == (2048, 2048, 0, 2048)


def test_symbolic_sizes_are_those_that_were_traced_with_and_no_guard_is_added() -> None:
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    shapes = ShapeEnv()
    mode = torch._subclasses.FakeTensorMode(shape_env=shapes)
    x = mode.from_tensor(torch.rand(8, 64), static_shapes=False)
    guards = len(shapes.guards)
    found = totals(nn.Linear(64, 64), input_data=x)
    assert (found.memory, found.allocated) == ("meta", 2048)
    assert len(shapes.guards) == guards
    assert isinstance(x.shape[0], torch.SymInt)


def test_a_summary_of_a_real_model_imports_nothing_of_estimates() -> None:
    script = (
        "import sys, torch, torchprof; torchprof.summary(torch.nn.Linear(3, 4), (2, 3), verbose=0);"
        "print([name for name in sys.modules if name.startswith('torchprof.estimation')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
