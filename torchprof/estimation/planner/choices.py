"""All configurations that are to be tried, and which combinations are none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from math import prod
from typing import Any, Final, NamedTuple

from torchprof.arguments import is_int
from torchprof.errors import ArgumentError, ModuleTypeError
from torchprof.estimation.planner.choice import FIELDS, MESH, Choice, is_size
from torchprof.estimation.sharding.hosts import MOST_RANKS
from torchprof.wording import shown

__all__ = ["Choices", "choices_of"]

MOST: Final = 10_000
"""Combinations, of which more would not be estimated in a day."""


class Choices(NamedTuple):
    """What is to be tried.

    Attributes:
        choices: the configurations.
        left_out: of combinations that are none, why, and how many there are.
        names: of what is tried, as it was given.
    """

    choices: tuple[Choice, ...]
    left_out: dict[str, int]
    names: tuple[str, ...]


def choices_of(
    gpus: Any, batch: Any, sequence: Any, tokens_per_step: Any, over: Any, known: Callable[[Choice], str] = lambda choice: ""
) -> Choices:
    """Every combination of these.

    Args:
        gpus, batch, sequence: numbers, each one or several.
        tokens_per_step: tokens of a step of the optimizer, of all ranks; None: as many as ranks have at once.
        over: one value or several by name; ``...`` for what the other dimensions of the mesh leave of the ranks.
        known: why a choice cannot be; empty where it can.

    Raises:
        ArgumentError, ModuleTypeError: they are no such numbers, or no combination can be.
    """
    counts = _numbers("gpus", gpus, "how many GPUs, such as 8, or (8, 16, 32, 64)")
    if max(counts) > MOST_RANKS:
        raise ArgumentError(f"gpus={shown(gpus)} has more than the {MOST_RANKS:,} GPUs that can be estimated: give fewer")
    batches = _numbers("batch", batch, "how many samples a rank has at once, such as 1, or (1, 2, 4)")
    sequences = [None] if sequence is None else _numbers("sequence", sequence, "how many tokens a sample has, such as 8192")
    if tokens_per_step is not None and not is_int(tokens_per_step, 1):
        raise ArgumentError(
            f"tokens_per_step={shown(tokens_per_step)} must be how many tokens a step of the optimizer has, of all ranks, such "
            "as 4 * 2**20; or None for as many as the ranks have at once"
        )
    if tokens_per_step is not None and sequence is None:
        raise ArgumentError(
            f"tokens_per_step={tokens_per_step:,} needs sequence=, the tokens of a sample; where a sample is one, sequence=1"
        )
    values = _values(over)
    combinations = len(counts) * len(batches) * len(sequences) * prod(map(len, values.values()))
    if combinations > MOST:
        raise ArgumentError(f"over= gives {combinations:,} combinations, and at most {MOST:,} are tried: give fewer values")
    found: list[Choice] = []
    left_out: dict[str, int] = {}
    for count, samples, tokens, *chosen in product(counts, batches, sequences, *values.values()):
        made = _choice(count, samples, tokens, dict(zip(values, chosen, strict=True)), tokens_per_step)
        if isinstance(made, Choice) and (why := known(made)):
            made = why
        if isinstance(made, str):
            left_out[made] = left_out.get(made, 0) + 1
        elif not any(_same(made, other) for other in found):
            found.append(made)
    if not found:
        raise ArgumentError(f"gpus={shown(gpus)} and over={shown(over)} leave nothing to try: {'; '.join(left_out)}")
    return Choices(tuple(found), left_out, tuple(values))


def _same(one: Choice, other: Choice) -> bool:
    return one == other and [*map(type, one.over.values())] == [*map(type, other.over.values())]


def _choice(gpus: int, batch: int, sequence: int | None, over: dict[str, Any], tokens: int | None) -> Choice | str:
    """The choice, or why there is none."""
    sizes = prod(over[name] for name in MESH if is_size(over.get(name)))
    if gpus % sizes:
        named = " x ".join(f"{name} {over[name]}" for name in MESH if is_size(over.get(name)))
        return f"{named} does not divide {gpus} GPUs"
    over = {name: gpus // sizes if value is ... else value for name, value in over.items()}
    made = Choice(gpus, batch, sequence, 1, over)
    if tokens is None or made.tokens is None:
        return made
    if tokens % made.tokens:
        return (
            f"{tokens:,} tokens per step are no multiple of the {made.tokens:,} that {made.data_ranks} x batch {batch} of "
            f"{sequence:,} have at once"
        )
    return Choice(gpus, batch, sequence, tokens // made.tokens, over)


def _numbers(name: str, given: Any, what: str) -> list[int]:
    numbers = list(_several(given))
    if not numbers or not all(is_int(number, 1) for number in numbers):
        raise ArgumentError(f"{name}={shown(given)} must be {what}")
    return list(dict.fromkeys(numbers))


def _values(over: Any) -> dict[str, list[Any]]:
    if not isinstance(over, Mapping):
        raise ModuleTypeError(f"over must be a dict of values by name, such as {{'tp': (1, 2, 4)}}, not {type(over).__name__}")
    found: dict[str, list[Any]] = {}
    for name, given in over.items():
        if not isinstance(name, str) or not name.isidentifier() or hasattr(Choice, name) or name in FIELDS:
            taken = f"{name!r} is none that a value can have" if isinstance(name, str) else f"{shown(name)} is no name"
            raise ArgumentError(f"over={shown(over)} has names as Python has them, and {taken}: call it otherwise")
        values: list[Any] = []
        for value in _several(given):
            if not any(type(value) is type(other) and value == other for other in values):
                values.append(value)
        if not values:
            raise ArgumentError(f"over={shown(over)} has nothing to try for {name!r}: give one value, or several")
        if name in MESH and any(is_size(value) and value < 1 for value in values):
            raise ArgumentError(f"over={shown(over)}: {name!r} is how many ranks there are along it, at least 1")
        found[name] = values
    rest = [name for name, values in found.items() if ... in values]
    if len(rest) > 1 or any(name not in MESH for name in rest):
        raise ArgumentError(
            f"over={shown(over)} has ... for {' and '.join(map(repr, rest))}: it stands for the ranks that the others "
            f"leave, for one of {', '.join(map(repr, MESH))}"
        )
    return found


def _several(given: Any) -> Iterator[Any]:
    """One value, or each of several."""
    if isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping | type):
        yield from given
    else:
        yield given
