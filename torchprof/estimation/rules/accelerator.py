"""``torch.accelerator`` in a program: the accelerator is a GPU, of which ``torch.cuda`` tells the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch

from torchprof.estimation.fake.callers import in_an_estimate, replaced
from torchprof.estimation.rules.cuda_queries import Event, InPlace, refusing
from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.target import Target

OF_CUDA: Final = {
    "is_available": "is_available",
    "device_count": "device_count",
    "current_device_index": "current_device",
    "current_device_idx": "current_device",
    "set_device_index": "set_device",
    "set_device_idx": "set_device",
    "current_stream": "current_stream",
    "set_stream": "set_stream",
    "synchronize": "synchronize",
    "empty_cache": "empty_cache",
    "reset_peak_memory_stats": "reset_peak_memory_stats",
    "reset_accumulated_memory_stats": "reset_accumulated_memory_stats",
}
"""Functions, and those of ``torch.cuda`` that do the same."""
NEEDS_A_GPU: Final = (
    "memory_allocated max_memory_allocated memory_reserved max_memory_reserved memory_stats get_memory_info "
    "get_device_capability Graph"
).split()


@rule(
    Kind.PATCH,
    "torch.accelerator",
    on="cuda",
    when="the program asks for the accelerator of the machine, which is a GPU",
    source="torch/accelerator/__init__.py, torch/accelerator/memory.py and get_device_module in torch/__init__.py",
)
@contextmanager
def accelerator(target: Target) -> Iterator[None]:
    """``torch.accelerator`` is a GPU, until the block ends."""
    answers: dict[str, Callable[..., Any]] = {
        "current_accelerator": lambda check_available=False: torch.device("cuda"),
        "device_index": InPlace,
        "empty_host_cache": lambda: None,
    }
    answers.update({name: _as(of_cuda) for name, of_cuda in OF_CUDA.items()})
    answers.update({name: refusing(f"torch.accelerator.{name}") for name in NEEDS_A_GPU})
    places = [(torch.accelerator, name, answer) for name, answer in answers.items()]
    get = torch.get_device_module
    places += [
        (torch, "get_device_module", lambda device=None: torch.cuda if device is None else get(device)),
        (torch, "Stream", InPlace),
        (torch, "Event", Event),
    ]
    with ExitStack() as stack:
        for owner, name, answer in places:
            if hasattr(owner, name):
                stack.enter_context(replaced(owner, name, in_an_estimate(getattr(owner, name), answer)))
        yield


def _as(name: str) -> Callable[..., Any]:
    """The function of ``torch.cuda`` of this name, which has an answer of its own."""
    return lambda *args, **options: getattr(torch.cuda, name)(*args, **options)
