"""Real tensors that a program reaches around the fake ones: through a closure, a global, an object that nobody looked into."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import nn

from torchprof.estimation.torch_private import ESTIMATE
from torchprof.record.nested import find_tensors
from torchprof.rendering.units import format_bytes
from torchprof.wording import counted

__all__ = ["Outside"]

FakeTensor = ESTIMATE.FakeTensor
LIFTS: Final = frozenset({torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default})
"""Ops that are given the constants of the program, such as ``torch.tensor(3)``."""


class Outside:
    """The real tensors that were met."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}  # of storages
        self._gradients: dict[int, tuple[torch.Tensor, torch.Tensor | None]] = {}  # of tensors that backward may give one
        self._numbers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # real ones, and the fake ones for them

    def meet(self, func: Any, values: Any) -> None:
        """To be called with the arguments of an op."""
        for tensor in find_tensors(values):
            if isinstance(tensor, FakeTensor) or func in LIFTS:
                continue
            if tensor.layout is torch.strided and tensor.dim():
                storage = tensor.untyped_storage()
                self._sizes[storage._cdata] = storage.nbytes()
            if tensor.requires_grad and tensor.is_leaf and id(tensor) not in self._gradients:
                self._gradients[id(tensor)] = tensor, tensor.grad

    def with_numbers(self, mode: Any, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments with fake tensors of known value in place of real ones of a single number, such as a learning rate.

        Their values are copies: what the program writes to them it reads again, and the real ones stay as they are.
        """
        if func in LIFTS or not any(map(_is_number, find_tensors((args, kwargs)))):
            return args, kwargs

        def known(tensor: torch.Tensor) -> torch.Tensor:
            if not _is_number(tensor):
                return tensor
            if id(tensor) not in self._numbers:
                with ESTIMATE.disable_modes():
                    copied = tensor.clone()
                fake = mode.fake_tensor_converter.from_real_tensor(mode, copied, make_constant=True)
                self._numbers[id(tensor)] = tensor, fake
            return self._numbers[id(tensor)][1]

        found: tuple[Any, Any] = ESTIMATE.tree_map_only(torch.Tensor, known, (args, kwargs))
        return found

    def forget(self) -> None:
        """Those that were met so far are no part of the program any more."""
        self._sizes.clear()
        self._gradients.clear()
        self._numbers.clear()

    def put_back(self) -> None:
        """Backward has given them fake gradients."""
        for tensor, gradient in self._gradients.values():
            if tensor.grad is not gradient:
                tensor.grad = gradient

    def parameters_of(self, model: nn.Module) -> list[str]:
        """Those of a model, by name."""
        return [name for name, parameter in model.named_parameters() if id(parameter) in self._gradients]

    def notes(self) -> Iterable[str]:
        if self._sizes:
            size = format_bytes(sum(self._sizes.values()))
            yield f"{counted(len(self._sizes), 'tensor')} that the program holds beside model and inputs: {size}"


def _is_number(tensor: torch.Tensor) -> bool:
    plain = type(tensor) is torch.Tensor and tensor.layout is torch.strided
    return plain and tensor.device.type == "cpu" and tensor.numel() == 1 and not tensor.requires_grad
