"""Values of types that an argument cannot have: it is named with its value, in each function that failed otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from handwritten import gpu_trace
from torch import nn

import torchprof

SEVERAL = torch.ones(2)
"""Neither true nor false."""


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: torchprof.by_op(gpu_trace(), shapes=SEVERAL), ["shapes", "tensor"]),  # type: ignore[arg-type]
        (lambda: torchprof.diff(gpu_trace(), gpu_trace(), names=3.5), ["names", "3.5"]),  # type: ignore[arg-type]
        (lambda: torchprof.diff(gpu_trace(), gpu_trace(), names=("a",)), ["names", "'a'"]),  # type: ignore[arg-type]
        (lambda: torchprof.diff(gpu_trace(), gpu_trace(), by=[]), ["by", "[]"]),  # type: ignore[arg-type]
        (lambda: torchprof.watch(keep=10**30), ["keep", "1000"]),
        (lambda: torchprof.watch(keep=0), ["keep", "0"]),
        (lambda: torchprof.export_folded(gpu_trace(), "x", by=[]), ["by", "[]"]),  # type: ignore[arg-type]
        (lambda: torchprof.export_speedscope(gpu_trace(), "x", functions=SEVERAL), ["functions"]),  # type: ignore[arg-type]
        (lambda: torchprof.summary(nn.Linear(2, 2), fold=SEVERAL), ["fold"]),  # type: ignore[arg-type]
        (lambda: torchprof.summary(nn.Linear(2, 2), verbose=SEVERAL), ["verbose"]),  # type: ignore[arg-type]
        (lambda: torchprof.summary(nn.Linear(2, 2), (1, 2), device=10**30), ["device", "1000"]),  # type: ignore[arg-type]
        (lambda: torchprof.ceilings(10**30), ["device", "1000"]),  # type: ignore[arg-type]
        (lambda: torchprof.by_op(gpu_trace()).to_csv(printed_only=SEVERAL), ["printed_only"]),  # type: ignore[arg-type]
        (lambda: torchprof.by_op(gpu_trace()).to_json(printed_only=SEVERAL), ["printed_only"]),  # type: ignore[arg-type]
        (lambda: torchprof.Ranks.of([gpu_trace()]).of_rank(SEVERAL), ["number"]),  # type: ignore[arg-type]
    ],
)
def test_a_value_of_another_type_is_named_with_its_argument(call: Callable[[], Any], names: list[str]) -> None:
    with pytest.raises(torchprof.ArgumentError) as caught:
        call()
    assert all(name in str(caught.value) for name in names), str(caught.value)


@pytest.mark.parametrize("export", [torchprof.export_chrome, torchprof.export_folded, torchprof.export_speedscope])
@pytest.mark.parametrize("given", [3.5, None, "step.torchprof"])
def test_what_is_no_trace_is_not_exported(tmp_path: Path, export: Callable[..., Any], given: Any) -> None:
    with pytest.raises(torchprof.ModuleTypeError, match=r"torchprof\.Trace"):
        export(given, tmp_path / "file")
    assert not list(tmp_path.iterdir())
