"""``estimate(world_size=...)`` of collectives whose tensors do not fit: real ranks raise, and so does an estimate."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import talking
import torch
import torch.distributed as dist
from talking import ROWS, WIDTH, Talk
from torch import Tensor
from torch.distributed import _functional_collectives as functional

from torchprof import Estimate, EstimateError


def rows(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(count, WIDTH, dtype=dtype)


WRONG: Final[dict[str, tuple[Talk, str]]] = {
    "gathers too few": (lambda x: dist.all_gather_into_tensor(rows(5), x), "output is 5 x 64, and must have 2 times"),
    "gathers halves": (lambda x: dist.all_gather_into_tensor(rows(16, torch.half), x), "output is of torch.float16"),
    "scatters too few": (lambda x: dist.reduce_scatter_tensor(rows(3), x), "input is 8 x 64, and must have 2 times .* 384"),
    "sends more than comes": (lambda x: dist.all_to_all_single(rows(6), x), "output is 6 x 64, and the input 8 x 64"),
    "splits too few": (lambda x: dist.all_to_all_single(rows(8), x, [4, 4], [3, 4]), r"input_split_sizes=\[3, 4\] add up to 7"),
    "receives too few": (lambda x: dist.all_to_all_single(rows(8), x, [4, 3], [4, 4]), r"output_split_sizes=\[4, 3\] add up"),
    "splits for one": (
        lambda x: dist.all_to_all_single(rows(8), x, [8], [8]),
        r"output_split_sizes=\[8\] must have one number",
    ),
    "splits too few of a functional one": (
        lambda x: vars(functional)["all_to_all_single"](x, [4, 4], [3, 4], dist.group.WORLD) + 0,
        r"input_split_sizes=\[3, 4\] add up to 7",
    ),
    "gathers for one": (lambda x: dist.all_gather([rows(8)], x), "list of outputs has 1 tensor, and must have one for each"),
    "its own is less": (lambda x: dist.all_gather([rows(7), rows(7)], x), "number 0 of the outputs is 7 x 64"),
    "scatters for one": (lambda x: dist.reduce_scatter(x, [rows(8)]), "list of inputs has 1 tensor"),
    "reduces less": (lambda x: dist.reduce_scatter(x, [rows(3), rows(3)]), "number 0 of the inputs is 3 x 64"),
    "exchanges with one": (lambda x: dist.all_to_all([rows(8)], [x]), "list of outputs has 1 tensor"),
    "nobody has it": (lambda x: dist.broadcast(x, 7), "names rank 7"),
    "nobody gets it": (lambda x: dist.reduce(x, 7), "names rank 7"),
    "root gathers one": (lambda x: dist.gather(x, [rows(8)] if dist.get_rank() == 0 else None), "list of outputs has 1 tensor"),
    "root scatters one": (lambda x: dist.scatter(x, [rows(8)] if dist.get_rank() == 0 else None), "list of inputs has 1"),
}
"""What a program may get wrong, and what is said of it."""


in_step = partial(talking.in_step, world_size=2)
in_build = partial(talking.in_build, world_size=2)


@pytest.mark.parametrize("where", [in_step, in_build])
@pytest.mark.parametrize("name", WRONG)
def test_tensors_that_do_not_fit_are_named(name: str, where: Callable[[Talk], Estimate]) -> None:
    talk, said = WRONG[name]
    with pytest.raises(EstimateError, match=f"the program calls .* in the group 'world' of 2 ranks, .*{said}"):
        where(talk)
    assert not dist.is_initialized()


EXCHANGES: Final[dict[str, Callable[..., Tensor]]] = {
    "all_to_all_single": functional.all_to_all_single,
    "all_to_all_single_autograd": functional.all_to_all_single_autograd,
    "the op of that name": lambda x, comes, sent, group: torch.ops._c10d_functional.all_to_all_single(
        x, comes, sent, group.group_name
    ),
    "its overload": lambda x, comes, sent, group: torch.ops._c10d_functional.all_to_all_single.default(
        x, comes, sent, group.group_name
    ),
}


@pytest.mark.parametrize("where", [in_step, in_build])
@pytest.mark.parametrize(
    ("comes", "sent", "said"),
    [
        ([4, 4], [3, 4], "input_split_sizes=[3, 4] add up to 7, and the input has 8 rows"),
        ([4, 4], [8], "input_split_sizes=[8] must have one number for each rank: 2"),
        ([8], [4, 4], "output_split_sizes=[8] must have one number for each rank: 2"),
    ],
)
@pytest.mark.parametrize("name", EXCHANGES)
def test_splits_of_a_functional_collective_are_looked_at(
    name: str, comes: list[int], sent: list[int], said: str, where: Callable[[Talk], Estimate]
) -> None:
    message = f"calls all_to_all_single in the group 'world' of 2 ranks, where real ranks raise: {said}"
    with pytest.raises(EstimateError, match=re.escape(message)):
        where(lambda x: EXCHANGES[name](x, comes, sent, dist.group.WORLD) + 0)
    assert not dist.is_initialized()


@pytest.mark.parametrize("where", [in_step, in_build])
@pytest.mark.parametrize("name", EXCHANGES)
def test_splits_of_a_functional_collective_that_fit_are_taken(name: str, where: Callable[[Talk], Estimate]) -> None:
    met = []
    where(lambda x: met.append(EXCHANGES[name](x, [1, 4], [5, 3], dist.group.WORLD).shape))
    assert {*met} == {(5, WIDTH)}


@pytest.mark.parametrize(
    "talk",
    [
        lambda x: dist.all_gather_into_tensor(torch.empty(2, ROWS, WIDTH), x),  # stacked, not one after the other
        lambda x: dist.all_gather([rows(8), rows(7)], x),  # with NCCL another rank may have fewer
        lambda x: dist.all_to_all_single(rows(7), rows(7)),  # of an even number of elements
        lambda x: dist.all_to_all_single(rows(5), x, [1, 4], [5, 3]),
        lambda x: dist.all_to_all([rows(1), rows(2)], [rows(3), rows(4)]),
        lambda x: dist.scatter(x, [rows(8), rows(8)]),
        lambda x: dist.gather(x, [rows(8), rows(8)]),
    ],
)
def test_what_real_ranks_take_is_taken(talk: Talk) -> None:
    in_step(talk)
    in_build(talk)


def as_rank(rank: int, meeting: str, raised: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    names = []
    for name, (talk, _) in WRONG.items():
        try:
            talk(rows(ROWS))
        except (RuntimeError, ValueError):
            names.append(name)
    if rank == 0:
        Path(raised).write_text("\n".join(names))


def test_real_ranks_raise_where_an_estimate_does(tmp_path: Path) -> None:
    spawn: Any = vars(torch.multiprocessing)["spawn"]
    spawn(as_rank, (str(tmp_path / "meeting"), str(tmp_path / "raised")), 2)
    assert (tmp_path / "raised").read_text().splitlines() == [*WRONG]
