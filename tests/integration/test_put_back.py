"""Whatever forward does to a model is put back after a summary."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from written import WRITES, Written, everything, with_gradients

import torchprof


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Sparse CSR")
        yield


@pytest.mark.parametrize("name", WRITES)
def test_what_forward_writes_is_put_back(name: str) -> None:
    model = with_gradients(Written())
    model.write = WRITES[name]
    before = everything(model)
    torchprof.summary(model, (3, 4), verbose=0)
    assert everything(model) == before


@pytest.mark.parametrize("name", WRITES)
def test_without_a_summary_it_stays_written(name: str) -> None:
    """The test above would pass for a write that does nothing."""
    model = with_gradients(Written())
    before = everything(model)
    with torch.no_grad():
        WRITES[name](model, torch.rand(3, 4))
    assert everything(model) != before


@pytest.mark.parametrize("options", [{"warmup": 2}, {"backward": True}, {"backward": True, "warmup": 1}])
@pytest.mark.parametrize(
    "name", ["a momentum encoder", "foreach through data", "a large buffer", "grad", "a tensor deep inside"]
)
def test_it_is_put_back_after_warmup_and_backward(name: str, options: dict[str, Any]) -> None:
    model = with_gradients(Written())
    model.write = WRITES[name]
    before = everything(model)
    torchprof.summary(model, (3, 4), verbose=0, **options)
    assert everything(model) == before


@pytest.mark.parametrize("name", WRITES)
def test_it_is_put_back_where_forward_raises(name: str) -> None:
    def write_and_raise(model: Written, x: Tensor) -> None:
        WRITES[name](model, x)
        raise KeyError("on purpose")

    model = with_gradients(Written())
    model.write = write_and_raise
    before = everything(model)
    with pytest.raises(KeyError, match="on purpose"):
        torchprof.summary(model, (3, 4), verbose=0)
    assert everything(model) == before


NOT_ON_META = {"a mask", "numpy and back", "optimizers", "a generator"}


@pytest.mark.parametrize("name", [name for name in WRITES if name not in NOT_ON_META])
def test_on_meta_everything_but_elements_is_put_back(name: str) -> None:
    with torch.device("meta"):
        model = with_gradients(Written())
    model.write = WRITES[name]
    before = everything(model)
    with torch.device("meta"):
        torchprof.summary(model, (3, 4), verbose=0)
    assert everything(model) == before


@pytest.mark.parametrize("name", ["mul_", "a buffer", "a large buffer", "data of another size", "a tensor in a list"])
def test_in_inference_mode_and_for_inference_tensors(name: str) -> None:
    with torch.inference_mode():
        model = Written(WRITES[name])
        before = everything(model)
        torchprof.summary(model, (3, 4), verbose=0)
        assert everything(model) == before


WRITTEN_IN_TURN = [name for name in WRITES if name not in ("optimizers", "a module", "a class", "t_")]


@settings(max_examples=50)
@example(names=["data of another size", "mul_"])
@example(names=["vector_to_parameters", "foreach"])
@given(names=st.lists(st.sampled_from(WRITTEN_IN_TURN), min_size=2, max_size=8))
def test_any_sequence_of_writes_is_put_back(names: list[str]) -> None:
    def write(model: Written, x: Tensor) -> None:
        for name in names:
            with contextlib.suppress(RuntimeError, ValueError, IndexError, AttributeError, TypeError, KeyError):
                WRITES[name](model, x)  # some do not fit what others leave

    model = with_gradients(Written())
    model.write = write
    before = everything(model)
    torchprof.summary(model, (3, 4), verbose=0)
    assert everything(model) == before
