"""Checks that the figures of an account add up."""

from __future__ import annotations

from collections import Counter

from torchprof import Memory


def peak_adds_up(account: Memory) -> None:
    assert sum(account.by_category.values()) == account.peak.bytes
    assert sum(sum(held.values()) for held in account.by_module.values()) == account.peak.bytes
    by_category: Counter[str] = Counter()
    for held in account.by_module.values():
        by_category.update(held)
    assert {name: count for name, count in account.by_category.items() if count} == dict(by_category)
