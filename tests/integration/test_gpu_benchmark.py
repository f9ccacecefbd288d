"""The fixture `gpu_benchmark` in runs of pytest of their own: what it times, keeps, compares and prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from compiled import shared_library
from pytest_runs import loaded

import torchprof

TESTS = Path(__file__).resolve().parents[1]

STEPS = """
import pytest
import torch
import torchprof
from fake_gpu import FakeGpu, KernelForEveryOp
from torchprof import _native

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
x = torch.ones(4, 8)
CPU = torchprof.Ceilings("made up", "float32", 1, flops=1e9, bytes=1e9)
calls = []


def forward(x, scale=1):
    calls.append("recorded" if _native.is_recording() else "timed")
    return model(x).sum().item() * scale


def test_on_the_cpu(gpu_benchmark):
    gpu_benchmark.model = model
    gpu_benchmark.ceilings = CPU
    assert gpu_benchmark(forward, x, scale=0) == 0
    if gpu_benchmark.result is None:
        print("calls:", *calls)
    else:
        assert calls[-4:] == ["recorded"] * 4
        assert set(calls[:-4]) == {"timed"}
        assert gpu_benchmark.result.mfu > 0


def test_kernels(gpu_benchmark, monkeypatch):
    gpu = FakeGpu()

    def step():
        with KernelForEveryOp(gpu, 2000):
            model(x).sum().backward()

    gpu_benchmark.model, gpu_benchmark.gpu = model, "cupti"
    gpu_benchmark(step)


@pytest.mark.parametrize("rounds", [3])
def test_in_rounds(gpu_benchmark, rounds):
    done = []
    result = gpu_benchmark.pedantic(
        lambda x: done.append("call") or 5,
        setup=lambda: done.append("setup") or ((x,), {}),
        teardown=lambda x: done.append("teardown"),
        rounds=rounds,
        warmup_rounds=2,
    )
    assert result == 5
    # Where it is disabled, pytest-benchmark itself calls no teardown.
    assert done == (["setup", "call", "teardown"] * (2 + rounds + 4) if gpu_benchmark.result else ["setup", "call"])


def test_plain(benchmark):
    benchmark(forward, x)
"""
FAILING = """
import torchprof


def test_that_fails_while_it_is_recorded(gpu_benchmark):
    from torchprof import _native

    def fails():
        assert not _native.is_recording(), "recorded"

    gpu_benchmark(fails)


def test_that_is_recorded_already(gpu_benchmark):
    with torchprof.profile():
        gpu_benchmark(lambda: None)


def test_that_is_given_nonsense(gpu_benchmark):
    gpu_benchmark.recorded = 0
    gpu_benchmark(lambda: None)


def test_without_it():
    pass
"""
WITHOUT = """
import sys

def test_that_needs_it(gpu_benchmark):
    pass

def test_another():
    assert not {"torch", "numpy"} & sys.modules.keys()
"""


class Run:
    """Runs of pytest in a folder, in which nothing of this project's configuration counts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / "test_steps.py").write_text(STEPS)
        (folder / "test_failing.py").write_text(FAILING)

    def __call__(self, *arguments: str, code: int = 0, **variables: str) -> str:
        command = [sys.executable, "-m", "pytest", "-p", "torchprof.integrations.gpu_benchmark", *arguments]
        paths = [str(Path(torchprof.__file__).parents[1]), str(TESTS)]
        cupti = str(shared_library("fake_cupti.cpp"))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TORCHPROF_CUPTI": cupti, **variables}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("gpu_benchmark"))


@pytest.fixture(scope="module")
def first(run: Run) -> tuple[str, dict[str, Any]]:
    """What a run that saves its benchmarks prints, and what it writes, by the name of the test."""
    saving = ("--benchmark-json=all.json", "--benchmark-save=first", "--benchmark-storage=saved")
    said = run("test_steps.py", "-q", "--benchmark-max-time=0.05", *saving)
    written = json.loads((run.folder / "all.json").read_text())["benchmarks"]
    return said, {each["name"]: each for each in written}


def test_the_json_of_pytest_benchmark_has_the_figures(first: tuple[str, dict[str, Any]]) -> None:
    _, written = first
    info = written["test_on_the_cpu"]["extra_info"]
    assert info["flops"] > 2 * 4 * (8 * 16 + 16 * 2) - 1
    assert info["peak_bytes"] > 0
    assert info["mfu"] > 0
    assert info["kernels"] is info["device_time"] is info["reserved_bytes"] is info["idle_share"] is None
    assert {"kernels", "device_time", "reserved_bytes", "idle_share"} == info["unknown"].keys()
    assert {hot["module"] for hot in info["hottest_modules"]} <= {"0 (Linear)", "1 (ReLU)", "2 (Linear)", "Sequential"}
    of_gpu = written["test_kernels"]["extra_info"]
    assert of_gpu["device_time"] == pytest.approx(of_gpu["kernels"] * 2e-6, rel=0.02)
    assert 0 < of_gpu["idle_share"] < 1
    assert written["test_plain"]["extra_info"] == {}


def test_device_time_is_a_benchmark_of_its_own(first: tuple[str, dict[str, Any]]) -> None:
    said, written = first
    assert written.keys() == {"test_on_the_cpu", "test_kernels", "test_kernels (device)", "test_in_rounds[3]", "test_plain"}
    of_kernels = written["test_kernels (device)"]
    assert of_kernels["fullname"] == "test_steps.py::test_kernels (device)"
    assert of_kernels["stats"]["rounds"] == 3
    assert of_kernels["stats"]["median"] == pytest.approx(written["test_kernels"]["extra_info"]["device_time"])
    assert "test_kernels (device)" in said


def test_the_figures_are_printed_below_the_times(first: tuple[str, dict[str, Any]]) -> None:
    said = first[0].partition("gpu_benchmark: what a call did, as recorded")[2]
    assert [line.split()[0] for line in said.splitlines() if line.startswith("test_")] == [
        "test_on_the_cpu",
        "test_kernels",
        "test_in_rounds[3]",
    ]
    assert "Not known (?): reserved: the allocator of cpu does not report what it has reserved" in said


def test_a_comparison_has_the_figures_of_the_saved_run(run: Run, first: tuple[str, dict[str, Any]]) -> None:
    comparing = ("--benchmark-compare=0001", "--benchmark-storage=saved", "--benchmark-max-time=0.05")
    said = run("test_steps.py", "-q", "-k", "test_kernels or test_plain", *comparing)
    times, _, figures = said.partition("gpu_benchmark: what a call did, as recorded")
    assert "test_kernels (device) (0001_first)" in times
    now, saved = (line for line in figures.splitlines() if "0 (Linear)" in line or "2 (Linear)" in line)
    assert now.startswith("test_kernels ")
    assert saved.startswith("└─ saved 20")
    kernels = str(first[1]["test_kernels"]["extra_info"]["kernels"])
    assert kernels in now.split()
    assert kernels in saved.split()


@pytest.mark.parametrize(
    ("arguments", "variables"), [(["--benchmark-disable"], {}), ([], {"PYTEST_XDIST_WORKER": "gw1"})], ids=["option", "xdist"]
)
def test_disabled_benchmarks_run_once_and_nothing_is_recorded(
    run: Run, arguments: list[str], variables: dict[str, str]
) -> None:
    said = run("test_steps.py", "-q", "-s", *arguments, **variables)
    assert "calls: timed\n" in said
    assert "4 passed" in said
    assert "what a call did" not in said


def test_without_pytest_benchmark_it_is_said_what_is_missing_and_nothing_is_imported(run: Run) -> None:
    (run.folder / "test_without.py").write_text(WITHOUT)
    said = run("test_without.py", "-q", "-p", "no:benchmark", code=1)
    assert "gpu_benchmark needs pytest-benchmark, which is switched off: run pytest without -p no:benchmark" in said
    assert "1 passed, 1 error" in said
    said = run("test_without.py", "-q", code=1, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert 'which is not installed: pip install "torchprof-recorder[pytest]", or pytest-benchmark' in said
    assert "1 passed, 1 error" in said


def test_a_run_that_records_every_test_gives_way_to_benchmarks(run: Run) -> None:
    said = run("test_steps.py", "-q", *loaded(), "--torchprof", "--benchmark-max-time=0.01")
    assert "4 passed" in said
    assert "the test records itself with torchprof, which comes" in said
    assert "what a call did, as recorded" in said


def test_what_fails_is_not_kept_and_the_others_pass(run: Run) -> None:
    said = run("test_failing.py", "-q", "--benchmark-json=failed.json", "--benchmark-max-time=0.01", code=1)
    assert "3 failed, 1 passed" in said
    assert "AssertionError: recorded" in said
    assert "RecordingError: torchprof is recording, which would change the times" in said
    assert "ArgumentError: recorded must be an int of at least 1, not 0" in said
    assert json.loads((run.folder / "failed.json").read_text())["benchmarks"] == []
    assert "what a call did" not in said
