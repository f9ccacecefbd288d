"""Which ranks of a world are equal, found by looking at few of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from torchprof.estimation.sharding.kinds_of_ranks import KindOfRank, classes_of_ranks, told_kinds


class Counted:
    """A signature that counts how many ranks it was asked for."""

    def __init__(self, of: Callable[[int], Any]) -> None:
        self.of, self.asked = of, 0

    def __call__(self, rank: int) -> Any:
        self.asked += 1
        return self.of(rank)


def test_equal_ranks_are_one_class_and_few_are_looked_at() -> None:
    signature = Counted(lambda rank: 0)
    assert classes_of_ranks(1024, signature) == {0: 1024}
    assert signature.asked == 2


def test_of_a_few_ranks_each_is_looked_at() -> None:
    assert classes_of_ranks(4, lambda rank: rank % 2) == {0: 2, 1: 2}
    assert classes_of_ranks(3, lambda rank: rank == 1) == {0: 2, 1: 1}
    assert classes_of_ranks(1, lambda rank: rank) == {0: 1}


def rows_of(size: int, ranks: int) -> Callable[[int], int]:
    """How many rows each rank has of so many, as FSDP and DTensor divide them."""
    each = -(-size // ranks)
    return lambda rank: max(0, min(each, size - rank * each))


@pytest.mark.parametrize(("size", "ranks"), [(1000, 64), (64, 64), (3, 32), (33, 32), (1, 17), (100, 99)])
def test_uneven_shards_are_classes_of_their_own(size: int, ranks: int) -> None:
    of = rows_of(size, ranks)
    expected: dict[int, int] = {}
    firsts: dict[int, int] = {}
    for rank in range(ranks):
        first = firsts.setdefault(of(rank), rank)
        expected[first] = expected.get(first, 0) + 1
    signature = Counted(of)
    assert classes_of_ranks(ranks, signature) == expected
    assert signature.asked <= 3 + 2 * 8


def test_ranks_differ_along_each_dimension_of_a_mesh() -> None:
    def signature(rank: int) -> Any:
        return rank // 8 > 100, rank % 8 == 7

    assert classes_of_ranks(1024, signature, (128, 8)) == {0: 101 * 7, 7: 101, 808: 27 * 7, 815: 27}


def test_a_mesh_of_other_ranks_tells_nothing() -> None:
    assert classes_of_ranks(20, lambda rank: rank < 19, (2, 4)) == {0: 19, 19: 1}


@pytest.mark.parametrize(
    ("kinds", "text"),
    [
        ((KindOfRank(0, 8, 2**30),), "Of rank 0 of 8: all are equal"),
        (
            (KindOfRank(3, 2, 3 * 2**30), KindOfRank(0, 1, 2 * 2**30), KindOfRank(1, 5, 2**29)),
            "Of rank 3 of 8, which needs most: rank 3 and 1 other: 3,072.0 MiB; rank 0: 2,048.0 MiB; "
            "rank 1 and 4 others: 512.0 MiB",
        ),
    ],
)
def test_kinds_are_told_in_words(kinds: tuple[KindOfRank, ...], text: str) -> None:
    assert list(told_kinds(kinds, kinds[0].rank, 8)) == [text]
