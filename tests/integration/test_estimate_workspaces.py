"""What the CPU's kernels need beside their results: networks of little else, estimated and measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from architectures import loss_of
from counting import counted_peak
from test_estimate import measured
from torch import Tensor, linalg, nn

import torchprof
from torchprof.estimation.rules import cpu_workspaces


class Around(nn.Module):
    """A layer, and a function of what it returns."""

    def __init__(self, function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 1024)
        self.function, self.shape = function, shape

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return self.function(y.view(-1, *self.shape))


MATRICES, IMAGES, ROWS = (32, 32), (4, 16, 16), (1024,)

FUNCTIONS: list[tuple[str, tuple[int, ...], Callable[[Tensor], Tensor]]] = [
    ("svd", MATRICES, lambda y: linalg.svd(y, full_matrices=False)[1]),
    ("eigh", MATRICES, lambda y: linalg.eigh(y @ y.mT)[1]),
    ("qr", MATRICES, lambda y: linalg.qr(y)[0]),
    ("cholesky", MATRICES, lambda y: linalg.cholesky(y @ y.mT + torch.eye(32) * 9)),
    ("inv", MATRICES, linalg.inv),
    ("solve", MATRICES, lambda y: linalg.solve(y, y.mT)),
    ("solve_triangular", MATRICES, lambda y: linalg.solve_triangular(y.triu(), y, upper=True)),
    ("lu", MATRICES, lambda y: linalg.lu(y)[2]),
    ("slogdet", MATRICES, lambda y: linalg.slogdet(y)[1]),
    ("pinv", MATRICES, linalg.pinv),
    ("matrix_exp", MATRICES, lambda y: linalg.matrix_exp(y)),
    ("prod", ROWS, lambda y: y.prod(-1)),
    ("prod of all", ROWS, lambda y: y.prod()),
    ("cumprod", ROWS, lambda y: y.cumprod(-1)),
    ("reflect", IMAGES, lambda y: F.pad(y, (2, 2, 2, 2), mode="reflect")),
    ("replicate", IMAGES, lambda y: F.pad(y, (2, 2, 2, 2), mode="replicate")),
    ("bicubic", IMAGES, lambda y: F.interpolate(y, scale_factor=2, mode="bicubic")),
    ("sort", ROWS, lambda y: y.sort(-1)[0]),
    ("mse", ROWS, lambda y: F.mse_loss(y, torch.zeros_like(y))),
    ("huber", ROWS, lambda y: F.huber_loss(y, torch.zeros_like(y))),
    ("fft", ROWS, lambda y: torch.fft.rfft(y).abs()),
    ("grid", IMAGES, lambda y: F.grid_sample(y, torch.zeros(len(y), 8, 8, 2), align_corners=False)),
    ("masks as numbers", ROWS, lambda y: (y > 0) * y),
]


@pytest.mark.parametrize(("shape", "function"), [case[1:] for case in FUNCTIONS], ids=[case[0] for case in FUNCTIONS])
def test_workspaces_of_kernels_are_those_of_the_real_run(shape: tuple[int, ...], function: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, x = Around(function, shape), torch.rand(128, 64)
    found = torchprof.estimate(model, x, optimizer=torch.optim.SGD, loss=loss_of, device="cpu")
    assert found.max_allocated == pytest.approx(measured(model, {"x": x}, torch.optim.SGD), rel=0.003)


def test_a_formula_that_fails_leaves_the_recorder_as_it_was() -> None:
    def step(model: nn.Module, optimizer: object, x: Tensor) -> None:
        y = model(x)
        y.grad_fn.register_prehook(lambda gradients: (gradients[0][:, :3],))  # of another shape
        y.backward(torch.ones_like(y))

    with pytest.raises(RuntimeError):
        torchprof.estimate(Around(lambda y: y.cumprod(-1), ROWS), (8, 64), step=step, device="cpu")
    with torchprof.profile() as prof:
        torch.ones(1000) + 1
    assert len(prof.trace.ops) > 0


# Calls that are too large to be run as a whole.

LARGE: list[tuple[str, Callable[[], nn.Module], tuple[int, ...]]] = [
    ("a large weight", lambda: nn.Sequential(nn.Conv2d(64, 1024, 7), nn.Flatten()), (4, 64, 7, 7)),
    ("many images", lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)), (64, 3, 40, 40)),
    ("groups", lambda: nn.Conv2d(32, 32, 3, groups=32), (64, 32, 32, 32)),
    ("transposed", lambda: nn.ConvTranspose2d(16, 16, 3, stride=2), (64, 16, 24, 24)),
    ("one dimension", lambda: nn.Conv1d(64, 64, 9), (128, 64, 256)),
    ("group norm", lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16)), (64, 3, 40, 40)),
    ("sort", lambda: Around(lambda y: y.sort(-1)[0], ROWS), (2048, 64)),
    ("bicubic", lambda: Around(lambda y: F.interpolate(y, scale_factor=2, mode="bicubic"), IMAGES), (1024, 64)),
    ("solve", lambda: Around(lambda y: linalg.solve(y, y.mT), MATRICES), (2048, 64)),
]


@pytest.mark.parametrize(("make", "shape"), [case[1:] for case in LARGE], ids=[case[0] for case in LARGE])
def test_large_calls_need_what_parts_of_them_do(
    make: Callable[[], nn.Module], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_workspaces, "LARGEST", 2**22)
    monkeypatch.setattr(cpu_workspaces, "SMALL", 2**21)
    torch.manual_seed(0)
    model, x = make(), torch.rand(shape)
    found = torchprof.estimate(model, x, optimizer=torch.optim.SGD, loss=loss_of, device="cpu")
    assert found.unmeasured == 0
    name = "x" if isinstance(model, Around) else "input"
    assert found.max_allocated == pytest.approx(measured(model, {name: x}, torch.optim.SGD), rel=0.005)


def test_the_layouts_of_a_convolution_of_400_megabytes_are_counted() -> None:
    weight = 4096 * 512 * 49 * 4

    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(512, 4096, 7), nn.Flatten())

    found = torchprof.estimate(build, (4, 512, 7, 7), device="cpu")
    # The weight, its gradient, and layouts of oneDNN's: one or two of them, by what the CPU can compute.
    model, x = build(), torch.ones(4, 512, 7, 7)
    real = counted_peak(lambda: model(x).sum().backward(), [*model.parameters(), x])
    assert found.max_allocated == pytest.approx(real, rel=0.001)
    assert real > 2.9 * weight


class FromExpanded(nn.Module):
    """Multiplies what is one row, expanded to many."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.ones(1, 256))
        self.last = nn.Linear(256, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.row.expand(len(x), 256)) + x


@pytest.mark.parametrize(
    ("build", "size", "loss"),
    [
        (lambda: nn.Linear(32, 64, bias=False), (4096, 32), None),  # the gradient of a sum is expanded
        (lambda: nn.Sequential(nn.Linear(32, 64), nn.GELU()), (4096, 32), None),
        (lambda: nn.Sequential(nn.Linear(32, 64), nn.Softmax(-1)), (4096, 32), None),
        (lambda: FromExpanded(), (4096, 4), lambda out: out.pow(2).sum()),
    ],
)
def test_copies_of_what_is_expanded_count(build: Any, size: tuple[int, ...], loss: Any) -> None:
    found = torchprof.estimate(build, size, device="cpu", **({"loss": loss} if loss else {}))
    model, x = build(), torch.rand(size)

    def step() -> None:
        out = model(x)
        (loss(out) if loss else out.sum()).backward()

    assert found.max_allocated == pytest.approx(counted_peak(step, [*model.parameters(), x]), rel=0.01)
