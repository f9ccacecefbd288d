"""What a summary says of inputs, parameters and errors at its edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import torchprof


class Adds(nn.Module):
    def forward(self, x: Any, y: Any = None) -> Tensor:
        return torch.as_tensor(x) + 1


def test_an_array_of_numpy_is_shown_and_its_bytes_are_not_called_zero() -> None:
    found = torchprof.summary(Adds(), input_data=(np.zeros((2, 3), dtype=np.float32),), verbose=0)
    assert found.rows[0].input_shapes == ("numpy.ndarray",)
    assert found.totals.input_bytes is None
    assert "Size of inputs: unknown" in str(found)
    beside = torchprof.summary(Adds(), input_data={"x": torch.zeros(2), "y": np.zeros(3)}, verbose=0)
    assert beside.rows[0].input_shapes == ((2,), "numpy.ndarray")
    assert beside.totals.input_bytes is None


def test_no_size_at_all_is_answered_with_the_way_out() -> None:
    with pytest.raises(torchprof.ArgumentError, match=r"input_size=\[\] has no size in it.*input_data=\(\)"):
        torchprof.summary(Adds(), [])


def test_a_model_without_inputs_runs() -> None:
    class Makes(nn.Module):
        def forward(self) -> Tensor:
            return torch.ones(2, 3)

    assert torchprof.summary(Makes(), input_data=(), verbose=0).rows[0].output_shapes == ((2, 3),)


def test_fake_tensors_are_called_so() -> None:
    with FakeTensorMode():
        found = torchprof.summary(nn.Linear(3, 4), (2, 3), verbose=0)
    assert "(counted as on cpu, on fake tensors: nothing was allocated)" in str(found)
    assert (found.totals.counted_as, found.totals.counted_on) == ("cpu", "fake")
    on_meta = torchprof.summary(nn.Linear(3, 4, device="meta"), (2, 3), verbose=0)
    assert on_meta.totals.counted_on == "meta"


def test_parameters_on_the_same_memory_count_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight.data = model[0].weight.data
    found = torchprof.summary(model, (2, 4), verbose=0)
    assert (found.totals.params, found.totals.param_bytes) == (2 * 16, 2 * 64)
    assert [row.params for row in found.rows] == [0, 16, 0, 16]
    assert found.rows[2].note == "weight shared with 0"


def test_views_of_parts_of_one_memory_count_each() -> None:
    flat = torch.rand(32)
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[0].weight.data, model[1].weight.data = flat[:16].view(4, 4), flat[16:].view(4, 4)
    assert torchprof.summary(model, (2, 4), verbose=0).totals.params == 32


class Raises(nn.Module):
    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        if self.error is not None:
            raise self.error
        return x * x.sum().item()


def note_of(model: nn.Module, **options: Any) -> str:
    with pytest.raises(Exception) as raised:  # noqa: PT011
        torchprof.summary(model, (3, 4), verbose=0, **options)
    return "\n".join(raised.value.__notes__)


def test_sizes_and_dtypes_are_blamed_where_the_error_is_about_them() -> None:
    assert "check these and dtypes" in note_of(Raises(RuntimeError("The size of tensor a (3) must match")))
    assert "check these and dtypes" in note_of(nn.Linear(5, 4))


@pytest.mark.parametrize(
    "error", [NotImplementedError("no fake impl registered for shape"), OSError("no such file"), RuntimeError("busy")]
)
def test_they_are_not_where_it_is_not(error: Exception) -> None:
    assert "check these" not in note_of(Raises(error))
    assert "the inputs were made from input_size=(3, 4)" in note_of(Raises(error))


@pytest.mark.parametrize("error", [FileNotFoundError("f"), ZeroDivisionError(), KeyError("a"), RuntimeError("out of memory")])
@pytest.mark.parametrize("given", [{"input_size": (3, 4)}, {"input_data": torch.rand(3, 4)}])
def test_forward_does_not_run_again_where_the_inputs_are_not_to_blame(error: Exception, given: dict[str, Any]) -> None:
    calls = []

    class Counts(Raises):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(x.shape)
            return super().forward(x)

    with pytest.raises(type(error)):
        torchprof.summary(Counts(error), **given, verbose=0)
    assert calls == [(3, 4)]


def test_a_model_without_tensors_is_not_on_meta() -> None:
    class Makes(nn.Module):
        def forward(self, n: int) -> Tensor:
            return torch.rand(n)

    totals = torchprof.summary(Makes(), input_data=(3,), verbose=0).totals
    assert (totals.allocated, totals.memory) == (12, "measured")


def test_an_array_among_what_a_module_was_given_is_named_by_its_class() -> None:
    with pytest.raises(TypeError) as raised:
        torchprof.summary(nn.Embedding(5, 3), input_data=[np.zeros((4, 7), dtype=int)], verbose=0)
    assert "called with numpy.ndarray" in "\n".join(raised.value.__notes__)


def test_an_error_whose_message_raises_is_explained_all_the_same() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise ValueError

    with pytest.raises(Broken) as raised:
        torchprof.summary(Raises(Broken()), (3, 4), verbose=0)
    assert "raised in the root module (Raises)" in "".join(raised.value.__notes__)


def test_a_value_that_is_read_on_meta_is_not_the_fault_of_sizes() -> None:
    assert "check these" not in note_of(Raises(), device="meta")


def test_forward_may_have_a_profiler_of_its_own() -> None:
    class Profiles(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.profiler.profile():
                return x + 1

    found = torchprof.summary(Profiles(), (3, 4), verbose=0)
    assert "[3, 4]" in str(found)
    assert found.totals.memory == "measured"


def test_a_summary_inside_another_recording_says_what_it_needs() -> None:
    with (
        torchprof.profile(),
        pytest.raises(torchprof.RecordingError) as raised,
    ):
        torchprof.summary(nn.Linear(3, 4), (2, 3), verbose=0)
    assert "call it before or after the other recording" in "".join(raised.value.__notes__)
