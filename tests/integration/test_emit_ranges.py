"""`torchprof.emit_ranges`: modules as ranges of another profiler, here of a stand-in that keeps what it is given."""

from __future__ import annotations

import copy
import io
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import torchprof


class Stack:
    """Keeps what was open as lines, indented, for each thread."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depths: dict[int, int] = {}

    @property
    def depth(self) -> int:
        return sum(self.depths.values())

    def range_push(self, msg: str) -> None:
        depth = self.depths.get(threading.get_ident(), 0)
        self.lines.append("  " * depth + msg)
        self.depths[threading.get_ident()] = depth + 1

    def range_pop(self) -> None:
        self.depths[threading.get_ident()] -= 1
        assert self.depths[threading.get_ident()] >= 0


class Block(nn.Module):
    """Has work of its own between that of its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).sin()) * 2


class Net(nn.Module):
    """A module that is called twice, one that writes in place, and views."""

    def __init__(self, reentrant: bool | None = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.block = Block()
        self.act = nn.ReLU(inplace=True)
        self.flat = nn.Flatten(0)
        self.reentrant = reentrant

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for _ in range(2):
            x = self.block(x) if self.reentrant is None else checkpoint(self.block, x, use_reentrant=self.reentrant)
        x = self.act(x + 0)
        y: Tensor = self.flat(x * 1)
        y.mul_(2)
        return y


IDS = torch.arange(4)
BLOCK = """
  block
    block.norm
    block.up
    block.down
"""
BACKWARD_OF_BLOCK = """
  block backward
    block.down backward
    block.up backward
    block.norm backward
"""
FORWARD = f"Net\n  embed{BLOCK.rstrip()}{BLOCK}  act\n  flat\n"
# The view that `flat` made is another one since it was written to, and so is its node of autograd.
BACKWARD = f"Net backward\n  act backward{BACKWARD_OF_BLOCK.rstrip()}{BACKWARD_OF_BLOCK}  embed backward\n"


def emitted(run: Callable[[Net], object], model: Net | None = None) -> str:
    stack = Stack()
    model = model or Net()
    with torchprof.emit_ranges(model, stack):
        run(model)
        assert not torch._C._current_graph_task_id() >= 0
        assert stack.depth == 0, "each range ends with its module or its backward"
    return "".join(f"{line}\n" for line in stack.lines)


def test_ranges_nest_forward_and_backward() -> None:
    assert emitted(lambda model: model(IDS).sum().backward()) == FORWARD + BACKWARD


def test_a_graph_that_is_kept_can_be_gone_through_again() -> None:
    def twice(model: Net) -> None:
        loss = model(IDS).sum()
        loss.backward(retain_graph=True)
        loss.backward()

    assert emitted(twice) == FORWARD + BACKWARD * 2


def test_without_gradients_there_is_no_backward() -> None:
    for mode in (torch.no_grad, torch.inference_mode):

        def run(model: Net, mode: Callable[[], Any] = mode) -> None:
            with mode():
                model(IDS)

        assert emitted(run) == FORWARD


def test_recomputation_is_forward_inside_backward() -> None:
    found = emitted(lambda model: model(IDS).sum().backward(), Net(reentrant=False)).removeprefix(FORWARD)
    recomputed = "".join(f"    {line}\n" for line in BLOCK.strip("\n").splitlines())
    begins = BACKWARD_OF_BLOCK.lstrip("\n").splitlines(keepends=True)
    of_block = "".join([*begins[:2], recomputed, *begins[2:]])
    assert found == f"Net backward\n  act backward\n{of_block}{of_block}  embed backward\n"


def test_reentrant_checkpoints_have_the_backward_of_what_they_recompute() -> None:
    found = emitted(lambda model: model(IDS).sum().backward(), Net(reentrant=True)).removeprefix(FORWARD)
    of_block = BLOCK.lstrip("\n") + BACKWARD_OF_BLOCK.lstrip("\n")
    assert found == f"Net backward\n  act backward\n{of_block}{of_block}  embed backward\n"


def test_parts_of_a_graph_have_the_ranges_of_what_runs() -> None:
    def to_the_weight_of_a_norm(model: Net) -> None:
        loss = model(IDS).sum()
        torch.autograd.grad(loss, model.block.norm.weight)

    found = emitted(to_the_weight_of_a_norm)
    assert found.startswith(FORWARD + "Net backward\n")
    assert "embed backward" not in found


def test_an_inner_module_that_raises_ends_its_ranges() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise LookupError("no weights")

    stack = Stack()
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Fails()))
    with torchprof.emit_ranges(model, stack):
        for _ in range(2):
            with pytest.raises(LookupError, match="no weights"):
                model(torch.ones(1, 4))
            assert stack.depth == 0
    assert stack.lines == ["Sequential", "  0", "  1", "    1.0"] * 2


def test_an_interrupt_leaves_no_range_open() -> None:
    class Interrupted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 0:
                raise KeyboardInterrupt
            return x

    stack = Stack()
    model = nn.Sequential(Interrupted())
    with torchprof.emit_ranges(model, stack):
        with pytest.raises(KeyboardInterrupt):
            model(torch.ones(1))
        model(torch.zeros(1))
        assert stack.depth == 0, "hooks are not told of an interrupt: the next call puts it right"
        with pytest.raises(KeyboardInterrupt):
            model(torch.ones(1))
    assert stack.depth == 0
    assert stack.lines == ["Sequential", "  0"] * 3


class Raises(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise LookupError("no gradient")


def test_a_backward_that_raises_leaves_no_range_open() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = Raises.apply(x)
            return made

    stack = Stack()
    model = nn.Sequential(nn.Linear(4, 4), Fails())
    with torchprof.emit_ranges(model, stack):
        for _ in range(2):
            with pytest.raises(LookupError, match="no gradient"):
                model(torch.ones(1, 4)).sum().backward()
    assert stack.depth == 0
    assert stack.lines == ["Sequential", "  0", "  1", "Sequential backward", "  1 backward"] * 2


def test_several_outputs_and_inputs_nest() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
            return {"out": [self.a(x), self.b(x)]}

    def lines(of: Callable[[list[Tensor]], Tensor]) -> list[str]:
        stack, model = Stack(), Two()
        with torchprof.emit_ranges(model, stack):
            x = torch.ones(1, 4, requires_grad=True) * 2
            of(model(x)["out"]).backward()
        assert stack.depth == 0
        return stack.lines[3:]

    assert lines(lambda out: (out[0] + out[1]).sum()) == ["Two backward", "  b backward", "  a backward"]
    assert lines(lambda out: out[0].sum()) == ["Two backward", "  a backward"]


def test_two_models_one_after_the_other_are_side_by_side() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    stack = Stack()
    with torchprof.emit_ranges({"generator": first, "critic": second}, stack):
        second(first(torch.ones(1, 4)).tanh()).sum().backward()
    assert stack.lines == ["generator", "critic", "critic backward", "generator backward"]


def gradients(model: Net, is_emitted: bool) -> list[Tensor]:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
        parameter.grad = None
    if not is_emitted:
        loss = model(IDS).square().sum()
        loss.backward()
    else:
        with torchprof.emit_ranges(model, Stack()):
            loss = model(IDS).square().sum()
            loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_results_are_the_same_to_the_bit(reentrant: bool | None) -> None:
    model = Net(reentrant)
    plain, observed = gradients(model, False), gradients(model, True)
    assert len(plain) == 8
    assert all(torch.equal(a, b) for a, b in zip(plain, observed, strict=True))


def test_outputs_are_not_wrapped_and_hooks_are_gone_afterwards() -> None:
    model = Net()
    plain = type(model(IDS).grad_fn)
    with torchprof.emit_ranges(model, Stack()):
        out = model(IDS)
        assert type(out.grad_fn) is plain
        out.add_(1)  # which the views of full backward hooks do not allow
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._forward_hooks_always_called
    out.sum().backward()  # what is left of the hooks does nothing


def test_a_copy_and_a_file_of_the_model_can_be_made_and_used() -> None:
    stack, model = Stack(), nn.Sequential(nn.Linear(4, 4))
    with torchprof.emit_ranges(model, stack):
        copied = copy.deepcopy(model)
        file = io.BytesIO()
        torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for each in (copied, loaded):
        each(torch.ones(1, 4)).sum().backward()
    assert stack.lines == []


@pytest.mark.parametrize("compiled_before", [False, True])
def test_compiled_code_is_the_same_graph_and_has_ranges_around_it(compiled_before: bool) -> None:
    graphs: list[Any] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 4)))
    compiled = torch.compile(model, backend=backend)
    x = torch.ones(2, 4)
    expected = model(x)
    if compiled_before:
        compiled(x)
    stack = Stack()
    with torchprof.emit_ranges(compiled, stack):
        for _ in range(2):
            out = compiled(x)
            assert torch.equal(out, expected)
            out.sum().backward()
        assert stack.depth == 0
    compiled(x)
    assert len(graphs) == 1, "one graph, made once"
    assert stack.lines == ["OptimizedModule", "OptimizedModule backward"] * 2
    torch._dynamo.reset()


def test_modules_that_were_compiled_in_place_have_none() -> None:
    torch._dynamo.reset()
    stack, model = Stack(), nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)))
    model[1].compile(backend="eager")
    with torchprof.emit_ranges(model, stack):
        model(torch.ones(1, 4)).sum().backward()
    assert stack.lines == ["Sequential", "  0", "Sequential backward", "  0 backward"]
    torch._dynamo.reset()


def test_ranges_go_to_itt() -> None:
    if not torch.profiler.itt.is_available():
        pytest.skip("this PyTorch was built without ITT")
    with torchprof.emit_ranges(Net(), "itt") as ranges:
        assert ranges is not None


def test_a_pytorch_without_nvtx_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> None:
        raise RuntimeError("NVTX functions not installed. Are you sure you have a CUDA build?")

    monkeypatch.setattr(torch.cuda.nvtx, "range_push", missing)
    with pytest.raises(torchprof.UnsupportedTorchError, match=r"to='nvtx': this torch .* was built without NVTX"):
        torchprof.emit_ranges(Net())


def test_ranges_go_to_nvtx(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack()
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", stack.range_push)
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", stack.range_pop)
    model = Net()
    with torchprof.emit_ranges(model, "nvtx", backward=False):
        model(IDS).sum().backward()
    assert stack.lines == ["torchprof", *FORWARD.splitlines()], "the first one was to see whether there is a library"
    assert stack.depth == 0


def test_bad_arguments_are_named() -> None:
    with pytest.raises(torchprof.ArgumentError, match="to='vtune' must be"):
        torchprof.emit_ranges(Net(), "vtune")  # type: ignore[arg-type]
    with pytest.raises(torchprof.ArgumentError, match="to=3 must be"):
        torchprof.emit_ranges(Net(), 3)  # type: ignore[arg-type]
    for model in (None, 3, []):
        with pytest.raises(torchprof.ModuleTypeError, match="model must be"):
            torchprof.emit_ranges(model, Stack())  # type: ignore[arg-type]


def test_the_block_cannot_be_entered_inside_itself() -> None:
    with torchprof.emit_ranges(Net(), Stack()) as ranges, pytest.raises(torchprof.RecordingError, match="already"):
        ranges.__enter__()


def test_it_works_beside_a_recording() -> None:
    model, stack = Net(), Stack()
    with torchprof.profile(model) as prof, torchprof.emit_ranges(model, stack):
        model(IDS).sum().backward()
    assert "".join(f"{line}\n" for line in stack.lines) == FORWARD + BACKWARD
    assert len(prof.trace.module_calls) == 12
