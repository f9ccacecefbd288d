"""`torchprof run -- torchrun`: each rank writes a file of its own, and what starts them writes none."""

from __future__ import annotations

import sys
from textwrap import dedent

import pytest
from run_programs import Ran, in_a_shell

RANKS = """
import os, sys
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Sequential(torch.nn.Linear(4, 4)))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for step in range(3):
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
told = [name for name in os.environ if "TORCHPROF" in name]
said = f"rank {dist.get_rank()} {sys.argv} {told} {'startup' in os.environ['PYTHONPATH']}\\n"
os.write(1, said.encode())  # at once: both write to the same place
dist.barrier()
dist.destroy_process_group()
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(scope="module", params=["0", "3"])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Ran]:
    folder = tmp_path_factory.mktemp("ranks")
    folder.joinpath("train.py").write_text(dedent(RANKS))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    return request.param, in_a_shell(folder, "run", "--", *command, "train.py", request.param)


def test_the_ranks_run_as_they_do_without(ran: tuple[str, Ran]) -> None:
    code, done = ran
    assert sorted(done.out.splitlines()) == [f"rank {rank} ['train.py', '{code}'] [] False" for rank in (0, 1)]
    assert done.code == (1 if code != "0" else 0)  # of torchrun


def test_each_rank_has_its_file(ran: tuple[str, Ran]) -> None:
    _, done = ran
    assert done.files == ["train.rank0.torchprof", "train.rank1.torchprof"]
    for rank, file in enumerate(done.files):
        trace = done.trace(file)
        assert (trace.facts["rank"], trace.facts["world_size"]) == (rank, 2)
        assert len(trace.steps) == 3
        assert trace.model is not None
        assert [info.path for info in trace.model.modules] == ["", "module", "module.0"]


def test_the_first_rank_speaks_for_all(ran: tuple[str, Ran]) -> None:
    _, done = ran
    assert done.verdict.count("torchprof: ") == 1
    assert "train.rank0.torchprof" in done.verdict
    assert "so did each of the 2 ranks" in done.verdict
