"""What the mode of estimates makes anew, without a fake kernel, is what the fake kernel makes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchprof.estimation.fake.cache import FakeOpCache
from torchprof.estimation.fake.mode import EstimateMode
from torchprof.estimation.fake.overrides import OpRule, Overrides
from torchprof.estimation.fake.real_ops import RealOps
from torchprof.record.nested import find_tensors

aten = torch.ops.aten


class CountingMode(EstimateMode):
    """Counts the fake kernels that are run, and for how many tensors."""

    def __init__(self) -> None:
        super().__init__(Overrides({}, OpRule(), {}), RealOps(False))
        self.ran: list[int] = []

    def _uncached(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        self.ran.append(len(find_tensors((args, kwargs))))
        return super()._uncached(func, types, args, kwargs)


@pytest.fixture
def mode() -> Iterator[CountingMode]:
    with CountingMode() as entered:
        yield entered


def described(value: Any) -> list[Any]:
    """Of every tensor what a kernel decides, and which of them share memory."""
    tensors = find_tensors(value)
    storages = [tensor.untyped_storage()._cdata for tensor in tensors]
    return [
        (
            tuple(tensor.shape),
            tensor.stride(),
            tensor.dtype,
            tensor.storage_offset(),
            tensor.untyped_storage().nbytes(),
            tensor.device,
            storages.index(storage),
        )
        for tensor, storage in zip(tensors, storages, strict=True)
    ]


def mixed() -> list[Tensor]:
    """Eight tensors of three kinds."""
    made = [torch.empty(3, 5) for _ in range(4)] + [torch.empty(5, 3).t() for _ in range(3)]
    return [*made[::2], torch.empty(3, 5, dtype=torch.bfloat16), *made[1::2]]


BY_ELEMENT: list[tuple[str, Callable[[list[Tensor], list[Tensor]], Any]]] = [
    ("sqrt", lambda one, other: torch._foreach_sqrt(one)),
    ("add", lambda one, other: torch._foreach_add(one, other)),
    ("mul of a number", lambda one, other: torch._foreach_mul(one, 2.0)),
    ("pow of numbers", lambda one, other: torch._foreach_pow(one, [2.0] * 7 + [3.0])),
    ("norm", lambda one, other: torch._foreach_norm(one)),
    ("lerp in place", lambda one, other: torch._foreach_lerp_(one, other, 0.1)),
    ("addcdiv in place", lambda one, other: torch._foreach_addcdiv_(one, other, one, [1.0] * 8)),
    ("copy in place", lambda one, other: torch._foreach_copy_(one, other)),
]


@pytest.mark.parametrize(("name", "run"), BY_ELEMENT, ids=[name for name, _ in BY_ELEMENT])
def test_a_fake_kernel_runs_for_elements_that_differ_and_tells_of_all(
    name: str, run: Callable[..., Any], mode: CountingMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = mixed(), mixed()
    mode.ran.clear()
    found = described((run(one, other), one, other))
    assert len(mode.ran) == 1
    assert mode.ran[0] <= 3 * 3  # kinds of three lists
    again = described((run(one, other), one, other))
    assert len(mode.ran) == 1
    monkeypatch.setattr(FakeOpCache, "key", lambda *_: None)
    assert found == again == described((run(one, other), one, other))
    assert len(mode.ran) == 2
    assert mode.ran[1] > mode.ran[0]


def test_lists_of_unequal_lengths_are_refused_as_they_always_are(mode: CountingMode) -> None:
    with pytest.raises(RuntimeError, match="same"):
        torch._foreach_add(mixed(), mixed()[:3])


SEVERAL: list[tuple[str, Callable[[Tensor], Any]]] = [
    ("views of one tensor", lambda x: aten.split_with_sizes.default(x, [1, 2, 5])),
    ("new tensors", lambda x: aten.max.dim(x, 1)),
    ("new tensors and none", lambda x: aten.native_layer_norm_backward(x, x, [8], x[:, :1], x[:, :1], None, None, [True] * 3)),
    ("a view in another dtype", lambda x: x.view(torch.int32)),
    ("the tensor itself", lambda x: x.add_(1)),
]


@pytest.mark.parametrize(("what", "run"), SEVERAL, ids=[what for what, _ in SEVERAL])
def test_results_of_a_second_call_belong_to_its_arguments(what: str, run: Callable[[Tensor], Any], mode: CountingMode) -> None:
    one, other = torch.empty(8, 8), torch.empty(8, 8)
    first = run(one)
    mode.ran.clear()
    second = run(other)
    assert mode.ran == []
    assert described((first, one)) == described((second, other))
    assert type(first) is type(second)


def test_numbers_are_read_as_they_were_written(mode: CountingMode) -> None:
    step = torch.tensor(1.0)
    assert type(step).__name__ == "FakeTensor"
    assert mode.ran == []  # neither the tensor nor its value needs FakeTensorMode
    assert step.item() == 1.0
    view = step.view(1)
    step += 2
    assert (step.item(), view.item()) == (3.0, 3.0)
    assert step.untyped_storage()._cdata == view.untyped_storage()._cdata
    assert (torch.tensor(True).item(), torch.tensor([7]).tolist()) == (True, [7])


def test_two_numbers_of_one_value_are_two(mode: CountingMode) -> None:
    one, other = torch.tensor(1.0), torch.tensor(1.0)
    one.fill_(5.0)
    assert (one.item(), other.item()) == (5.0, 1.0)


def test_a_number_that_is_drawn_is_not_known(mode: CountingMode) -> None:
    number = torch.tensor(1.0)
    number.uniform_()
    with pytest.raises(Exception, match="_local_scalar_dense"):
        number.item()


def test_nothing_put_before_a_tensor_is_a_new_tensor_each_time(mode: CountingMode) -> None:
    x = torch.empty(4, 2)
    first = torch.cat([torch.tensor([]), x])
    mode.ran.clear()
    second = torch.cat([torch.tensor([]), x])
    assert mode.ran == []
    assert described(first) == described(second)
    assert first.untyped_storage()._cdata != second.untyped_storage()._cdata


def test_real_tensors_on_meta_are_noted_unless_the_mode_takes_them(mode: CountingMode) -> None:
    with torch.utils._python_dispatch._disable_current_modes():
        real = [nn.Parameter(torch.empty(64, 64, device="meta")) for _ in range(2)]
    with mode.taking_meta():
        first = torch.empty_like(real[0], device="cpu")
        mode.outside.forget()
        second = torch.empty_like(real[1], device="cpu")
    assert len(mode.ran) == 1
    assert described(first) == described(second)
    assert not list(mode.outside.notes())
    torch.empty_like(real[0], device="cpu")
    assert list(mode.outside.notes())


SHARDED = """
import sys
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
import torchprof

found = torchprof.estimate(lambda: fully_shard(nn.Linear(8, 8)), (4, 8), world_size=2)
assert found.device_memory > 0
print("torch._inductor.graph" in sys.modules)
"""


def test_inductor_is_not_loaded_for_a_program_that_compiles_nothing() -> None:
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", SHARDED], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
