"""Compiled programs that name CUDA and ask for the GPU, in estimates: as those that are not compiled, and without a warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import Of
from torch import Tensor, nn

import torchprof
from torchprof import EstimateError
from torchprof.estimation.fake.inductor_for_cuda import FOR_THE_CPU

CUDA = torch.device("cuda", 0)
LENGTH = 1024


@pytest.fixture(autouse=True)
def forgetful() -> None:
    torch._dynamo.reset()


def under_a_device(x: Tensor) -> Tensor:
    with torch.device("cuda"):
        made = torch.ones(LENGTH)
    return x + made


def on_a_stream(x: Tensor) -> Tensor:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        y = x.sin()
    return y


def named() -> dict[str, Callable[[Tensor], Tensor]]:
    return {
        "to": lambda x: x.to("cuda").sin(),
        "to device": lambda x: x.to(device=torch.device("cuda", 0)).sin(),
        "to index": lambda x: x.to(0, non_blocking=True).sin(),
        "cuda": lambda x: x.cuda().sin(),
        "factories": lambda x: x + torch.ones(LENGTH, device="cuda") + torch.arange(LENGTH, device=CUDA),
        "new": lambda x: x + x.new_ones(LENGTH, device="cuda") + torch.zeros_like(x, device="cuda"),
        "random": lambda x: x + torch.randn(LENGTH, device="cuda"),
        "frequencies": lambda x: x + torch.fft.fftfreq(LENGTH, device="cuda"),
        "a block": under_a_device,
        "comparison": lambda x: x.to(torch.device("cuda")).sin() if x.device == x.sin().device else x,
        "available": lambda x: x.sin() if torch.cuda.is_available() else torch.cat([x, x]).sin(),
        "capability": lambda x: x.sin() if torch.cuda.get_device_capability() >= (8, 0) else torch.cat([x, x]).sin(),
        "properties": lambda x: x * torch.cuda.get_device_properties(0).multi_processor_count,
        "seed": lambda x: (torch.cuda.manual_seed(1), x.sin())[1],
        "synchronize": lambda x: (x.sin(), torch.cuda.synchronize())[0],
        "a stream": on_a_stream,
    }


def forward_of(model: nn.Module, optimizer: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(x)
        return result


@pytest.mark.parametrize("name", named())
def test_a_compiled_program_that_names_cuda_makes_one_fused_result(name: str) -> None:
    x = torch.empty(64, LENGTH, device="meta")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = torchprof.estimate(
            Of(named()[name]), x, step=forward_of, steps=1, compile=True, capacity="A100-80GB", allow_real=False
        )
    assert not [warning for warning in caught if "CUDA" in str(warning.message)]
    assert FOR_THE_CPU not in found.trace.strings
    sizes = [size for size in found.memory.allocations["bytes"].tolist() if size >= x.nbytes]
    assert sizes == [x.nbytes, x.nbytes]  # the input and the result


@pytest.mark.parametrize("named", ["in forward", "in the step"])
def test_autocast_for_cuda_is_that_of_amp_in_compiled_code(named: str) -> None:
    class Casts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=named == "in forward"):
                return self.linear(x).float()

    def step(model: nn.Module, optimizer: Any, x: Tensor) -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(x).sum()
        loss.backward()
        model.zero_grad()

    class Plain(Casts):
        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x).float()

    x = torch.empty(256, 64, device="meta")
    own = torchprof.estimate(Casts() if named == "in forward" else Plain(), x, compile=True, steps=1, step=step)
    torch._dynamo.reset()
    by_amp = torchprof.estimate(Plain(), x, compile=True, steps=1, amp=torch.bfloat16)
    halves = [found.memory.allocations["bytes"].tolist().count(64 * 64 * 2) for found in (own, by_amp)]
    assert halves[0] == halves[1] > 0  # the weight, cast


def test_streams_in_compiled_code_are_noted() -> None:
    x = torch.empty(64, LENGTH, device="meta")
    found = torchprof.estimate(Of(on_a_stream), x, step=forward_of, steps=1, compile=True)
    assert any("torch.cuda.stream" in note for note in found.notes)


def test_what_only_a_gpu_can_tell_is_an_error_that_names_it_in_compiled_code_too() -> None:
    asks = Of(lambda x: x * torch.cuda.memory_allocated())
    with pytest.raises(EstimateError, match=r"torch\.cuda\.memory_allocated"):
        torchprof.estimate(asks, torch.empty(4, 4), step=forward_of, steps=1, compile=True)


@pytest.mark.parametrize("listed", ["before", "meanwhile"])
def test_afterwards_dynamo_knows_pytorch_s_own_functions(listed: str) -> None:
    if listed == "meanwhile":
        torch._dynamo.trace_rules.clear_lru_cache()  # as making a process group does
    torchprof.estimate(Of(named()["factories"]), (64, LENGTH), step=forward_of, steps=1, compile=True)
    torch._dynamo.reset()
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    compiled = torch.compile(lambda x: x + torch.ones(4), backend=backend, fullgraph=True)
    assert compiled(torch.ones(4)).tolist() == [2.0] * 4
    assert torch.ones in [node.target for node in graphs[0].graph.nodes]


class Recurs(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.layers, self.last = kind(64, 128, 2, batch_first=True), nn.Linear(128, 8)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.layers(x)[0]).sin()
        return result


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_which_dynamo_does_not_compile_are_cudnn_s(kind: Any) -> None:
    x = torch.empty(8, 50, 64, device="meta")
    plain, compiled = (torchprof.estimate(Recurs(kind), x, compile=choice, steps=1) for choice in (False, True))
    assert compiled.max_allocated == plain.max_allocated
    assert compiled.notes == plain.notes
    assert any("cuDNN" in note for note in compiled.notes)


@pytest.mark.parametrize(("gpu", "fuses"), [("T4", False), ("V100-16GB", False), ("A100-80GB", True)])
@pytest.mark.parametrize("amp", [None, torch.bfloat16])
def test_bfloat16_is_compiled_from_ampere_on(gpu: str, fuses: bool, amp: torch.dtype | None) -> None:
    dtype = torch.bfloat16 if amp is None else torch.float32
    x = torch.empty(512, 64, device="meta", dtype=dtype)
    model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Tanh(), nn.Linear(64, 64)).to(dtype)
    plain, compiled = (torchprof.estimate(model, x, compile=choice, steps=1, amp=amp, capacity=gpu) for choice in (False, True))
    assert (compiled.max_allocated < plain.max_allocated) is fuses
    assert (compiled.max_allocated == plain.max_allocated) is not fuses
    assert any("Inductor compiles no bfloat16" in note for note in compiled.notes) is not fuses
