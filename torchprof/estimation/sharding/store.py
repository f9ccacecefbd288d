"""The store of a world that is not there: what a rank has set itself it can read, and what another would set is an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NoReturn

import torch.distributed as dist

from torchprof.errors import EstimateError
from torchprof.wording import shown

__all__ = ["StoreOfRank"]

PREFIX: Final = "//"
"""Stands between the name of a process group and a key."""


class StoreOfRank(dist.Store):  # type: ignore[name-defined,misc]
    """What ``torch.distributed`` keeps for the ranks to tell each other, of which one is there: nobody waits.

    Methods are called by the names that they have in C++.
    """

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, bytes] = {}

    def set(self, key: str, value: Any) -> None:
        self._values[key] = value.encode() if isinstance(value, str) else bytes(value)

    def get(self, key: str) -> bytes:
        self.wait([key])
        return self._values[key]

    def wait(self, keys: Sequence[str], timeout: Any = None) -> None:
        if missing := [key for key in keys if key not in self._values]:
            _refuse(f"waits for {', '.join(map(_key, missing))} of its store")

    def check(self, keys: Sequence[str]) -> bool:
        self.wait(keys)
        return True

    def multi_set(self, keys: Sequence[str], values: Sequence[Any]) -> None:
        for key, value in zip(keys, values, strict=True):
            self.set(key, value)

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        return [self.get(key) for key in keys]

    def add(self, key: str, amount: int) -> int:
        _refuse(f"counts at {_key(key)} of its store")

    def compare_set(self, key: str, expected: Any, desired: Any) -> bytes:
        _refuse(f"compares {_key(key)} of its store")

    def append(self, key: str, value: Any) -> None:
        _refuse(f"appends to {_key(key)} of its store")

    def deleteKey(self, key: str) -> bool:
        return self._values.pop(key, None) is not None

    def getNumKeys(self) -> int:
        _refuse("counts the keys of its store")

    def clone(self) -> StoreOfRank:
        return self


def _key(key: str) -> str:
    """As the program said it."""
    return shown(key.partition(PREFIX)[2] or key)


def _refuse(does: str) -> NoReturn:
    raise EstimateError(
        f"the program {does}, where ranks of torch.distributed tell each other what they know, and no other rank is there: "
        "leave it out, or use what this rank knows itself"
    )
