"""`torchprof run` of scripts that start their ranks themselves, by `torch.multiprocessing`: each writes a file of its own."""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import dedent

import pytest
from run_programs import Ran, in_a_shell
from test_parallel_memory import free_port

import torchprof

SPAWNS = """
    import os, sys
    import torch, torch.distributed as dist, torch.multiprocessing as mp
    from torch.nn.parallel import DistributedDataParallel

    def work(number, world, code):
        dist.init_process_group("gloo", init_method="tcp://127.0.0.1:PORT", rank=world - 1 - number, world_size=world)
        torch.manual_seed(0)
        model = DistributedDataParallel(torch.nn.Linear(4, 4))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for step in range(3):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
        told = [name for name in os.environ if "TORCHPROF" in name]
        told += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if "startup" in path]
        os.write(1, f"rank {dist.get_rank()} {told}\\n".encode())
        dist.barrier()
        dist.destroy_process_group()
        if code:
            sys.exit(code)

    if __name__ == "__main__":
        mp.spawn(work, (2, int(sys.argv[1])), nprocs=2)
        print("done", [name for name in os.environ if "TORCHPROF" in name])
"""


def run(folder: Path, program: str, *arguments: str) -> Ran:
    folder.joinpath("train.py").write_text(dedent(program).replace("PORT", str(free_port())))
    return in_a_shell(folder, "run", "train.py", *arguments)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    left = tmp_path_factory.mktemp("left")
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(left)
    try:
        done = run(tmp_path_factory.mktemp("spawned"), SPAWNS, "0")
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before
    assert not list(left.glob("torchprof-*")), "what the processes said of themselves is taken away"
    return done


def test_the_script_runs_as_it_does_without(ran: Ran) -> None:
    assert sorted(ran.out.splitlines()) == ["done []", "rank 0 []", "rank 1 []"]
    assert ran.code == 0


def test_each_rank_has_its_file_and_who_starts_them_has_none(ran: Ran) -> None:
    assert ran.files == ["train.rank0.torchprof", "train.rank1.torchprof"]
    for rank, file in enumerate(ran.files):
        trace = ran.trace(file)
        assert (trace.facts["rank"], trace.facts["world_size"], len(trace.steps)) == (rank, 2, 3), "its group was destroyed"
        assert "run_notes" not in trace.facts


def test_the_ranks_are_analyzed_together(ran: Ran) -> None:
    rows = torchprof.by_collective(torchprof.load([ran.folder / file for file in ran.files])).to_dict()
    assert {(row["name"], row["group"], row["whole"]) for row in rows if row["by"] == "DDP"} >= {
        ("all-reduce", "default_pg", 1)
    }


def test_one_of_them_speaks_for_all(ran: Ran) -> None:
    assert ran.verdict.count("torchprof: ") == 1
    assert "so did each of the 2 ranks" in ran.verdict


def test_a_script_whose_ranks_fail_ends_as_it_does_without_and_is_recorded(tmp_path: Path) -> None:
    ran = run(tmp_path, SPAWNS, "3")
    assert ran.code == 1
    assert "terminated with exit code 3" in ran.err
    assert [file.partition(".")[2] for file in ran.files] == ["rank0.torchprof", "rank1.torchprof"]


def test_processes_in_no_process_group_have_files_with_their_numbers(tmp_path: Path) -> None:
    program = """
        import torch, torch.multiprocessing
        model = torch.nn.Linear(4, 4)
        def work(rank):
            model(torch.ones(2, 4))
        if __name__ == "__main__":
            model(torch.ones(2, 4))
            torch.multiprocessing.spawn(work, nprocs=2)
    """
    ran = run(tmp_path, program)
    assert ran.files == ["train.process0.torchprof", "train.process1.torchprof", "train.torchprof"]
    assert "Missing" not in ran.verdict
    again = run(tmp_path, program)
    assert "train-2.process0.torchprof" in again.files


def test_processes_that_are_killed_are_said_to_be_missing(tmp_path: Path) -> None:
    program = """
        import os, signal, torch, torch.multiprocessing
        def work(rank):
            torch.nn.Linear(4, 4)(torch.ones(2, 4))
            os.kill(os.getpid(), signal.SIGKILL)
        if __name__ == "__main__":
            try:
                torch.multiprocessing.spawn(work, nprocs=1)
            except torch.multiprocessing.ProcessExitedException:
                pass
    """
    ran = run(tmp_path, program)
    assert ran.files == []
    assert "nothing was recorded: 1 process that imports PyTorch was killed before the end" in ran.verdict


def test_forks_are_said_to_be_missing(tmp_path: Path) -> None:
    program = """
        import torch, torch.multiprocessing
        def work(rank):
            torch.ones(2) + 1
        if __name__ == "__main__":
            torch.nn.Linear(4, 4)(torch.ones(2, 4))
            torch.multiprocessing.start_processes(work, nprocs=2, start_method="fork")
    """
    ran = run(tmp_path, program)
    said = "the 2 processes that torch.multiprocessing starts as forks"
    assert said in ran.verdict
    assert said in str(torchprof.by_op(ran.trace("train.torchprof")))


def test_processes_of_multiprocessing_itself_are_not_recorded(tmp_path: Path) -> None:
    program = """
        import multiprocessing, os, sys, torch, torch.multiprocessing
        def work(number=0):
            told = [name for name in os.environ if "TORCHPROF" in name]
            os.write(1, f"{number} {told} {'torchprof' in sys.modules}\\n".encode())
            torch.ones(2) + 1
        if __name__ == "__main__":
            torch.multiprocessing.spawn(work, nprocs=1)
            process = multiprocessing.get_context("spawn").Process(target=work, args=(1,))
            process.start()
            process.join()
    """
    ran = run(tmp_path, program)
    assert ran.out.splitlines() == ["0 [] True", "1 [] False"]
    assert ran.files == ["train.process0.torchprof"]
