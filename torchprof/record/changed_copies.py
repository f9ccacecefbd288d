"""Copies of containers and objects with other tensors in them. The originals stay as they are."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from torchprof.record.nested import find_tensors

__all__ = ["moved", "with_tensors"]

Change = Callable[[torch.Tensor], torch.Tensor]


def with_tensors(value: Any, change: Change) -> Any:
    """The same value with ``change(tensor)`` in place of every tensor in it. What has no tensors is not copied.

    Containers and objects keep their class. Objects are copied by ``copy.copy``, and what they refer to likewise.
    """
    return _Copy(change).of(value)


def moved(value: Any, device: torch.device) -> Any:
    """The same value with its tensors on a device. An object that has a method ``to`` moves itself: a copy of it does."""
    return _Copy(lambda tensor: tensor.to(device), device).of(value)


class _Copy:
    def __init__(self, change: Change, device: torch.device | None = None) -> None:
        self._change = change
        self._device = device
        self._made: dict[int, Any] = {}

    def of(self, value: Any) -> Any:
        if id(value) in self._made:
            return self._made[id(value)]
        if isinstance(value, nn.Module) or not find_tensors(value):
            return value
        self._made[id(value)] = made = self._change(value) if isinstance(value, torch.Tensor) else self._of(value)
        return made

    def _of(self, value: Any) -> Any:
        if isinstance(value, PackedSequence):  # which keeps its batch sizes on the CPU
            moved: Any = value
            return moved.to(self._device) if self._device is not None else type(value)(*map(self.of, value))
        if isinstance(value, Mapping):
            return self._mapping(value)
        if isinstance(value, list):
            made = copy.copy(value)
            self._made[id(value)] = made  # it may contain itself
            made[:] = map(self.of, value)
            return made
        if isinstance(value, tuple):
            return type(value)(*map(self.of, value)) if hasattr(value, "_fields") else type(value)(map(self.of, value))
        if isinstance(value, deque):
            return type(value)(map(self.of, value), value.maxlen)
        if isinstance(value, set | frozenset):
            return type(value)(map(self.of, value))
        return self._object(value)

    def _mapping(self, value: Mapping[Any, Any]) -> Any:
        try:
            made: Any = copy.copy(value)
            self._made[id(value)] = made
            for key, item in value.items():
                made[key] = self.of(item)
        except TypeError:  # nothing can be assigned to
            made = {key: self.of(item) for key, item in value.items()}
        return made

    def _object(self, value: Any) -> Any:
        made = copy.copy(value)
        if self._device is not None and callable(getattr(made, "to", None)):
            there = made.to(self._device)
            return made if there is None else there
        self._made[id(value)] = made
        for name in _attributes(made):
            try:
                object.__setattr__(made, name, self.of(object.__getattribute__(made, name)))
            except AttributeError:  # a slot without a value
                continue
        return made


def _attributes(value: Any) -> list[str]:
    """Names of what lies in its dictionary and in its slots."""
    names = list(getattr(value, "__dict__", ()))
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            private = name.startswith("__") and not name.endswith("__")
            names.append(f"_{cls.__name__.lstrip('_')}{name}" if private else name)
    return [name for name in names if name not in ("__dict__", "__weakref__")]
