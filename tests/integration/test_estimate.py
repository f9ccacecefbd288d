"""Estimates of training steps, against the measured memory of real ones, and against what is known of CUDA."""

from __future__ import annotations

import copy
import gc
import math
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from architectures import ALL, Case, llama_of_seventy_billion, loss_of
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import BatchEncoding

import torchprof
from torchprof import ArgumentError, Estimate, EstimateError, ModuleTypeError
from torchprof.estimation.fake.cache import FakeOpCache

MIB = 2**20
CANNOT = {"wav2vec2"}  # reads values: see test_estimate_values.py


def measured(model: nn.Module, inputs: dict[str, Any], make_optimizer: Any) -> int:
    optimizer = make_optimizer(model.parameters())
    gc.collect()
    gc.disable()  # what is in a reference cycle would be freed at any time
    try:
        return measured_peak(model, inputs, optimizer)
    finally:
        gc.enable()


def measured_peak(model: nn.Module, inputs: dict[str, Any], optimizer: torch.optim.Optimizer) -> int:
    with torchprof.profile(model) as prof:
        for _ in range(2):
            returned = model(**inputs)
            value = loss_of(returned)
            value.backward()
            optimizer.step()
            model.zero_grad()
            del returned, value
            prof.step()
    return torchprof.memory(prof.trace, "cpu").peak.bytes


@pytest.mark.parametrize("make", [make for make in ALL if make.__name__ not in CANNOT], ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore")
def test_the_peak_on_the_cpu_is_that_of_the_real_run(make: Callable[[], Case]) -> None:
    for make_optimizer in (torch.optim.SGD, torch.optim.AdamW):
        model, inputs = make()
        model.train()
        found = torchprof.estimate(model, inputs, optimizer=make_optimizer, loss=loss_of, device="cpu")
        assert found.max_allocated == pytest.approx(measured(model, inputs, make_optimizer), rel=0.001)


def mlp(width: int = 256, depth: int = 4) -> nn.Module:
    return nn.Sequential(*[layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())])


def test_convolutions_take_the_workspace_that_the_cpu_gives_them() -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2))
    found = torchprof.estimate(model, (8, 3, 64, 64), optimizer=torch.optim.SGD, device="cpu")
    real = measured(model, {"input": torch.rand(8, 3, 64, 64)}, torch.optim.SGD)
    assert found.max_allocated == pytest.approx(real, rel=0.001)


def test_a_model_that_only_a_function_could_build_is_never_there() -> None:
    def build() -> nn.Module:
        return nn.Sequential(*[nn.Linear(2**17, 2**17, bias=False) for _ in range(4)])  # 256 GiB

    found = torchprof.estimate(build, (4, 2**17), optimizer=torch.optim.AdamW)
    assert found.by_category["parameters"] == 4 * 2**34 * 4
    assert not found.fits("H100-80GB")


def test_a_training_step_of_seventy_billion_parameters_is_estimated() -> None:
    config = llama_of_seventy_billion()
    tokens = torch.empty(1, 4096, dtype=torch.long, device="meta")
    found = torchprof.estimate(
        lambda: hf.LlamaForCausalLM(config),
        {"input_ids": tokens, "labels": tokens},
        optimizer=torch.optim.AdamW,
        steps=1,
    )
    assert found.by_category["parameters"] == 4 * 70_553_706_496
    assert found.by_category["optimizer state"] == 8 * 70_553_706_496  # the steps are on the host
    # two FLOPs per weight and token forward, four backward, and attention on top
    assert 1.0 < found.flops / (6 * 4096 * (70_553_706_496 - 128256 * 8192)) < 1.1


def test_figures_by_category_add_up_to_what_the_device_needs() -> None:
    found = torchprof.estimate(mlp(), (64, 256), optimizer=torch.optim.Adam, capacity="T4")
    assert sum(found.by_category.values()) == found.device_memory
    assert found.device_memory > found.max_reserved >= found.max_allocated > found.memory.peak.bytes
    text = str(found)
    for expected in ("Needed on cuda", "cuBLAS workspaces", "CUDA context", "allocator: rounding", "Fits in"):
        assert expected in text


def test_an_estimate_is_a_trace_like_any_other() -> None:
    model = mlp()
    found = torchprof.estimate(model, (64, 256), optimizer=torch.optim.SGD, device="cpu")
    rows = {row["path"]: row for row in torchprof.by_module(found.trace).rows if row["type"]}
    assert rows["0"]["flops"] == 2 * 64 * 256 * 256 * 2  # its input needs no gradient
    assert rows["2"]["flops"] == 2 * 64 * 256 * 256 * 3
    assert found.flops == rows[""]["flops"]
    assert found.memory.by_module["0"]["parameters"] == 4 * (256 * 256 + 256)
    assert len(torchprof.by_step(found.trace)) == 2


def test_neither_the_model_nor_random_numbers_nor_inputs_are_touched() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.BatchNorm1d(8))
    x = torch.rand(4, 8, requires_grad=True)
    before = copy.deepcopy(model.state_dict())
    identities = [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    state = torch.get_rng_state()
    torchprof.estimate(model, x, optimizer=torch.optim.AdamW)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert identities == [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    assert all(parameter.grad is None for parameter in (*model.parameters(), x))
    assert torch.equal(torch.get_rng_state(), state)


# What is different on CUDA.


def saved(found: Estimate) -> int:
    return sum(found.memory.saved_by_module.values())


def test_dropout_keeps_a_byte_per_element_on_cuda_and_a_float_on_the_cpu() -> None:
    model = nn.Sequential(nn.Linear(256, 256), nn.Dropout(0.1))
    on_cuda, on_cpu = (torchprof.estimate(model, (512, 256), device=device) for device in ("cuda", "cpu"))
    assert on_cuda.memory.saved_by_module["1"] == 512 * 256
    assert on_cpu.memory.saved_by_module["1"] == 512 * 256 * 4


class Attention(nn.Module):
    def __init__(self, dtype: torch.dtype, mask: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=dtype))
        self.register_buffer("mask", torch.zeros(1024, 1024, dtype=dtype) if mask else None)

    def forward(self, q: Tensor) -> Tensor:
        q = q * self.scale
        return nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=self.mask)


@pytest.mark.parametrize(
    ("dtype", "mask", "kernel"),
    [
        (torch.bfloat16, False, "aten::_scaled_dot_product_flash_attention"),
        (torch.float32, False, "aten::_scaled_dot_product_efficient_attention"),
        (torch.bfloat16, True, "aten::_scaled_dot_product_efficient_attention"),
        (torch.float64, False, "aten::_scaled_dot_product_attention_math"),
    ],
)
def test_attention_chooses_its_kernel_as_on_cuda(dtype: torch.dtype, mask: bool, kernel: str) -> None:
    found = torchprof.estimate(Attention(dtype, mask), torch.empty(2, 8, 1024, 64, dtype=dtype, device="meta"))
    assert kernel in found.trace.strings
    scores = 2 * 8 * 1024 * 1024 * dtype.itemsize
    assert (saved(found) > scores) == kernel.endswith("math")


def test_optimizers_update_everything_at_once_on_cuda_and_need_room_for_it() -> None:
    model = mlp(width=512, depth=8)
    one = 4 * 512 * 512
    on_cuda, on_cpu = (
        torchprof.estimate(model, (1, 512), optimizer=torch.optim.AdamW, device=device) for device in ("cuda", "cpu")
    )
    assert on_cuda.memory.peak.bytes - on_cpu.memory.peak.bytes > 5 * one
    told = torchprof.estimate(model, (1, 512), optimizer=lambda p: torch.optim.AdamW(p, foreach=False), device="cuda")
    assert told.memory.peak.bytes < on_cuda.memory.peak.bytes


def test_settings_of_the_allocator_change_what_is_reserved_and_nothing_else() -> None:
    default = torchprof.estimate(mlp(1024), (300, 1024), optimizer=torch.optim.AdamW)
    expandable = torchprof.estimate(mlp(1024), (300, 1024), optimizer=torch.optim.AdamW, allocator="expandable_segments:True")
    assert default.memory.peak.bytes == expandable.memory.peak.bytes
    assert expandable.max_reserved <= default.max_reserved


def test_hopper_has_larger_workspaces_for_matrix_products() -> None:
    def workspaces(gpu: str) -> int:
        return torchprof.estimate(mlp(), (8, 256), capacity=gpu).by_category["cuBLAS workspaces"]

    assert workspaces("H100-80GB") == 2 * 32 * MIB
    assert workspaces("A100-80GB") == 2 * int(8.125 * MIB)


# What fits.


def test_what_fits_is_what_the_allocator_can_place() -> None:
    found = torchprof.estimate(mlp(1024), (64, 1024), optimizer=torch.optim.AdamW)
    assert found.fits(found.device_memory)
    assert not found.fits(found.device_memory // 2)
    assert not found.fits(1)
    assert found.fits("H200")
    with pytest.raises(ArgumentError, match=r"capacity is needed.*H200"):
        found.fits()


def test_what_fits_only_just_is_said() -> None:
    model = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 3000))
    roomy = torchprof.estimate(model, (8192, 64), optimizer=torch.optim.AdamW, capacity=2**31)
    assert roomy.verdict() == "Fits in 2,048.0 MiB"
    assert roomy.alloc_retries == 0
    tight = torchprof.estimate(model, (8192, 64), optimizer=torch.optim.AdamW, capacity=roomy.device_memory - MIB)
    verdict = tight.verdict()
    assert tight.fits()
    assert verdict is not None
    assert "would be taken, and the allocator has to give back what it keeps in reserve" in verdict
    assert tight.alloc_retries
    assert f"in reserve {tight.alloc_retries} time" in verdict
    small = torchprof.estimate(model, (8192, 64), optimizer=torch.optim.AdamW, capacity=roomy.device_memory // 2)
    assert small.alloc_retries is None


def test_a_peak_in_the_root_module_is_not_said_to_be_in_none() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.layer(x)] * 50, 1).exp().sum()

    said = str(torchprof.estimate(Net(), (4096, 64), optimizer=torch.optim.SGD, device="cpu"))
    assert "backward, aten::mul in Net)" in said


def test_the_largest_batch_is_the_last_that_fits() -> None:
    model, capacity = mlp(512), 700 * MIB
    seen: dict[int, bool] = {}
    largest = torchprof.max_batch_size(
        model,
        lambda batch: (batch, 512),
        capacity,
        at_most=100_000,
        optimizer=torch.optim.SGD,
        progress=lambda batch, found, fits: seen.update({batch: fits}),
    )
    assert seen[largest]
    assert not seen[largest + 1]
    assert torchprof.max_batch_size(model, lambda batch: (batch, 512), capacity, at_most=3) == 3
    assert torchprof.max_batch_size(model, lambda batch: (batch, 512), 1) == 0


class Checkpointed(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = checkpoint(self.body, x, use_reentrant=False)
        return result


def test_variants_are_compared_in_one_table() -> None:
    x = torch.empty(4096, 256, requires_grad=True, device="meta")
    table = torchprof.compare(
        {
            "plain": torchprof.estimate(mlp(), x),
            "checkpointed": torchprof.estimate(nn.Sequential(*[Checkpointed(block) for block in (mlp(), mlp())]), x),
            "AdamW": torchprof.estimate(mlp(), x, optimizer=torch.optim.AdamW),
            "amp": torchprof.estimate(mlp(), x, amp=torch.bfloat16),
        }
    )
    rows = {row["name"]: row for row in table.rows}
    assert rows["checkpointed"]["peak_activations"] < 2 * rows["plain"]["peak_activations"]
    assert rows["checkpointed"]["flops"] > 2 * rows["plain"]["flops"]
    assert rows["AdamW"]["peak_optimizer_state"] > 2 * rows["AdamW"]["peak_parameters"] - 1
    assert rows["amp"]["peak_activations"] < rows["plain"]["peak_activations"]
    assert "checkpointed" in str(table)


def test_a_step_of_your_own_is_run_as_it_is() -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
        for _ in range(2):  # accumulates
            nn.functional.mse_loss(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    sizes = [(32, 256), (32, 256)]
    found = torchprof.estimate(mlp(), sizes, optimizer=torch.optim.SGD, step=step)
    assert found.flops == 2 * 2 * 32 * 256 * 256 * (3 * 4 - 1)
    inferred = torchprof.estimate(mlp(), (32, 256), step=lambda model, optimizer, x: model.eval()(x.detach()))
    assert inferred.memory.by_category["gradients"] == 0


# What cannot be estimated.


class Peeks(nn.Module):
    def __init__(self, how: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        self.how(y)
        return y


@pytest.mark.parametrize(
    ("how", "op"),
    [
        (lambda y: y.sum().item(), "aten::item"),
        (lambda y: 1 if y.max() > 0 else 2, "aten::item"),
        (lambda y: y.nonzero(), "nonzero"),
        (lambda y: torch.unique(y), "aten::_unique2"),
    ],
)
def test_a_model_that_reads_values_gets_an_error_with_the_place_and_the_way_out(how: Callable[[Tensor], Any], op: str) -> None:
    with pytest.raises(EstimateError) as caught:
        torchprof.estimate(nn.Sequential(nn.ReLU(), Peeks(how)), (2, 4))
    message = str(caught.value)
    assert op in message
    assert "module '1' (Peeks)" in message
    assert "step=" in message


def test_a_custom_op_without_a_fake_kernel_is_named() -> None:
    @torch.library.custom_op("torchprof_tests::opaque", mutates_args=())
    def opaque(x: Tensor) -> Tensor:
        return x.clone()

    with pytest.raises(EstimateError, match=r"torchprof_tests.*opaque.*register_fake"):
        torchprof.estimate(Peeks(lambda y: opaque(y)), (2, 4))


def test_an_error_of_the_model_comes_out_with_a_note() -> None:
    with pytest.raises(RuntimeError) as caught:
        torchprof.estimate(nn.Sequential(nn.Linear(4, 4)), (2, 5))
    assert "raised in module '0' (Linear), on fake tensors" in caught.value.__notes__[-1]


class Unique:
    def __deepcopy__(self, memo: object) -> Unique:
        raise TypeError("there is only one")


@pytest.mark.parametrize(
    ("model", "arguments", "error", "says"),
    [
        (Peeks(Unique()), {"inputs": (2, 4)}, ArgumentError, ["cannot be copied", "only one", "a function that builds it"]),  # type: ignore[arg-type]
        (mlp(), {"inputs": None}, ArgumentError, ["inputs are needed"]),
        (mlp(), {"inputs": (1, 256), "device": "tpu"}, ArgumentError, ["device='tpu'", "'cuda' or 'cpu'"]),
        (mlp(), {"inputs": (1, 256), "steps": 0}, ArgumentError, ["steps", "0"]),
        (mlp(), {"inputs": (1, 256), "amp": "bf16"}, ArgumentError, ["amp", "'bf16'"]),
        (mlp(), {"inputs": (1, 256), "capacity": "H9000"}, ArgumentError, ["capacity='H9000'", "H200"]),
        (mlp(), {"inputs": (1, 256), "capacity": -1}, ArgumentError, ["capacity", "-1"]),
        (mlp(), {"inputs": (1, 256), "allocator": "speed:fast"}, ArgumentError, ["'speed'"]),
        (nn.LazyLinear(4), {"inputs": (1, 256)}, ArgumentError, ["lazy"]),
        (3, {"inputs": (1, 256)}, ModuleTypeError, ["model", "int"]),
        (lambda: 3, {"inputs": (1, 256)}, ModuleTypeError, ["model()", "int"]),
        (mlp().requires_grad_(False), {"inputs": (1, 256)}, ArgumentError, ["loss=", "step="]),
    ],
)
def test_bad_arguments_are_named(model: Any, arguments: dict[str, Any], error: type[Exception], says: list[str]) -> None:
    with pytest.raises(error) as caught:
        torchprof.estimate(model, **arguments)
    assert all(text in str(caught.value) for text in says)


def test_known_gpus_have_less_than_their_name_says() -> None:
    assert all(0 < count < 200 * 2**30 for count in torchprof.GPUS.values())
    assert math.floor(torchprof.GPUS["A100-80GB"] / 2**30) == 79


# Found by review.


def test_an_estimate_knows_nothing_of_those_before_it() -> None:
    class Cycle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(256, 256)
            self.me = [self]  # only the garbage collector can free it

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.inner(self.inner(x))
            return y

    found = {torchprof.estimate(Cycle(), (64, 256), device="cpu").max_allocated for _ in range(20)}
    assert len(found) == 1


def test_other_threads_compute_as_ever_meanwhile() -> None:
    q = torch.rand(1, 2, 8, 16)
    expected = nn.functional.scaled_dot_product_attention(q, q, q)
    done, wrong = threading.Event(), []

    def attend() -> None:
        while not done.is_set():
            if not torch.equal(nn.functional.scaled_dot_product_attention(q, q, q), expected):
                wrong.append(1)

    thread = threading.Thread(target=attend)
    thread.start()
    try:
        for _ in range(3):
            torchprof.estimate(mlp(), (8, 256))
    finally:
        done.set()
        thread.join()
    assert wrong == []


def test_a_tensor_passed_twice_and_storage_that_is_shared_are_counted_once() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1024))
            self.register_buffer("same", self.weight.detach())

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a * self.weight + b * self.same

    x = torch.ones(4, 1024)
    by_category = torchprof.estimate(Two(), {"a": x, "b": x}, device="cpu").by_category
    assert (by_category["inputs"], by_category["parameters"]) == (4 * 4096, 4096)
    assert "buffers" not in by_category


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_keep_what_the_cpu_makes_them_keep(kind: Any) -> None:
    model = kind(64, 128, batch_first=True)
    found = torchprof.estimate(model, (8, 40, 64), optimizer=torch.optim.SGD, device="cpu", loss=loss_of)
    assert found.max_allocated == pytest.approx(measured(model, {"input": torch.rand(8, 40, 64)}, torch.optim.SGD), rel=0.01)


@pytest.mark.parametrize(
    "pick",
    [
        lambda y, i: y.gather(1, i),
        lambda y, i: y[:, i[0]],
        lambda y, i: y.max(1).values,
        lambda y, i: y.index_select(1, i[0]),
    ],
)
def test_gradients_of_what_was_picked_are_made_in_place(pick: Callable[[Tensor, Tensor], Tensor]) -> None:
    class Picks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(64, 512)
            self.register_buffer("index", torch.zeros(256, 256, dtype=torch.long))

        def forward(self, x: Tensor) -> Tensor:
            return pick(self.inner(x), self.index)

    found = torchprof.estimate(Picks(), (256, 64), optimizer=torch.optim.SGD, device="cpu", loss=loss_of)
    assert found.max_allocated == pytest.approx(measured(Picks(), {"x": torch.rand(256, 64)}, torch.optim.SGD), rel=0.002)


def test_autocast_keeps_norms_and_softmax_in_float32_on_cuda() -> None:
    model = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64), nn.Softmax(dim=-1))
    trace = torchprof.estimate(model, (32, 64), amp=torch.bfloat16).trace
    dtypes = {
        row["name"]: row["dtypes"][0] for row in torchprof.by_op(trace, shapes=True, phase="forward").rows if row["dtypes"]
    }
    assert (dtypes["aten::native_layer_norm"], dtypes["aten::addmm"]) == ("float32", "bfloat16")
    assert dtypes["aten::_softmax"] == "float32"


@pytest.mark.filterwarnings("ignore")
def test_grouped_heads_of_a_decoder_go_through_flash_attention() -> None:
    config = hf.LlamaConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=8, num_key_value_heads=2, vocab_size=50
    )
    tokens = torch.zeros(1, 128, dtype=torch.long)
    trace = torchprof.estimate(lambda: hf.LlamaForCausalLM(config).bfloat16(), {"input_ids": tokens, "labels": tokens}).trace
    assert "aten::_scaled_dot_product_flash_attention" in trace.strings
    assert "aten::_scaled_dot_product_efficient_attention" not in trace.strings


def test_the_search_for_a_batch_can_begin_where_a_norm_can_be_computed() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64))
    assert torchprof.max_batch_size(model, lambda batch: (batch, 64), 2**30, at_least=2, at_most=16) == 16


def test_the_search_begins_with_two_where_a_norm_refuses_one() -> None:
    model, tried = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64)), []

    def search(capacity: int, **options: Any) -> int:
        return torchprof.max_batch_size(
            model, lambda batch: (batch, 64), capacity, progress=lambda batch, found, fits: tried.append(batch), **options
        )

    assert search(2**30, at_most=16) == 16
    assert tried[0] == 2
    assert search(1) == 0
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        search(2**30, at_most=1)
    assert torchprof.max_batch_size(model.eval(), lambda batch: (batch, 64), 2**30, at_most=1) == 1


def test_what_else_a_batch_of_one_raises_ends_the_search() -> None:
    class Raises(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) == 1:
                raise ValueError("no batch")
            return x

    with pytest.raises(ValueError, match="no batch"):
        torchprof.max_batch_size(Raises(), lambda batch: (batch, 64), 2**30)


def test_a_compiled_model_is_estimated_as_what_it_compiles() -> None:
    plain = torchprof.estimate(mlp(), (8, 256), device="cpu")
    assert (
        torchprof.estimate(torch.compile(mlp(), backend="eager"), (8, 256), device="cpu").max_allocated == plain.max_allocated
    )


def without_last_gradient(by_category: dict[str, int]) -> dict[str, int]:
    """Gradients and temporaries as one: a gradient that autograd passes on right at the peak is either."""
    both = by_category.pop("gradients", 0) + by_category.pop("temporaries", 0)
    return {**by_category, "gradients and temporaries": both}


@pytest.mark.parametrize("make", [make for make in ALL if make.__name__ in ("gpt2", "mamba", "resnet", "swin")])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.filterwarnings("ignore")
def test_results_from_the_cache_are_those_of_fake_kernels(
    make: Callable[[], Case], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> tuple[list[str], list[int], dict[str, int]]:
        model, inputs = make()
        options: dict[str, Any] = {"optimizer": torch.optim.AdamW, "loss": loss_of, "device": device, "steps": 3}
        made = torchprof.estimate(model.train(), inputs, **options)
        names = [made.trace.strings[name] for name in made.trace.op_names.tolist()]
        return names, made.memory.allocations["bytes"].tolist(), made.by_category

    cached = found()
    monkeypatch.setattr(FakeOpCache, "key", lambda *_: None)
    names, sizes, by_category = found()
    without_detach = [name for name in names if name not in ("aten::detach", "PythonDispatchMode")]
    assert without_detach == [name for name in cached[0] if name not in ("aten::detach", "PythonDispatchMode")]
    assert sizes == cached[1]
    assert without_last_gradient(by_category) == without_last_gradient(cached[2])


class TakesABatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, batch: Any) -> Tensor:
        found: Tensor = self.linear(batch["x"] if isinstance(batch, dict) else batch.x)
        return found


@pytest.mark.parametrize(
    "inputs",
    [
        ({"x": torch.ones(8, 3)},),
        SimpleNamespace(x=torch.ones(8, 3)),
        BatchEncoding({"batch": {"x": torch.ones(8, 3)}}),
    ],
    ids="dict namespace encoding".split(),
)
def test_inputs_in_any_container_are_estimated_as_tensors_are(inputs: Any) -> None:
    found = torchprof.estimate(TakesABatch(), inputs, device="cpu")
    assert found.max_allocated == torchprof.estimate(nn.Linear(3, 4), torch.ones(8, 3), device="cpu").max_allocated


def test_whole_numbers_of_numpy_are_sizes_of_inputs() -> None:
    model = nn.Linear(3, 4)
    sizes = [((np.int64(8), 3), None), ((3,), np.int64(8)), ((8, 3), None)]
    found = {torchprof.estimate(model, size, batch_size=batch, device="cpu").max_allocated for size, batch in sizes}
    assert len(found) == 1


def test_nested_inputs_are_named() -> None:
    nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)])
    with pytest.raises(ArgumentError, match="nested Tensor of dtype"):
        torchprof.estimate(nn.Linear(3, 4), nested, device="cpu")
