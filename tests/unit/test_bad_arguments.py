"""Arguments that cannot be: public functions name the argument and its value, and never raise a bare ValueError."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handwritten import loop_trace

import torchprof
from torchprof.record.gpu_backends import check_backend


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: torchprof.schedule(active=0), ["active", "0"]),
        (lambda: torchprof.schedule(active="3"), ["active", "'3'", "int"]),  # type: ignore[arg-type]
        (lambda: torchprof.schedule(active=1, repeat=float("nan")), ["repeat", "nan"]),  # type: ignore[arg-type]
        (lambda: torchprof.ceilings("nonsense"), ["device", "'nonsense'"]),
        (lambda: torchprof.ceilings("cuda:77"), ["device", "'cuda:77'"]),
        (lambda: torchprof.ceilings(object()), ["device", "object"]),  # type: ignore[arg-type]
        (lambda: torchprof.ceilings(dtype="float32"), ["dtype", "'float32'"]),  # type: ignore[arg-type]
        (lambda: torchprof.ceilings(dtype=torch.qint8, refresh=True), ["dtype", "qint8"]),
        (lambda: check_backend("nvml"), ["gpu", "'nvml'", "'cupti'"]),
        (lambda: check_backend(np.array(["cupti", "off"])), ["gpu", "array"]),
        (lambda: torchprof.load("a\0b"), ["path", "a\\x00b"]),
        (lambda: loop_trace().save("a\0b"), ["path", "a\\x00b"]),
    ],
)
def test_an_argument_that_cannot_be_is_named_with_its_value(call: Callable[[], Any], names: list[str]) -> None:
    with pytest.raises(torchprof.ArgumentError) as caught:
        call()
    assert all(name in str(caught.value) for name in names), str(caught.value)


def test_facts_that_a_file_cannot_hold_are_named(tmp_path: Path) -> None:
    trace = loop_trace()
    trace.facts["learning_rate"] = torch.ones(1)
    with pytest.raises(torchprof.ArgumentError, match=r"facts.*Tensor"):
        trace.save(tmp_path / "steps.torchprof")
    assert not (tmp_path / "steps.torchprof").exists()


def test_what_is_wrong_with_a_path_is_pythons_own_error(tmp_path: Path) -> None:
    with pytest.raises(torchprof.TraceFileError, match="a folder without traces"):
        torchprof.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        loop_trace().save(tmp_path / "nowhere" / "steps.torchprof")
