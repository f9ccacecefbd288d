"""Where a batch dimension seems to be missing, the exception names a call, and that call works."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchprof


def notes(model: nn.Module, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        torchprof.summary(model, *args, verbose=0, **kwargs)
    return "\n".join(getattr(caught.value, "__notes__", []))


def named_call(model: nn.Module, *args: Any, **kwargs: Any) -> str:
    """The call that is named, after it was made as it is written."""
    (call,) = re.findall(r"This works: (.+)$", notes(model, *args, **kwargs), re.MULTILINE)
    summary = eval(call, {"torchprof": torchprof, "torch": torch, "model": model, "data": kwargs.get("input_data")})
    assert summary.rows[0].calls == 1
    return str(call)


class LastStep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class VectorAndSequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vector, self.sequence = nn.Linear(3, 4), nn.Conv1d(2, 4, 1)

    def forward(self, vector: Tensor, sequence: Tensor) -> Tensor:
        return self.vector(vector)[:, :, None] + self.sequence(sequence)


def images() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (images, (3, 8, 8)),
        (lambda: images().eval(), (3, 8, 8)),
        (lambda: nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4)), (3, 8, 8, 8)),
        (lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), (3, 32)),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), (3,)),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2)), (3, 8, 8)),
        (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 1), (8,)),
        (LastStep, (7, 3)),
        (VectorAndSequence, [(3,), (2, 5)]),
    ],
    ids=lambda value: str(value) if not callable(value) else "",
)
def test_a_missing_batch_dimension_is_named_with_the_call(make: Callable[[], nn.Module], size: Any) -> None:
    assert named_call(make(), size) == f"torchprof.summary(model, {size!r}, batch_size=2)"


def test_it_is_named_for_the_inputs_that_lack_it() -> None:
    assert named_call(VectorAndSequence(), [(3,), (6, 2, 5)]) == "torchprof.summary(model, [(6, 3), (6, 2, 5)])"


def test_a_batch_that_was_given_twice_is_named() -> None:
    assert named_call(images(), (2, 3, 8, 8), batch_size=4) == "torchprof.summary(model, (2, 3, 8, 8))"
    assert named_call(images(), (2, 3, 8, 8), batch_size=-1) == "torchprof.summary(model, (2, 3, 8, 8))"


def test_arguments_that_the_inputs_depend_on_are_in_the_call() -> None:
    call = named_call(images().double(), (3, 8, 8), dtypes=torch.float64, device="cpu")
    assert call == "torchprof.summary(model, (3, 8, 8), batch_size=2, dtypes=torch.float64, device='cpu')"


def test_integers_are_tried_where_the_model_asks_for_them() -> None:
    flat = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 2))
    assert named_call(flat, (5,)) == "torchprof.summary(model, (5,), batch_size=2, dtypes=torch.int64)"
    assert named_call(flat, (5,), dtypes=torch.long) == "torchprof.summary(model, (5,), batch_size=2, dtypes=torch.int64)"
    assert named_call(nn.Embedding(9, 4), (3, 5)) == "torchprof.summary(model, (3, 5), dtypes=torch.int64)"


def test_the_dtype_of_the_parameters_is_tried() -> None:
    both = "torchprof.summary(model, (3, 8, 8), batch_size=2, dtypes=torch.float64)"
    assert named_call(images().double(), (3, 8, 8)) == both
    assert named_call(nn.Linear(3, 4).bfloat16(), (2, 3)) == "torchprof.summary(model, (2, 3), dtypes=torch.bfloat16)"
    embedding = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 2)).double()
    assert named_call(embedding, (5,)) == "torchprof.summary(model, (5,), batch_size=2, dtypes=torch.int64)"


def test_a_tensor_of_the_callers_is_tried_as_a_batch() -> None:
    assert named_call(images(), input_data=torch.rand(3, 8, 8)) == "torchprof.summary(model, input_data=data[None])"
    norm = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    call = "torchprof.summary(model, input_data=torch.stack([data, data]))"
    assert named_call(norm, input_data=torch.rand(3)) == call


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("weights")


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        (nn.Linear(3, 4), {"input_size": (5,)}),
        (nn.Linear(3, 4), {"input_size": (5,), "batch_size": 2}),
        (Raises(), {"input_size": (3,)}),
        (nn.Linear(3, 4), {"input_data": torch.rand(5)}),
        (nn.Linear(3, 4), {"input_data": (torch.rand(3), torch.rand(3))}),
        (images(), {"input_size": (3, 2**14, 2**14)}),
    ],
    ids=["sizes", "sizes with a batch", "another error", "data", "arguments", "too large to try"],
)
def test_no_call_is_named_that_was_not_seen_to_work(model: nn.Module, arguments: dict[str, Any]) -> None:
    assert "This works" not in notes(model.to("meta"), **arguments, device="meta")


def test_trying_changes_nothing() -> None:
    model = images()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    named_call(model, (3, 8, 8))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_model_on_meta_has_its_call_too() -> None:
    with torch.device("meta"):
        model = images()
    assert named_call(model, (3, 8, 8)) == "torchprof.summary(model, (3, 8, 8), batch_size=2)"


def test_an_error_of_a_model_without_sizes_to_change_stays_its_own() -> None:
    assert "This works" not in notes(nn.Conv1d(3, 4, 1), ())
    assert "This works" not in notes(Raises(), input_data={"x": torch.rand(3)})


def test_sizes_and_devices_of_other_types_are_written_plainly() -> None:
    call = named_call(images(), torch.Size([3, 8, 8]), device=torch.device("cpu"))
    assert call == "torchprof.summary(model, (3, 8, 8), batch_size=2, device='cpu')"


class FailsOnce(nn.Module):
    """Raises in its first call, for a reason that has nothing to do with its input."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Any = SimpleNamespace(count=0)  # which is not put back

    def forward(self, x: Tensor) -> Tensor:
        self.calls.count += 1
        if self.calls.count == 1:
            raise RuntimeError("connection reset")
        return x


class RaisesInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise RuntimeError("no gradient")


class NoBackward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return RaisesInBackward.apply(self.layer(x))


@pytest.mark.parametrize("model", [FailsOnce(), NoBackward()], ids=["only once", "in backward"])
def test_what_the_inputs_did_not_cause_is_not_blamed_on_them(model: nn.Module) -> None:
    with pytest.raises(RuntimeError, match=r"connection reset|no gradient") as caught:
        torchprof.summary(model, (2, 4), backward=True, verbose=0)
    assert not [note for note in caught.value.__notes__ if "This works" in note]
