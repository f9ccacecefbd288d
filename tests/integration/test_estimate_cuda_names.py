"""Programs that name CUDA: as a device, and as torch.cuda, in an estimate for CUDA, where there is no GPU."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchprof
from torchprof import Estimate, EstimateError
from torchprof.estimation.gpu_here import Gpu


class Net(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.register_buffer("table", torch.ones(8, 8))
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.layer(x))


def untrained(model: nn.Module, optimizer: object, x: Tensor) -> None:
    with torch.no_grad():
        model(x)


def of(function: Callable[[Tensor], Any], **options: Any) -> Estimate:
    return torchprof.estimate(Net(function), (4, 8), steps=1, **{"step": untrained, **options})


def answers(function: Callable[[], Any], **options: Any) -> Any:
    """What a function returns inside an estimate."""
    found: list[Any] = []
    of(lambda x: found.append(function()), **options)
    return found[0]


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "to('cuda')": lambda x: x.to("cuda"),
    "to('cuda:0')": lambda x: x.to("cuda:0"),
    "to(0)": lambda x: x.to(0),
    "to(device)": lambda x: x.to(torch.device("cuda"), non_blocking=True),
    "to(device=)": lambda x: x.to(device="cuda"),
    "cuda()": lambda x: x.cuda(),
    "cuda(0)": lambda x: x.cuda(0, non_blocking=True),
    "pin_memory().cuda()": lambda x: x.pin_memory().cuda(),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_tensor_that_is_moved_to_cuda_is_there_already(name: str) -> None:
    assert of(MOVES[name]).memory.peak.bytes == of(lambda x: x).memory.peak.bytes


def test_a_tensor_that_is_moved_and_cast_takes_what_the_cast_takes() -> None:
    both, cast = of(lambda x: x.to("cuda", torch.float64)), of(lambda x: x.to(torch.float64))
    assert both.memory.peak.bytes == cast.memory.peak.bytes == of(lambda x: x).memory.peak.bytes + 4 * 8 * 8


def on_cuda_by_block(x: Tensor) -> Tensor:
    with torch.device("cuda"):
        return torch.zeros(64)


MADE: dict[str, Callable[[Tensor], Any]] = {
    "zeros": lambda x: torch.zeros(64, device="cuda"),
    "tensor": lambda x: torch.tensor([1.0] * 64, device="cuda:0"),
    "arange": lambda x: torch.arange(64, device=0, dtype=torch.float32),
    "full": lambda x: torch.full((64,), 2.0, device=torch.device("cuda", 0)),
    "rand": lambda x: torch.rand(64, device="cuda"),
    "new_zeros": lambda x: x.new_zeros(64, device="cuda"),
    "a block": on_cuda_by_block,
}


@pytest.mark.parametrize("name", MADE)
def test_a_tensor_that_is_made_on_cuda_counts(name: str) -> None:
    plain = of(lambda x: torch.zeros(64)).memory.peak.bytes
    assert of(MADE[name]).memory.peak.bytes == plain


def test_a_tensor_like_another_is_made_on_cuda() -> None:
    found = of(lambda x: torch.zeros_like(x, device="cuda"))
    assert found.memory.peak.bytes == of(lambda x: torch.zeros_like(x)).memory.peak.bytes


def test_modules_are_made_on_cuda_and_moved_there() -> None:
    def step(model: nn.Module, optimizer: object, x: Tensor) -> None:
        assert model.to("cuda").cuda().to(device="cuda:0", non_blocking=True) is model
        nn.Linear(16, 16, device="cuda")

    plain = torchprof.estimate(Net(lambda x: x), (4, 8), step=lambda *args: nn.Linear(16, 16), steps=1)
    assert of(lambda x: x, step=step).memory.peak.bytes == plain.memory.peak.bytes


def test_a_default_device_holds_for_the_estimate_and_stays() -> None:
    try:
        torch.set_default_device("cuda")
        found = torchprof.estimate(lambda: Net(lambda x: torch.zeros(64)), (4, 8), step=untrained, steps=1)
        assert torch.device("cuda") == torch.utils._device.CURRENT_DEVICE
    finally:
        torch.set_default_device(None)
    assert found.memory.peak.bytes == of(lambda x: torch.zeros(64)).memory.peak.bytes


def test_the_gpu_is_known() -> None:
    cuda = torch.cuda
    assert answers(lambda: (cuda.is_available(), cuda.device_count(), cuda.current_device(), cuda.is_initialized())) == (
        True,
        1,
        0,
        True,
    )
    assert answers(lambda: cuda.get_device_capability(), capacity="T4") == (7, 5)
    assert answers(lambda: cuda.get_device_capability("cuda:0")) == (8, 0)
    assert answers(lambda: cuda.get_device_name(0), capacity="A10") == "NVIDIA A10"
    assert answers(lambda: cuda.is_bf16_supported(including_emulation=False), capacity="V100-16GB") is False
    properties = answers(lambda: cuda.get_device_properties(0), capacity="H200")
    assert (properties.major, properties.minor, properties.multi_processor_count) == (9, 0, 132)
    assert properties.total_memory == torchprof.GPUS["H200"]
    assert answers(lambda: cuda.get_device_properties(0).total_memory, capacity=2**33) == 2**33


def test_the_accelerator_is_the_gpu() -> None:
    of_machine = torch.accelerator.is_available(), torch.accelerator.current_accelerator(), torch.get_device_module()
    accelerator = torch.accelerator
    assert answers(lambda: (accelerator.is_available(), accelerator.device_count(), accelerator.current_device_index())) == (
        True,
        1,
        0,
    )
    assert answers(lambda: accelerator.current_accelerator()) == torch.device("cuda")
    assert answers(lambda: accelerator.current_accelerator(check_available=True)) == torch.device("cuda")
    assert answers(lambda: torch.get_device_module()) is torch.cuda
    assert answers(lambda: torch.get_device_module("cpu")) is torch.cpu
    accelerator_now = torch.accelerator.is_available(), torch.accelerator.current_accelerator(), torch.get_device_module()
    assert accelerator_now == of_machine


def test_there_is_no_accelerator_in_an_estimate_for_the_cpu() -> None:
    assert answers(lambda: torch.accelerator.is_available(), device="cpu") == torch.accelerator.is_available()


def on_a_stream_of_the_accelerator(x: Tensor) -> Tensor:
    with torch.accelerator.device_index(0):
        stream, event = torch.Stream(), torch.Event()
        stream.wait_stream(torch.accelerator.current_stream())
        y = x.to(torch.accelerator.current_accelerator()) * 2
        event.record()
    torch.accelerator.synchronize()
    torch.accelerator.reset_peak_memory_stats()
    return y


def test_streams_of_the_accelerator_are_there_and_all_is_done_in_order() -> None:
    assert of(on_a_stream_of_the_accelerator).memory.peak.bytes == of(lambda x: x * 2).memory.peak.bytes


UNKNOWN: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "name": (lambda x: torch.cuda.get_device_name(), r"'name' of the GPU.*capacity="),
    "property": (lambda x: torch.cuda.get_device_properties(0).warp_size, "'warp_size' of the GPU"),
    "memory": (lambda x: torch.cuda.memory_allocated(), r"torch\.cuda\.memory_allocated, which only a GPU can answer"),
    "free": (lambda x: torch.cuda.mem_get_info(), r"torch\.cuda\.mem_get_info"),
    "time": (
        lambda x: torch.cuda.Event().elapsed_time(torch.cuda.Event()),
        r"torch\.cuda\.Event\.elapsed_time",
    ),
    "memory of the accelerator": (
        lambda x: torch.accelerator.memory_allocated(),
        r"torch\.accelerator\.memory_allocated, which only",
    ),
    "second accelerator": (lambda x: torch.accelerator.set_device_index(1), "GPU 1, and an estimate is for one"),
    "second": (lambda x: torch.cuda.set_device(1), "GPU 1, and an estimate is for one"),
    "old type": (
        lambda x: x.type("torch.cuda.FloatTensor"),
        r"the root module \(Net\), at test_estimate_cuda_names\.py:\d+, in <lambda>: `.*`, needs a GPU",
    ),
}


@pytest.mark.skipif(torch.version.cuda is not None, reason="PyTorch finds its libraries for CUDA")
@pytest.mark.parametrize("name", UNKNOWN)
def test_what_only_a_gpu_could_tell_is_named(name: str) -> None:
    function, message = UNKNOWN[name]
    with pytest.raises(EstimateError, match=message):
        of(function)


def on_another_stream(x: Tensor) -> Tensor:
    stream, event = torch.cuda.Stream(), torch.cuda.Event(enable_timing=True)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.cuda.device(0), torch.cuda.nvtx.range("part"):
        y = x * 2
        event.record()
        y.record_stream(stream)
    torch.cuda.synchronize()
    assert event.query()
    assert isinstance(stream, torch.cuda.Stream)
    return y


def test_streams_and_events_are_there_and_all_is_done_in_order() -> None:
    found = of(on_another_stream)
    assert found.memory.peak.bytes == of(lambda x: x * 2).memory.peak.bytes
    assert "what torch.cuda.stream changes of what is reserved" in found.notes
    emptied = of(lambda x: torch.cuda.empty_cache())
    assert "what torch.cuda.empty_cache changes of what is reserved" in emptied.notes


def scaled(model: nn.Module, optimizer: Any, x: Tensor) -> None:
    scaler = torch.amp.GradScaler("cuda")
    with torch.autocast("cuda"):
        loss = model(x.cuda(non_blocking=True)).float().sum()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()


def test_a_step_as_it_is_written_for_cuda_can_be_estimated() -> None:
    assert of(lambda x: x * 2, step=scaled, optimizer=torch.optim.AdamW).memory.by_category["optimizer state"] > 0


def names() -> list[Any]:
    return [
        torch.Tensor.to,
        torch.zeros,
        torch.Tensor.cuda,
        torch.cuda.is_available,
        torch.cuda.Stream,
        nn.Module.to,
        torch.device,
    ]


def test_everything_is_put_back_and_other_threads_are_not_answered() -> None:
    before, elsewhere = names(), []

    def step(model: nn.Module, optimizer: object, x: Tensor) -> None:
        other = threading.Thread(
            target=lambda: elsewhere.append((torch.cuda.is_available(), torch.zeros(2).to("cpu").sum().item()))
        )
        other.start()
        other.join()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        of(lambda x: x, step=step)
    assert elsewhere == [(torch.cuda.is_available(), 0.0)]
    assert names() == before
    assert "to" not in vars(torch.Tensor)


def test_an_estimate_for_the_cpu_has_no_gpu() -> None:
    found: list[bool] = []
    of(lambda x: found.append(torch.cuda.is_available()), device="cpu")
    assert found == [torch.cuda.is_available()]


# Inference mode.


def of_views(x: Tensor, table: Tensor) -> Tensor:
    for _ in range(3):
        x = x + table[:4] + table.t()[:4] + table.view(64)[:32].view(4, 8)
        x.add_(1)
    return x


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_in_inference_mode_views_of_buffers_may_be_made_again_and_again(device: str) -> None:
    def step(model: Any, optimizer: object, x: Tensor) -> None:
        for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
            with mode():
                of_views(model(x), model.table)
        of_views(model(x), model.table).sum().backward()

    def without(model: Any, optimizer: object, x: Tensor) -> None:
        for _ in range(3):
            with torch.no_grad():
                of_views(model(x), model.table)
        of_views(model(x), model.table).sum().backward()

    assert (
        of(lambda x: x, step=step, device=device).memory.peak.bytes
        == of(lambda x: x, step=without, device=device).memory.peak.bytes
    )


def test_the_estimate_says_which_gpu_it_is_for_and_the_program_is_told_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def asking(model: nn.Module, optimizer: object, x: Tensor) -> None:
        asked.append((torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory))
        model(x)

    here = Gpu("NVIDIA X900", 60 * 2**30, (12, 0), 170)
    monkeypatch.setattr("torchprof.estimation.target.gpu_here", lambda: here)
    found = torchprof.estimate(nn.Linear(8, 8), (4, 8), step=asking, steps=1)
    assert asked == [("NVIDIA X900", 60 * 2**30)]
    assert (found.gpu, found.to_dict()["gpu"]) == ("NVIDIA X900", "NVIDIA X900")
    assert "GPU: NVIDIA X900, because it is in this machine, and capacity= names none" in str(found)
    assert found.capacity is None  # its memory may be taken by others: whether it fits is said where it is asked
    on_the_cpu = torchprof.estimate(nn.Linear(8, 8), (4, 8), device="cpu")
    assert (on_the_cpu.gpu, on_the_cpu.why_gpu) == (None, None)
    assert "GPU:" not in str(on_the_cpu)
