"""Experts that a router sends tokens to by its scores, as programs write them; and scores that send as many to each."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_to_all_single_autograd, wait_tensor
from torch.distributed.device_mesh import DeviceMesh

__all__ = ["RoutedExperts", "SpreadExperts", "forced"]


def forced(rows: int, count: int, options: int) -> Tensor:
    """Scores to be added to those of a router, ``[rows, options]``, so that its rows choose these options in turn."""
    added = torch.zeros(rows, options)
    chosen = (torch.arange(rows)[:, None] * count + torch.arange(count)) % options
    return added.scatter_(1, chosen, 1000.0)


class SpreadExperts(nn.Module):
    """Experts, ``up`` and ``down``, that may be spread over a mesh."""

    def __init__(self) -> None:
        super().__init__()
        self.mesh: DeviceMesh | None = None

    def spread(self, mesh: DeviceMesh) -> None:
        """Keep the experts of this rank."""
        self.mesh = mesh
        for name in ("up", "down"):
            mine = getattr(self, name).chunk(mesh.size())[mesh.get_local_rank()]
            setattr(self, name, nn.Parameter(mine.clone()))


class RoutedExperts(SpreadExperts):
    """Experts of which each token goes to some. Spread over a mesh, ranks tell each other how many tokens come.

    Args:
        width: of tokens.
        experts: how many there are, on all ranks.
        top_k: how many each token goes to.
        rows: tokens of a rank.
        gathered: whether ranks gather all counts, rather than exchange those that are for them.
    """

    def __init__(self, width: int, experts: int, top_k: int, rows: int, *, gathered: bool = False) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts, bias=False)
        self.up = nn.Parameter(torch.ones(experts, 2 * width, width) / width)
        self.down = nn.Parameter(torch.ones(experts, width, 2 * width) / width)
        self.register_buffer("forced", forced(rows, top_k, experts))
        self.experts, self.top_k, self.gathered = experts, top_k, gathered

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.view(-1, x.shape[-1])
        scores, chosen = torch.topk(self.router(tokens).softmax(-1) + self.forced, self.top_k, dim=-1)
        counts = torch.histc(chosen.view(-1).float(), self.experts, 0, self.experts - 1).long()
        order = chosen.view(-1).argsort(stable=True)
        rows = tokens[order // self.top_k]
        done = self._computed(rows, counts.tolist()) if self.mesh is None else self._exchanged(rows, counts, self.mesh)
        weighted = done * scores.view(-1)[order].unsqueeze(-1)
        return x + torch.zeros_like(tokens).index_add(0, order // self.top_k, weighted).view_as(x)

    def _exchanged(self, rows: Tensor, counts: Tensor, mesh: DeviceMesh) -> Tensor:
        ranks, mine = mesh.size(), mesh.get_local_rank()
        if self.gathered:
            every = torch.empty(ranks * self.experts, dtype=counts.dtype)
            dist.all_gather_into_tensor(every, counts, group=mesh.get_group())
            others = every.view(ranks, ranks, -1)[:, mine]
        else:
            others = torch.empty_like(counts)
            dist.all_to_all_single(others, counts, group=mesh.get_group())
            others = others.view(ranks, -1)
        sent, comes = counts.view(ranks, -1).sum(1).tolist(), others.sum(1).tolist()
        came = _sent(rows, comes, sent, mesh)
        parts = torch.split(came, others.reshape(-1).tolist())  # of each rank for each expert
        here = others.shape[1]
        by_expert = torch.cat([part for expert in range(here) for part in parts[expert::here]])
        done = self._computed(by_expert, others.sum(0).tolist())
        back = torch.split(done, [size for column in others.t().tolist() for size in column])
        by_rank = torch.cat([part for rank in range(ranks) for part in back[rank::ranks]])
        return _sent(by_rank, sent, comes, mesh)

    def _computed(self, rows: Tensor, counts: list[int]) -> Tensor:
        made: list[Any] = []
        for expert, part in enumerate(torch.split(rows, counts)):
            made.append(nn.functional.silu(part @ self.up[expert].t()) @ self.down[expert].t())
        return torch.cat(made)


def _sent(rows: Tensor, comes: list[int], sent: list[int], mesh: DeviceMesh) -> Tensor:
    wait: Any = wait_tensor
    came: Tensor = wait(all_to_all_single_autograd(rows, comes, sent, mesh))
    return came
