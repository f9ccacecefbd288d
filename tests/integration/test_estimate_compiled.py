"""Estimates of compiled steps: what Inductor would materialize, save, recompute and reuse, against what it does."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from types import CodeType
from typing import Any

import pytest
import torch
from architectures import Case, gpt2, loss_of, resnet
from networks import Of
from test_estimate import measured_peak, mlp
from torch import Tensor, nn
from torch._dynamo.callback import callback_handler
from torch._dynamo.convert_frame import _bytecode_hooks, register_bytecode_hook
from torch._dynamo.eval_frame import _debug_get_cache_entry_list, cached_backends
from torch._dynamo.pgo import get_code_state
from torch._dynamo.testing import CompileCounter
from torch._inductor import scheduler
from torch._inductor.runtime.hints import DeviceProperties
from torch.utils.checkpoint import checkpoint

import torchprof
from torchprof import ArgumentError, Estimate
from torchprof.estimation.fake.inductor_for_cuda import FOR_THE_CPU


@pytest.fixture(autouse=True)
def forgetful() -> None:
    """Shapes that Dynamo has met before make it compile for any: what is compared here is compiled for its own."""
    torch._dynamo.reset()


class Fuses(nn.Module):
    """Everything between the two layers is one kernel, whose steps are never materialized."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.first(x)
        for _ in range(8):
            y = (y * 2).sin().exp() + 1
        result: Tensor = self.second(y)
        return result


class Breaks(nn.Module):
    """Two graphs, with Python in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Fuses(), Fuses()

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        torch._dynamo.graph_break()
        result: Tensor = self.second(y)
        return result


def networks() -> list[Callable[[], Case]]:
    def fuses() -> Case:
        return Fuses(), {"x": torch.rand(512, 64)}

    def breaks() -> Case:
        return Breaks(), {"x": torch.rand(512, 64)}

    def drops() -> Case:
        layers = [nn.Linear(64, 64), nn.Dropout(0.1), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 64)]
        return nn.Sequential(*layers), {"input": torch.rand(512, 64)}

    def convolves() -> Case:
        layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 49, 10)]
        return nn.Sequential(*layers), {"input": torch.rand(16, 3, 16, 16)}

    return [fuses, breaks, drops, convolves, gpt2, resnet]


def compiled_and_measured(model: nn.Module, inputs: dict[str, Any], make_optimizer: Any) -> int:
    compiled: Any = torch.compile(model)
    loss_of(compiled(**inputs)).backward()
    model.zero_grad()
    gc.collect()
    gc.disable()
    try:
        return measured_peak(compiled, inputs, make_optimizer(model.parameters()))
    finally:
        gc.enable()


@pytest.mark.parametrize("make", networks(), ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore")
def test_the_peak_of_a_compiled_step_is_that_of_the_real_one(make: Callable[[], Case]) -> None:
    model, inputs = make()
    found = torchprof.estimate(
        model.train(), inputs, optimizer=torch.optim.AdamW, loss=loss_of, device="cpu", compile=True
    ).max_allocated
    assert found == pytest.approx(compiled_and_measured(model, inputs, torch.optim.AdamW), rel=0.001)


def saved(found: Estimate) -> int:
    return sum(found.memory.saved_by_module.values())


def test_what_one_kernel_computes_on_its_way_is_never_there() -> None:
    x = torch.rand(512, 64)
    plain, compiled = (torchprof.estimate(Fuses(), x, device="cuda", compile=choice) for choice in (False, True))
    one = 512 * 64 * 4
    assert saved(plain) >= 16 * one
    assert saved(compiled) <= 4 * one
    assert plain.flops == compiled.flops
    assert not compiled.notes


class Sums(nn.Module):
    """A reduction that is too long for a block: on CUDA it is made in parts, which are put together by a second kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(1024, 1024)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(self.inner(x)).sum(0)


def forward_of(model: nn.Module, optimizer: Any, x: Tensor) -> None:
    with torch.no_grad():
        model(x)


def test_for_cuda_inductor_writes_what_it_would_on_the_gpu() -> None:
    x = torch.empty(4096, 1024, device="meta")
    on_cuda, on_cpu = (
        torchprof.estimate(Sums(), x, step=forward_of, steps=1, compile=True, device=device)
        .memory.allocations["bytes"]
        .tolist()
        for device in ("cuda", "cpu")
    )
    result, of_parts = 4 * 1024, 4 * 1024 * 32  # of 128 rows each
    assert on_cuda[-3:] == [x.nbytes, of_parts, result]
    assert of_parts not in on_cpu


def test_how_a_reduction_is_split_follows_the_multiprocessors() -> None:
    x = torch.empty(2**22, device="meta")
    sizes = []
    for gpu in ("T4", "H100-80GB"):
        torch._dynamo.reset()
        found = torchprof.estimate(Of(lambda x: (x * 2).sum()), x, step=forward_of, steps=1, compile=True, capacity=gpu)
        sizes.append(found.memory.allocations["bytes"].tolist()[1:])
    assert sizes[0] != sizes[1]


def test_dropout_embeddings_and_convolutions_are_written_for_cuda_too() -> None:
    for make in (gpt2, resnet):
        model, inputs = make()
        torch._dynamo.reset()
        found = torchprof.estimate(model.train(), inputs, optimizer=torch.optim.AdamW, loss=loss_of, compile=True)
        assert FOR_THE_CPU not in found.trace.strings


def test_where_it_cannot_write_for_cuda_that_for_the_cpu_is_taken_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.empty(4096, 1024, device="meta")
    on_cpu = torchprof.estimate(Sums(), x, step=forward_of, steps=1, compile=True, device="cpu")
    torch._dynamo.reset()
    monkeypatch.delattr("torch.utils._triton.triton_hash_with_backend")
    found = torchprof.estimate(Sums(), x, step=forward_of, steps=1, compile=True)
    assert found.memory.allocations["bytes"].tolist() == on_cpu.memory.allocations["bytes"].tolist()
    assert any("materializes on the CPU" in note for note in found.notes)


def test_what_inductor_asks_of_a_gpu_is_answered_to_it_alone() -> None:
    asked: list[Any] = []

    def names() -> list[Any]:
        of_cuda = torch.cuda.get_device_properties, torch.cuda.get_device_capability, torch.cuda.current_device
        return [vars(DeviceProperties)["create"], scheduler.has_triton, *of_cuda]

    class Asks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sin()

    before = names()
    handle = register_bytecode_hook(lambda code, _: asked.append(names()))
    try:
        torchprof.estimate(Asks(), torch.empty(64, device="meta"), step=forward_of, steps=1, compile=True)
    finally:
        handle.remove()
    assert [each[:2] for each in asked] == [before[:2]]  # those of torch.cuda answer the program meanwhile
    assert names() == before


def test_on_cuda_a_compiled_dropout_and_attention_choose_as_on_cuda() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = nn.functional.dropout(self.inner(x), 0.1)
            return nn.functional.scaled_dot_product_attention(y, y, y)

    found = torchprof.estimate(Attends().bfloat16(), torch.rand(2, 4, 256, 64).bfloat16(), compile=True)
    assert "aten::_scaled_dot_product_flash_attention" in found.trace.strings


class Repeats(nn.Module):
    """Attention that is computed again in backward, and would draw the same random numbers for dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)

    def attend(self, x: Tensor) -> Tensor:
        q = self.linear(x)
        return nn.functional.scaled_dot_product_attention(q, q, q)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = checkpoint(self.attend, x, use_reentrant=False)
        return result


@pytest.mark.parametrize("gpu", ["T4", "A100-80GB"])
def test_compiled_attention_that_is_computed_again_draws_as_in_forward_and_is_counted_twice(gpu: str) -> None:
    x = torch.empty(2, 4, 128, 64, requires_grad=True)
    found = torchprof.estimate(Repeats(), [x], capacity=gpu, compile=True, steps=1)
    names = [found.trace.strings[name] for name in found.trace.op_names.tolist()]
    attention = [name for name in names if name.startswith("aten::_scaled_dot_product_")]
    forward = [name for name in attention if not name.endswith("_backward")]
    assert (len(forward), len(attention)) == (2, 3), attention


def hooks() -> tuple[int, ...]:
    return len(callback_handler.start_callbacks), len(callback_handler.end_callbacks), len(_bytecode_hooks)


def test_the_compiler_is_left_as_it_was() -> None:
    codes: list[CodeType] = []
    handle = register_bytecode_hook(lambda code, _: codes.append(code))
    model, x = mlp(64, 2), torch.rand(8, 64)
    counter = CompileCounter()
    mine = torch.compile(model, backend=counter)
    expected = mine(x)

    def kept() -> list[int]:
        return [id(entry) for code in codes for entry in _debug_get_cache_entry_list(code) if entry.code is not None]

    before = hooks(), dict(cached_backends), copy.deepcopy(get_code_state()), kept()
    for thing in (model, Fuses()):
        torchprof.estimate(thing, (16, 64), compile=True, device="cpu")
    assert before[:3] == (hooks(), cached_backends, get_code_state())
    assert len(codes) > 2
    assert len(set(kept())) == len(before[3]) == 1
    assert torch.equal(mine(x), expected)
    assert counter.frame_count == 1
    handle.remove()


def test_the_compiler_is_left_as_it_was_by_a_program_that_fails() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x.sin()
            torch._dynamo.graph_break()
            raise ValueError("no")

    before = hooks()
    with pytest.raises(ValueError, match="no"):
        torchprof.estimate(Fails(), (8, 64), compile=True, device="cpu")
    assert before == hooks()
    assert torch.empty(4, device="meta").shape == (4,)


def test_compile_is_yes_or_no() -> None:
    with pytest.raises(ArgumentError, match="'inductor'"):
        torchprof.estimate(mlp(), (1, 256), compile="inductor")  # type: ignore[arg-type]
