"""How near a summary on meta comes: memory counted as on the CPU, against the measured run of the same model, one row for each
network and mode.

    python benchmarks/meta_accuracy.py
"""

from __future__ import annotations

import copy
import logging
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

import torchprof

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from architectures import ALL
from my_network import MyNetwork
from networks import FOR_TORCHSUMMARY

FIGURES: Final = ("allocated", "peak", "peak_with_backward", "saved")


def main() -> int:
    """Print the figures and their ratios; returns 0."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    print(f"torch {torch.__version__}, bytes: measured on the CPU, counted on meta, and their ratio")
    ratios: dict[str, list[tuple[float, str]]] = {figure: [] for figure in FIGURES}
    for train in (False, True):
        for name, make in networks():
            torch.manual_seed(0)
            model, data = make()
            model.train(train)
            label = f"{name}, {'train' if train else 'eval'}"
            try:
                torchprof.summary(model, input_data=data, verbose=0)  # the first run makes what later ones keep
                measured = torchprof.summary(model, input_data=data, backward=True, verbose=0).totals
                on_meta = (copy.deepcopy(model).to("meta"), moved(data))
                counted = torchprof.summary(on_meta[0], input_data=on_meta[1], device="cpu", backward=True, verbose=0).totals
            except Exception as error:
                print(f"{label:32} {type(error).__name__}: {str(error).splitlines()[0]:.80}")
                continue
            if counted.memory != "meta":
                print(f"{label:32} unknown: {counted.unknown_because}")
                continue
            line = f"{label:32}"
            for figure in FIGURES:
                truth, found = getattr(measured, figure), getattr(counted, figure)
                if truth and found is not None:
                    ratios[figure].append((found / truth, label))
                    line += f" {figure} {truth:,} {found:,} {found / truth:.4f}"
            print(line, flush=True)
    for figure, found in ratios.items():
        values = [ratio for ratio, _ in found]
        print(f"{figure}: {len(found)} cases, median {statistics.median(values):.4f}, from {min(found)} to {max(found)}")
    return 0


def networks() -> Iterator[tuple[str, Callable[[], tuple[nn.Module, Any]]]]:
    """Names, and functions that make a network and its inputs."""
    for name, (make, size) in FOR_TORCHSUMMARY.items():
        yield name, partial(made, make, size if isinstance(size, list) else [size], 2)
    yield "MyNetwork", partial(made, partial(MyNetwork, num_class=2), [(3, 112, 112)], 4)
    for architecture in ALL:
        yield architecture.__name__, architecture


def made(make: Callable[[], nn.Module], sizes: list[tuple[int, ...]], batch: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    return make(), tuple(torch.rand(batch, *size) for size in sizes)


def moved(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: moved(value) for name, value in data.items()}
    return tuple(map(moved, data)) if isinstance(data, tuple) else data.to("meta") if isinstance(data, Tensor) else data


if __name__ == "__main__":
    sys.exit(main())
