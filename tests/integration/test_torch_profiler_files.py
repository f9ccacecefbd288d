"""A program recorded by torchprof and by torch.profiler at once: the file of the one says what the trace of the other does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, schedule
from torch.profiler import profile as torch_profile
from torch.utils.checkpoint import checkpoint

import torchprof
from torchprof.analysis.autograd import forward_and_backward_ops
from torchprof.analysis.time.totals import step_totals
from torchprof.trace.schema import Phase, phases

STEPS = 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Sequential(nn.ReLU(), nn.Linear(16, 16))
        self.norm, self.conv, self.c = nn.LayerNorm(16), nn.Conv2d(1, 4, 3, padding=1), nn.Linear(16, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        x = self.norm(x + checkpoint(self.b, x, use_reentrant=False))
        return self.c(x + self.conv(x[:, None, None, :].expand(-1, 1, 4, 16)).mean((1, 2)))


def loss_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.mse_loss(model(x), torch.zeros(5, 4))


def training(model: nn.Module, end_step: Callable[[], None]) -> None:
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, torch.randn(5, 8)).backward()
        optimizer.step()
        end_step()


def closures(model: nn.Module, end_step: Callable[[], None]) -> None:
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, torch.ones(5, 8))
        loss.backward()
        return loss

    for _ in range(STEPS):
        optimizer.step(closure)
        end_step()


def loading(model: nn.Module, end_step: Callable[[], None]) -> None:
    for (x,) in torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(5 * STEPS, 8)), batch_size=5):
        loss_of(model, x).backward()
        end_step()


def differentiating_twice(model: nn.Module, end_step: Callable[[], None]) -> None:
    for _ in range(STEPS):
        grads = torch.autograd.grad(loss_of(model, torch.ones(5, 8)), list(model.parameters()), create_graph=True)
        sum((grad**2).sum() for grad in grads).backward()  # type: ignore[union-attr]
        end_step()


def inference(model: nn.Module, end_step: Callable[[], None]) -> None:
    for _ in range(STEPS):
        with torch.no_grad():
            model(torch.ones(5, 8))
        end_step()


class Both(NamedTuple):
    """The trace that torchprof recorded, and that of the file of torch.profiler."""

    recorded: torchprof.Trace
    read: torchprof.Trace


@pytest.fixture(scope="module", params=[training, closures, loading, differentiating_twice, inference])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    torch.manual_seed(0)
    model = Net()
    request.param(model, lambda: None)  # what is made once
    model.zero_grad()
    path = tmp_path_factory.mktemp("both") / "trace.json"
    options = {"record_shapes": True, "profile_memory": True, "with_stack": True}
    in_all = schedule(wait=0, warmup=1, active=100)
    with torchprof.profile(model) as prof:
        with torch_profile(activities=[ProfilerActivity.CPU], schedule=in_all, **options) as peer:  # type: ignore[arg-type]
            peer.step()

            def end_step() -> None:
                peer.step()
                prof.step()

            request.param(model, end_step)
        peer.export_chrome_trace(str(path))
    return Both(prof.trace, torchprof.load(path))


ENGINE = "run_backward(autograd)"


class Op(NamedTuple):
    name: str
    inside: str
    phase: str
    module: str
    scope: int
    shapes: tuple[Any, ...]


def ops_of(trace: torchprof.Trace) -> list[Op]:
    """Every op, and where, without the ranges of steps, of the engine and of ``iter()``, which torch.profiler does not see."""
    names = [trace.strings[name] for name in trace.op_names]
    around = trace.ops["parent"].tolist()
    found = []
    begin = next((row for row, name in enumerate(names) if name.startswith("enumerate(DataLoader)")), 0)
    for row, name, phase in zip(trace.ops[begin:], names[begin:], phases(trace.ops)[begin:].tolist(), strict=True):
        if name.startswith("ProfilerStep") or name == ENGINE:
            continue
        parent = int(row["parent"])
        parent = around[parent] if parent >= 0 and names[parent] == ENGINE else parent
        inside = names[parent] if parent >= 0 else ""
        call = int(row["module_call"])
        module = trace.strings[int(trace.modules["type"][trace.module_calls["module"][call]])] if call >= 0 else ""
        inputs = trace.tensors["shape"][trace.operands[row["inputs"] : row["inputs"] + row["n_inputs"]]]
        shapes = tuple(trace.shape(int(shape)) for shape in inputs)
        # Modules whose parameters an optimizer updates are known by addresses, which the file does not have.
        module = "" if phase == Phase.OPTIMIZER else module.rpartition(".")[2]
        inside = "" if inside.startswith("ProfilerStep") else inside
        found.append(Op(name, inside, Phase(phase).name, module, int(row["scope"]), shapes))
    return found


def test_ops_are_the_same_in_the_same_places(both: Both) -> None:
    recorded, read = ops_of(both.recorded), ops_of(both.read)
    assert [op.name for op in recorded] == [op.name for op in read]
    assert [op for op in recorded if op not in set(read)] == []
    assert recorded == read


def test_flops_are_the_same_by_op(both: Both) -> None:
    def flops(trace: torchprof.Trace) -> dict[str, int]:
        totals, found = step_totals(trace), Counter[str]()
        assert not totals.op_unknown.any()
        for row, count in zip(totals.ops, totals.op_flops, strict=True):
            # The last op that checkpointing recomputes is broken off, which the file does not say.
            if row["phase"] != Phase.RECOMPUTATION:
                found[trace.strings[int(trace.signatures["name"][row["signature"]])]] += int(count)
        return dict(+found)

    assert flops(both.read) == flops(both.recorded) != {}


def test_forward_and_backward_meet(both: Both) -> None:
    def pairs(trace: torchprof.Trace) -> Counter[tuple[str, str]]:
        names = [trace.strings[name] for name in trace.op_names]
        return Counter((names[op], names[node]) for op, node in zip(*forward_and_backward_ops(trace), strict=True))

    assert pairs(both.read) == pairs(both.recorded)


def test_module_calls_are_the_same(both: Both) -> None:
    def calls(trace: torchprof.Trace) -> list[tuple[str, int, int]]:
        types = [trace.strings[int(row)].rpartition(".")[2] for row in trace.modules["type"]]
        return [(types[row["module"]], int(row["parent"]), int(row["flags"]) & 8) for row in trace.module_calls]

    assert calls(both.read) == calls(both.recorded)


def test_steps_have_the_same_memory(both: Both) -> None:
    columns = ["number", "allocated", "peak", "held"]
    recorded, read = (trace.steps[columns].tolist() for trace in both)
    assert len(read) == STEPS
    assert [step[1] for step in read] == [step[1] for step in recorded]
    held = [(step[2] - read[0][3], step[3] - read[0][3]) for step in read]
    assert held == [(step[2] - recorded[0][3], step[3] - recorded[0][3]) for step in recorded]


def test_steps_divide_into_the_same_phases(both: Both) -> None:
    """The two note their times one after the other, so these differ by what noting takes."""
    for row, other in zip(torchprof.by_step(both.read).rows, torchprof.by_step(both.recorded).rows, strict=True):
        for name in ("forward", "recompute", "backward", "optimizer", "data"):
            assert (row[name] > 0) == (other[name] > 0)
        assert sum(row[name] for name in ("forward", "recompute", "backward", "optimizer", "data", "other")) == row["time"]


def test_rows_by_module_add_up_to_the_step(both: Both) -> None:
    rows = torchprof.by_module(both.read).rows
    steps = torchprof.by_step(both.read).rows
    total = sum(row["time"] for row in rows if not row["depth"])
    assert total == pytest.approx(sum(step["time"] for step in steps) / len(steps))
