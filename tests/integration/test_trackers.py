"""Figures of real recordings in the trackers' own files, read back with their own readers. Nothing needs a network."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from wandb_file import history

import torchprof
import torchprof.integrations.mlflow
import torchprof.integrations.tensorboard
import torchprof.integrations.wandb
from torchprof import ArgumentError, MissingPackageError, Trace
from torchprof.reporting.step_figures import FIGURES

wandb_log = torchprof.integrations.wandb.log
mlflow_log = torchprof.integrations.mlflow.log
tensorboard_log = torchprof.integrations.tensorboard.log
LOGS: dict[str, Callable[..., dict[str, float]]] = {"wandb": wandb_log, "mlflow": mlflow_log, "tensorboard": tensorboard_log}


def recorded(**options: Any) -> Trace:
    """Five steps of a small network, the first of them warm-up; numbers of steps are 0 to 4."""
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(model.parameters())
    with torchprof.profile(model, schedule=torchprof.schedule(warmup=1, active=4), **options) as prof:
        for _ in range(5):
            model(torch.randn(16, 64)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            prof.step()
    return prof.trace


@pytest.fixture(scope="module")
def steps() -> Trace:
    return recorded()


@pytest.fixture(scope="module")
def wandb_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A place for what wandb writes, and an end of the process that it starts."""
    wandb = pytest.importorskip("wandb")
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONFIG", "CACHE", "DATA", "ARTIFACT"):
            patch.setenv(f"WANDB_{name}_DIR", str(folder / name.lower()))
        yield folder
        wandb.teardown()


@pytest.fixture
def run(wandb_folder: Path, tmp_path: Path) -> Iterator[Any]:
    """A run of Weights & Biases that is offline."""
    import wandb

    quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True, save_code=False)
    run = wandb.init(mode="offline", project="torchprof", dir=tmp_path, settings=quiet)
    yield run
    run.finish()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow with its file store, and its client."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    return pytest.importorskip("mlflow").MlflowClient()


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


def points(client: Any, run: Any, name: str) -> list[tuple[int, float]]:
    """Steps and values of a metric."""
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]


def artifacts(client: Any, run: Any, folder: str) -> list[str]:
    return [file.path for file in client.list_artifacts(run.info.run_id, folder)]


def named(recording: Trace, **options: Any) -> dict[str, float]:
    return {f"torchprof/{name}": value for name, value in torchprof.figures(recording, **options).items()}


# The figures of real recordings.


def test_the_figures_of_a_loop_are_those_of_its_tables(steps: Trace) -> None:
    found, account = torchprof.figures(steps), torchprof.memory(steps)
    rows = [row for row in torchprof.by_step(steps).rows if not row["warmup"]]
    for name in ("time", "forward", "backward", "optimizer", "other"):
        assert found[f"{name}_ms"] == pytest.approx(sum(row[name] for row in rows) / 4e6)
    assert found["peak_bytes"] == max(row["peak"] for row in rows)
    assert found["held_bytes"] == rows[-1]["held"]
    assert found["saved_bytes"] == sum(account.saved_by_module.values()) > 0
    # Forward, and gradients of both weights and of the one input that has one.
    assert found["flops"] == 2 * 16 * (2 * 64 * 32 + 3 * 32 * 4)
    assert found["leaked_bytes"] == 0
    assert set(found) <= set(FIGURES)


def test_sums_of_a_recording_have_the_figures_of_its_rows(steps: Trace) -> None:
    single, sums = torchprof.figures(steps), torchprof.figures(recorded(aggregate=True))
    for name in ("steps", "ops", "flops", "allocated_bytes", "lost_rows"):
        assert sums[name] == single[name]
    assert sums["time_ms"] == pytest.approx(sum(value for name, value in sums.items() if name.endswith("_ms")) / 2)
    assert "peak_bytes" not in sums
    assert 0 < sums["peak_recorded_bytes"] <= single["peak_bytes"]


def test_a_saved_trace_has_the_same_figures_where_pytorch_is_missing(steps: Trace, tmp_path: Path) -> None:
    steps.save(tmp_path / "steps.torchprof")
    script = f"""
import sys
sys.modules["torch"] = None
import torchprof
print(torchprof.figures(torchprof.load({str(tmp_path / "steps.torchprof")!r})))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == str(torchprof.figures(steps)), done.stderr


def test_a_file_of_torch_profiler_has_figures(tmp_path: Path) -> None:
    model, path = nn.Linear(64, 32), tmp_path / "trace.json"
    options: dict[str, Any] = {
        "activities": [torch.profiler.ProfilerActivity.CPU],
        "schedule": torch.profiler.schedule(wait=0, warmup=1, active=2),
        "on_trace_ready": lambda prof: prof.export_chrome_trace(str(path)),
        "record_shapes": True,
    }
    with torch.profiler.profile(**options) as prof:
        for _ in range(3):
            model(torch.randn(16, 64)).sum().backward()
            prof.step()
    found = torchprof.figures(torchprof.load(path))
    assert found["steps"] == 2
    assert found["flops"] == 2 * 2 * 16 * 64 * 32
    assert 0 < found["backward_ms"] < found["time_ms"]
    assert not {"peak_bytes", "peak_recorded_bytes", "saved_bytes", "gpu_busy_share"} & found.keys()


# Weights & Biases.


def test_wandb_has_the_figures_in_the_row_of_the_step(steps: Trace, run: Any, tmp_path: Path) -> None:
    run.log({"loss": 0.5}, step=100)
    assert wandb_log(steps, step=100) == named(steps)
    run.log({"loss": 0.4}, step=101)
    run.finish()
    at_100, at_101 = history(tmp_path)
    assert (at_100["_step"], at_100["loss"], at_101["_step"]) == (100, 0.5, 101)
    sent = {name: value for name, value in at_100.items() if name in named(steps)}
    assert sent == pytest.approx(named(steps))
    assert not set(at_101) & set(named(steps))
    assert at_100["torchprof/report/_type"] == "html-file"
    page = next(tmp_path.glob("**/*.html")).read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert page.endswith("</html>"), "it is whole"


def test_without_a_step_wandb_has_them_at_its_own_which_does_not_advance(steps: Trace, run: Any, tmp_path: Path) -> None:
    for loss in (0.5, 0.4):
        run.log({"loss": loss})
    wandb_log(steps, report=False)
    run.log({"loss": 0.3})
    wandb_log(steps, of_step=4, report=False, prefix="")
    run.finish()
    rows = history(tmp_path)
    assert [(row["_step"], row.get("loss"), "torchprof/flops" in row) for row in rows] == [
        (0, 0.5, False),
        (1, 0.4, False),
        (2, 0.3, True),
        (3, None, False),
    ], "what is logged last is not lost"
    assert rows[3]["time_ms"] == pytest.approx(torchprof.figures(steps, of_step=4)["time_ms"])
    assert not list(tmp_path.glob("**/*.html"))


def test_the_last_figures_of_a_step_of_wandb_count(steps: Trace, run: Any, tmp_path: Path) -> None:
    wandb_log(steps, step=7, of_step=1, report=False)
    wandb_log(steps, step=7, of_step=2, report=False)
    run.finish()
    (row,) = history(tmp_path)
    assert row["torchprof/time_ms"] == pytest.approx(torchprof.figures(steps, of_step=2)["time_ms"])


def test_a_step_that_wandb_is_past_is_an_error(steps: Trace, run: Any) -> None:
    run.log({"loss": 0.5}, step=100)
    with pytest.raises(ArgumentError, match="step=99 is before step 100, which the run is at"):
        wandb_log(steps, step=99, report=False)


def test_a_run_of_wandb_that_has_ended_is_its_own_error(steps: Trace, run: Any) -> None:
    run.finish()
    with pytest.raises(Exception, match="is finished"):
        wandb_log(steps, run=run, step=3)


def test_a_run_of_wandb_that_is_disabled_takes_all(steps: Trace, wandb_folder: Path) -> None:
    import wandb

    run = wandb.init(mode="disabled")
    assert wandb_log(steps, step=3) == named(steps)
    run.finish()


def test_wandb_needs_a_run(steps: Trace, wandb_folder: Path) -> None:
    with pytest.raises(ArgumentError, match=r"run=None, and no run was begun.*wandb.init\(\)"):
        wandb_log(steps)


def test_wandb_leaves_no_process_behind(wandb_folder: Path) -> None:
    import wandb

    wandb.teardown()
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    commands = [Path(f"/proc/{child}/cmdline") for each in children for child in each.read_text().split()]
    assert not [command for command in commands if command.exists() and b"wandb" in command.read_bytes()]


# MLflow.


def test_mlflow_has_the_figures_as_metrics_and_the_report_as_an_artifact(steps: Trace, store: Any, tmp_path: Path) -> None:
    import mlflow

    with mlflow.start_run() as run:
        assert mlflow_log(steps, step=100) == named(steps)
    for name, value in named(steps).items():
        assert points(store, run, name) == [(100, value)]
    assert artifacts(store, run, "torchprof") == ["torchprof/report-step-100.html"]
    (page,) = tmp_path.glob("mlruns/**/report-step-100.html")
    assert page.read_text(encoding="utf-8").endswith("</html>")


def test_without_a_step_mlflow_has_them_at_that_of_the_trace(steps: Trace, store: Any) -> None:
    import mlflow

    with mlflow.start_run() as run:
        mlflow_log(steps, report=False)
        mlflow_log(steps, of_step=2, report=False, prefix="one step/of rank 3")
    assert points(store, run, "torchprof/steps") == [(4, 4)]
    assert points(store, run, "one step/of rank 3/steps") == [(2, 1)]
    assert artifacts(store, run, "") == []


def test_another_run_of_mlflow_is_given_by_itself_or_by_its_id(steps: Trace, store: Any) -> None:
    import mlflow

    with mlflow.start_run() as run:
        pass
    mlflow_log(steps, step=1, run=run, report=False)
    mlflow_log(steps, step=1, run=run.info.run_id, report=False)
    assert points(store, run, "torchprof/steps") == [(1, 4), (1, 4)], "both of the same step are kept"
    assert mlflow.active_run() is None


def test_mlflow_needs_an_active_run_and_begins_none(steps: Trace, store: Any) -> None:
    import mlflow

    with pytest.raises(ArgumentError, match=r"run=None, and no run is active in this thread.*mlflow.start_run\(\)"):
        mlflow_log(steps)
    assert mlflow.active_run() is None


@pytest.mark.parametrize("run", [3, object(), {"run_id": "0"}])
def test_what_is_no_run_of_mlflow_is_refused(steps: Trace, store: Any, run: Any) -> None:
    with pytest.raises(ArgumentError, match=r"run=.* is no run: give what mlflow.start_run\(\) returns"):
        mlflow_log(steps, run=run)


def test_an_error_of_mlflow_comes_out(steps: Trace, store: Any) -> None:
    import mlflow

    with pytest.raises(mlflow.exceptions.MlflowException, match="not found"):
        mlflow_log(steps, run="0" * 32)


# TensorBoard.


def test_tensorboard_has_the_figures_as_scalars_and_the_report_as_texts(steps: Trace, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    assert tensorboard_log(steps, step=100, writer=tmp_path) == named(steps)
    read = events(tmp_path)
    assert set(read.Tags()["scalars"]) == set(named(steps))
    for name, value in named(steps).items():
        (event,) = read.Scalars(name)
        assert (event.step, event.value) == (100, pytest.approx(value))
    texts = {name: read.Tensors(name)[0].tensor_proto.string_val[0].decode() for name in read.Tags()["tensors"]}
    assert {name.removesuffix("/text_summary") for name in texts} == {
        f"torchprof/{name}" for name in ("findings", "modules", "ops", "memory")
    }
    assert str(torchprof.findings(steps)) in texts["torchprof/findings/text_summary"]
    assert "Sequential" in texts["torchprof/modules/text_summary"]


def test_a_writer_of_the_program_is_used_and_stays_open(steps: Trace, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        tensorboard_log(steps, writer=writer, report=False)
        tensorboard_log(steps, of_step=4, writer=writer, report=False)
        writer.add_scalar("loss", 0.5, 5)
    read = events(tmp_path)
    assert [(event.step, event.value) for event in read.Scalars("torchprof/steps")] == [(4, 4), (4, 1)]
    assert [event.step for event in read.Scalars("loss")] == [5]
    assert read.Tags()["tensors"] == []
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("writer", [None, 3, object()])
def test_what_is_no_writer_is_refused(steps: Trace, writer: Any) -> None:
    with pytest.raises(ArgumentError, match="must be a SummaryWriter, or a directory"):
        tensorboard_log(steps, writer=writer)


# What all have in common.


@pytest.mark.parametrize("tracker", LOGS)
def test_a_package_that_is_missing_is_named_with_its_extra(
    tracker: str, steps: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, {"tensorboard": "torch.utils.tensorboard"}.get(tracker, tracker), None)
    options = {"writer": tmp_path} if tracker == "tensorboard" else {}
    with pytest.raises(MissingPackageError, match=rf'log needs {tracker}, .*pip install "torchprof-recorder\[trackers\]"'):
        LOGS[tracker](steps, **options)


@pytest.mark.parametrize("prefix", ["a?b", "/a", "a/", "a//b", "../a", "a/..", "ä\n", "x" * 201, None, 3])
def test_a_prefix_that_a_tracker_does_not_take_is_refused_before_anything_is_logged(
    prefix: Any, steps: Trace, tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match=r"prefix=.* is no name that all trackers take"):
        tensorboard_log(steps, writer=tmp_path / "runs", prefix=prefix)
    assert not (tmp_path / "runs").exists()


def test_mlflow_takes_every_prefix_that_is_accepted(steps: Trace, store: Any) -> None:
    import mlflow

    with mlflow.start_run() as run:
        for prefix in ("a b", "a.b-c_d", "train/torchprof/rank 3", "Ünï", "x" * 200):
            mlflow_log(steps, step=1, prefix=prefix, report=False)
            assert points(store, run, f"{prefix}/steps") == [(1, 4)]


@pytest.mark.parametrize("step", ["3", 1.5, True])
def test_a_step_that_is_no_number_is_refused(step: Any, steps: Trace, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"step=.* is no whole number"):
        tensorboard_log(steps, step=step, writer=tmp_path)


def test_a_step_that_the_trace_does_not_have_is_refused(steps: Trace, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="of_step=9 is no step of the trace, which has 0 to 4"):
        tensorboard_log(steps, of_step=9, writer=tmp_path)


def test_without_plotly_the_figures_are_logged_and_a_warning_says_that_there_is_no_report(
    steps: Trace, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with mlflow.start_run() as run, pytest.warns(RuntimeWarning, match="figures were logged, and no report: .*plotly") as said:
        mlflow_log(steps, step=1)
    assert said[0].filename == __file__
    assert points(store, run, "torchprof/steps") == [(1, 4)]
    assert artifacts(store, run, "torchprof") == []


def test_what_is_aggregated_is_logged_with_all_that_its_report_has(store: Any, tmp_path: Path) -> None:
    import mlflow

    sums = recorded(aggregate=True)
    with mlflow.start_run() as run, warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        mlflow_log(sums, step=1)
    tensorboard_log(sums, writer=tmp_path / "runs")
    assert artifacts(store, run, "torchprof") == ["torchprof/report-step-1.html"]
    assert "torchprof/peak_recorded_bytes" in events(tmp_path / "runs").Tags()["scalars"]
