"""Ops of PyTorch's other runtimes, that of mobile and the static one. Their scopes are asked for where one runs first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from reading import op_names
from torch import nn

import torchprof

LITE_INTERPRETER, STATIC_RUNTIME_OP, STATIC_RUNTIME_MODEL = 6, 8, 9
"""By ``at::RecordScope``."""


def scripted() -> Any:
    return torch.jit.script(nn.Sequential(nn.Linear(4, 8), nn.ReLU()).eval())


@pytest.fixture
def of_mobile(tmp_path: Path) -> Any:
    with pytest.warns(DeprecationWarning, match="Lite Interpreter"):
        scripted()._save_for_lite_interpreter(str(tmp_path / "model"))
    from torch.jit.mobile import _load_for_lite_interpreter

    return _load_for_lite_interpreter(str(tmp_path / "model"))


def rows(trace: torchprof.Trace, *scopes: int) -> list[str]:
    """Names of ops of these scopes, in order."""
    return [name for name, scope in zip(op_names(trace), trace.ops["scope"].tolist(), strict=True) if scope in scopes]


def test_what_the_runtime_of_mobile_calls_has_rows(of_mobile: Any) -> None:
    with torchprof.profile() as prof:
        of_mobile(torch.ones(3, 4))
        of_mobile.run_method("forward", torch.ones(3, 4))

    assert rows(prof.trace, LITE_INTERPRETER) == ["aten::linear", "aten::relu"] * 2
    assert op_names(prof.trace).count("aten::addmm") == 2


def test_what_the_static_runtime_calls_has_rows() -> None:
    static = torch._C._jit_to_static_module(torch.jit.freeze(scripted())._c)
    with torchprof.profile() as prof:
        static(torch.ones(3, 4))
        static(torch.ones(3, 4))

    assert rows(prof.trace, STATIC_RUNTIME_MODEL) == ["forward"] * 2
    assert rows(prof.trace, STATIC_RUNTIME_OP) == ["aten::linear", "aten::relu"] * 2


def test_another_recording_sees_them_again(of_mobile: Any) -> None:
    for _ in range(2):
        with torchprof.profile(shapes=False) as prof:
            of_mobile(torch.ones(3, 4))
        assert rows(prof.trace, LITE_INTERPRETER) == ["aten::linear", "aten::relu"]
