"""A module that writes to itself, all the ways to do that, and what there is to compare afterwards."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["WRITES", "Write", "Written", "everything", "with_gradients"]

Write = Callable[["Written", Tensor], object]


class Written(nn.Module):
    """Has a tensor of every kind, and does to itself what it is told."""

    def __init__(self, write: Write | None = None) -> None:
        super().__init__()
        self.write = write
        self.layer = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.layer.weight
        self.norm = nn.BatchNorm1d(4)
        self.bare = nn.Parameter(torch.arange(6.0).view(2, 3))
        self.flat = torch.arange(8.0)
        self.part = nn.Parameter(self.flat[2:6].view(2, 2))
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("large", torch.zeros(2**19))  # 2 MiB: not copied beforehand
        self.register_buffer("shown", torch.ones(3).expand(5, 3))
        self.register_buffer("none", None)
        self.cache = torch.zeros(3)
        self.queue = [torch.zeros(2)]
        self.nested = {"a": [{"b": torch.ones(2)}], "c": deque([1, 2], maxlen=3), "d": {1, 2}, "e": OrderedDict(x=1, y=2)}
        self.counts: defaultdict[str, int] = defaultdict(int)
        self.hidden = [nn.Linear(2, 2)]
        self.generator = torch.Generator().manual_seed(3)
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.tied(torch.relu(self.layer(x))))
        if self.write is not None:
            with torch.no_grad():
                self.write(self, x)
        return y


def looks(tensor: Tensor | None) -> Any:
    """All that there is to a tensor."""
    if tensor is None:
        return None
    plain = tensor.detach()
    dense = plain.to_dense() if plain.layout != torch.strided else plain
    return {
        "id": id(tensor),
        "type": type(tensor),
        "elements": dense.tolist() if tensor.device.type != "meta" else None,
        "shape": (tensor.shape, tensor.dtype, tensor.layout),
        "strides": (tensor.stride(), tensor.storage_offset()) if tensor.layout == torch.strided else None,
        "storage": tensor.untyped_storage().nbytes() if tensor.layout == torch.strided else None,
        "version": None if tensor.is_inference() else tensor._version,
        "requires_grad": (tensor.requires_grad, tensor.is_leaf, tensor.grad_fn),
        "grad": looks(tensor.grad) if tensor.is_leaf else None,
        "hooks": [len(hooks) for hooks in (tensor._backward_hooks, tensor._post_accumulate_grad_hooks) if hooks],
        "attributes": dict(vars(tensor)),
    }


def everything(value: Any) -> Any:
    """What a module, a container or a tensor consists of, found independently of the recorder."""
    if isinstance(value, Tensor):
        return looks(value)
    if isinstance(value, nn.Module):
        return type(value), id(value), [(name, everything(held)) for name, held in vars(value).items()]
    if isinstance(value, dict):
        return id(value), [(name, everything(held)) for name, held in value.items()]
    if isinstance(value, list | tuple | deque | set):
        return type(value), None if isinstance(value, tuple) else id(value), [everything(held) for held in value]
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    return value


def momentum(model: Written, x: Tensor) -> None:
    model.layer.bias.data = model.layer.bias.data * 0.9 + model.norm.bias.data * 0.1 + 1


def parameters_from_vector(model: Written, x: Tensor) -> None:
    nn.utils.vector_to_parameters(torch.ones(sum(p.numel() for p in model.parameters())), model.parameters())


def backward_inside(model: Written, x: Tensor) -> None:
    with torch.enable_grad():
        model.layer(x).sum().backward()


def step_inside(model: Written, x: Tensor) -> None:
    backward_inside(model, x)
    torch.optim.Adam(model.parameters()).step()
    torch.optim.SGD(model.parameters(), lr=1.0, foreach=True).step()


def buffer_with_history(model: Written, x: Tensor) -> None:
    with torch.enable_grad():
        model.steps.add_(model.layer.bias.sum())


def in_other_thread(model: Written, x: Tensor) -> None:
    def run() -> None:
        with torch.no_grad():
            model.bare.add_(1)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def removes_batch_norm(model: Written, x: Tensor) -> None:
    del model.norm
    model.norm = nn.BatchNorm1d(5)


def replaces_parameter(model: Written, x: Tensor) -> None:
    model.bare = nn.Parameter(torch.ones(2))
    model.bare.mul_(3)


WRITES: dict[str, Write] = {
    "a momentum encoder": momentum,
    "mul_": lambda model, x: model.bare.mul_(2),
    "mul_ through data": lambda model, x: model.bare.data.mul_(2),
    "mul_ through detach": lambda model, x: model.bare.detach().mul_(2),
    "mul_ through a view": lambda model, x: model.bare.view(-1)[1:3].mul_(2),
    "an element": lambda model, x: model.bare.__setitem__((0, 0), 7.0),
    "a mask": lambda model, x: model.bare.__setitem__(model.bare > 2, 7.0),
    "copy_": lambda model, x: model.tied.weight.copy_(torch.ones(4, 4)),
    "out=": lambda model, x: torch.add(model.bare, 1, out=model.bare.data),
    "foreach": lambda model, x: torch._foreach_add_(list(model.parameters()), 1.0),
    "foreach through data": lambda model, x: torch._foreach_mul_([p.data for p in model.parameters()], 0.0),
    "numpy and back": lambda model, x: torch.from_numpy(model.bare.detach().numpy()[1:]).fill_(5),
    "init": lambda model, x: nn.init.normal_(model.bare),
    "data of another size": lambda model, x: setattr(model.bare, "data", torch.ones(5)),
    "data of another dtype": lambda model, x: setattr(model.bare, "data", model.bare.data.double()),
    "data that is transposed": lambda model, x: setattr(model.bare, "data", model.bare.data.t()),
    "set_": lambda model, x: model.bare.set_(torch.ones(7)),
    "t_": lambda model, x: model.large.unsqueeze_(0).t_(),
    "larger": lambda model, x: model.bare.data.resize_(40).fill_(1),
    "smaller and larger": lambda model, x: model.large.resize_(1).resize_(2**20).fill_(1),
    "a storage that moved": lambda model, x: (model.bare.untyped_storage().resize_(4000), model.bare.data.zero_()),
    "a storage that grows": lambda model, x: model.bare.untyped_storage().resize_(4000),
    "requires_grad_": lambda model, x: model.requires_grad_(False),
    "requires_grad_ of a buffer": lambda model, x: model.steps.requires_grad_(),
    "grad": lambda model, x: setattr(model.bare, "grad", torch.ones(2, 3)),
    "no grad": lambda model, x: model.zero_grad(),
    "grad in place": lambda model, x: model.layer.weight.grad.mul_(2),  # type: ignore[union-attr]
    "backward": backward_inside,
    "optimizers": step_inside,
    "vector_to_parameters": parameters_from_vector,
    "a tied parameter": lambda model, x: model.tied.weight.zero_(),
    "a view of a storage": lambda model, x: model.part.data.zero_(),
    "the storage of a view": lambda model, x: model.flat.zero_(),
    "a buffer": lambda model, x: model.steps.add_(1),
    "a large buffer": lambda model, x: model.large.add_(1),
    "a buffer that is expanded": lambda model, x: model.shown[0].add_(1),
    "a new buffer": lambda model, x: setattr(model, "steps", model.steps + 1),
    "a buffer that was None": lambda model, x: setattr(model, "none", x),
    "a buffer with history": buffer_with_history,
    "data of a buffer": lambda model, x: setattr(model.steps, "data", torch.ones(3)),
    "a tensor attribute": lambda model, x: model.cache.add_(1),
    "a new tensor attribute": lambda model, x: setattr(model, "cache", x),
    "a list": lambda model, x: model.queue.append(x),
    "a tensor in a list": lambda model, x: model.queue[0].add_(1),
    "a tensor deep inside": lambda model, x: model.nested["a"][0]["b"].add_(1),  # type: ignore[index]
    "a dict deep inside": lambda model, x: model.nested["a"][0].clear(),  # type: ignore[index]
    "a deque": lambda model, x: model.nested["c"].extend([4, 5]),  # type: ignore[attr-defined]
    "a set": lambda model, x: model.nested["d"].add(9),  # type: ignore[attr-defined]
    "an order": lambda model, x: model.nested["e"].move_to_end("x"),  # type: ignore[attr-defined]
    "a defaultdict": lambda model, x: model.counts["calls"],
    "a module in a list": lambda model, x: model.hidden[0].weight.zero_(),
    "a mode": lambda model, x: model.hidden[0].eval(),
    "a module": removes_batch_norm,
    "a parameter": replaces_parameter,
    "a generator": lambda model, x: torch.rand(3, generator=model.generator),
    "a hook of a module": lambda model, x: model.layer.register_forward_hook(lambda *_: None),
    "a hook of a parameter": lambda model, x: model.bare.register_hook(lambda grad: grad),
    "a hook of gradients": lambda model, x: model.bare.register_post_accumulate_grad_hook(lambda p: None),
    "an attribute of a parameter": lambda model, x: setattr(model.bare, "note", 1),
    "a class": lambda model, x: setattr(model.layer, "__class__", nn.Identity),
    "another thread": in_other_thread,
}


def with_gradients(model: Written) -> Written:
    model(torch.rand(3, 4)).sum().backward()
    return model
