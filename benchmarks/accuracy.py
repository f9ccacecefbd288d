"""How near `torchprof.estimate` comes: predicted and measured peaks of training steps, one row for each architecture,
optimizer and batch size.

    python benchmarks/accuracy.py            the CPU, against the measured memory account
    python benchmarks/accuracy.py cuda       a GPU, against torch.cuda's own statistics
    python benchmarks/accuracy.py real       the same, of programs of real size (real_programs.py), which take 6 GiB
    python benchmarks/accuracy.py compile    the CPU, steps of torch.compile(model): takes half an hour, most of it compiling
"""

from __future__ import annotations

import gc
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import torchprof
from torchprof import EstimateError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from architectures import ALL, loss_of, wav2vec2
from real_programs import PROGRAMS

OPTIMIZERS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
WHEN_COMPILED = (torch.optim.SGD, torch.optim.AdamW)
ASKING = (wav2vec2,)  # for values of tensors
STEPS = 2


def main(what: str) -> int:
    """Print the grid and its summary; returns 0."""
    if what == "real":
        return real()
    device, compiled = ("cuda" if what == "cuda" else "cpu"), what == "compile"
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    errors: list[float] = []
    reserved_errors: list[float] = []
    skipped: list[str] = []
    seconds = 0.0
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name() if device == 'cuda' else 'cpu'}, peaks in bytes")
    print(f"{'model':12} {'optimizer':10} {'batch':>5} {'measured':>14} {'predicted':>14} {'error':>8}")
    for make in ALL:
        for optimizer in WHEN_COMPILED if compiled else OPTIMIZERS:
            for times in (4,) if compiled else (1, 4):
                model, inputs = prepared(make, times)
                begin = time.perf_counter()
                try:
                    found = torchprof.estimate(
                        model,
                        inputs,
                        optimizer=optimizer,
                        loss=loss_of,
                        steps=STEPS,
                        device=device,
                        compile=compiled,
                        allow_real=make in ASKING,
                    )
                except (EstimateError, RuntimeError) as error:
                    if make.__name__ not in skipped:
                        skipped.append(make.__name__)
                        print(f"{make.__name__:12} cannot be estimated: {str(error).splitlines()[0]}")
                    continue
                seconds += time.perf_counter() - begin
                batch = len(next(value for value in inputs.values() if isinstance(value, Tensor)))
                runs = compiled_once(model, inputs) if compiled else model
                measured, reserved = (measured_on_cuda if device == "cuda" else measured_on_cpu)(runs, inputs, optimizer)
                error_of = found.max_allocated / measured - 1
                errors.append(error_of)
                line = f"{make.__name__:12} {optimizer.__name__:10} {batch:5} {measured:14,} {found.max_allocated:14,}"
                line += f" {error_of:+8.3%}"
                if device == "cuda":
                    reserved_errors.append(found.max_reserved / reserved - 1)
                    line += f"   reserved {reserved:14,} {found.max_reserved:14,} {reserved_errors[-1]:+8.3%}"
                print(line, flush=True)
    print(f"allocated: {described(errors)}, {seconds / len(errors):.2f} s each")
    if reserved_errors:
        print(f"reserved:  {described(reserved_errors)}")
    return 0


def real() -> int:
    """Print the programs of real size; returns 0."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    errors: list[float] = []
    reserved_errors: list[float] = []
    seconds = 0.0
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}, peaks in bytes")
    for name, program in PROGRAMS.items():
        torch.manual_seed(0)
        try:
            model, inputs = program.make()
        except ImportError as error:
            print(f"{name:24} left out: {error}")
            continue
        begin = time.perf_counter()
        found = torchprof.estimate(model, inputs, optimizer=program.optimizer, step=program.step, steps=STEPS)
        seconds += time.perf_counter() - begin
        measured, reserved = measured_on_cuda(model, inputs, program.optimizer, program.step)
        errors.append(found.max_allocated / measured - 1)
        reserved_errors.append(found.max_reserved / reserved - 1)
        print(
            f"{name:24} allocated {measured:14,} {found.max_allocated:14,} {errors[-1]:+8.3%}   "
            f"reserved {reserved:14,} {found.max_reserved:14,} {reserved_errors[-1]:+8.3%}",
            flush=True,
        )
        del model, inputs
    print(f"allocated: {described(errors)}, {seconds / len(errors):.2f} s each")
    print(f"reserved:  {described(reserved_errors)}")
    return 0


def prepared(make: Callable[[], Any], times: int) -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    model, inputs = make()
    larger = {name: torch.cat([value] * times) if isinstance(value, Tensor) else value for name, value in inputs.items()}
    if hasattr(model.config, "layerdrop"):
        model.config.layerdrop = 0.0  # a layer that is left out by chance needs no memory
    return model.train(), larger


def compiled_once(model: nn.Module, inputs: dict[str, Any]) -> nn.Module:
    torch._dynamo.reset()  # shapes that it has met before would be compiled for any
    made: nn.Module = torch.compile(model)
    loss_of(made(**inputs)).backward()
    model.zero_grad()
    return made


def train(model: nn.Module, optimizer: torch.optim.Optimizer, **inputs: Any) -> None:
    returned = model(**inputs)
    value = loss_of(returned)
    value.backward()
    optimizer.step()
    model.zero_grad()


def measured_on_cpu(model: nn.Module, inputs: dict[str, Any], make_optimizer: Any) -> tuple[int, int]:
    optimizer = make_optimizer(model.parameters())
    gc.collect()
    gc.disable()  # what is in a reference cycle would go at any time
    with torchprof.profile(model) as prof:
        for _ in range(STEPS):
            train(model, optimizer, **inputs)
            prof.step()
    gc.enable()
    peak = torchprof.memory(prof.trace, "cpu").peak.bytes
    return peak, peak


def measured_on_cuda(
    model: nn.Module, inputs: dict[str, Any], make_optimizer: Any, step: Callable[..., object] = train
) -> tuple[int, int]:
    """The most that was allocated and reserved. What the rows before have left counts for neither.

    cuBLAS keeps its workspaces, and cuDNN the state of its dropout: the former are cleared, and the latter cannot be.
    """
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    model.cuda()
    optimizer = make_optimizer(model.parameters())
    here = {name: value.cuda() if isinstance(value, Tensor) else value for name, value in inputs.items()}
    for _ in range(STEPS):
        step(model, optimizer, **here)
    return torch.cuda.max_memory_allocated() - allocated, torch.cuda.max_memory_reserved() - reserved


def described(errors: list[float]) -> str:
    sizes = sorted(map(abs, errors))
    below = sum(error < -0.001 for error in errors) / len(errors)
    return (
        f"{len(errors)} cases, median error {statistics.median(sizes):.3%}, p90 {sizes[int(0.9 * (len(sizes) - 1))]:.3%}, "
        f"worst {sizes[-1]:.3%}, under by more than 0.1% in {below:.0%}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "cpu"))
