"""The callbacks, profilers and handlers of trainers: which steps are recorded, into which files, and whatever happens."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from library_loops import LOOPS, Boom, Loop, Net, by_lightning, by_transformers
from torch import nn

import torchprof
from torchprof.integrations.training import Training
from torchprof.trace.rank import Rank

HERE = {**os.environ, "PYTHONPATH": str(Path(torchprof.__file__).parents[1])}
"""The environment of a process that imports this torchprof."""

pytestmark = pytest.mark.filterwarnings("ignore")  # of the other libraries


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> Loop:
    return LOOPS[request.param]()


@pytest.fixture(params=["transformers", "lightning", "lightning, callback"])
def trainer(request: pytest.FixtureRequest) -> Loop:
    return LOOPS[request.param]()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def calls_of(trace: torchprof.Trace) -> int:
    """How often the layer was called, per step."""
    (row,) = [row for row in torchprof.by_module(trace).rows if row.get("type") == "Linear"]
    return int(row["calls"])


def test_the_steps_of_the_schedule_are_a_file_and_a_verdict(
    loop: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = loop.make(tmp_path, schedule=torchprof.schedule(wait=1, warmup=1, active=2))
    loop.run(ours, Net(), 6)
    assert names(tmp_path) == ["train.steps2-3.torchprof"]
    assert ours.files == [str(tmp_path / "train.steps2-3.torchprof")]
    trace = torchprof.load(ours.files[0])
    assert trace.steps["number"].tolist() == [1, 2, 3]
    assert trace.steps["warmup"].tolist() == [1, 0, 0]
    assert calls_of(trace) == 2, "the batches that a step accumulates"
    said = capsys.readouterr().err
    assert f"torchprof: recorded 3 steps into {ours.files[0]}" in said
    assert "Steps    1 to 3, the first as warm-up; a step is" in said


@pytest.mark.parametrize("aggregate", [False, True])
def test_evaluations_are_of_no_step(loop: Loop, aggregate: bool) -> None:
    ours = loop.make(None, schedule=torchprof.schedule(active=4), aggregate=aggregate, show=[])
    loop.run(ours, Net(), 6, evaluates=2)
    assert ours.files == []
    assert ours.trace.steps["number"].tolist() == [0, 1, 2, 3]
    assert calls_of(ours.trace) == 2


def test_what_is_learned_is_what_is_learned_without_it(loop: Loop) -> None:
    learned = []
    for is_recorded in (False, True):
        torch.manual_seed(0)
        net = Net()
        loop.run(loop.make(None, show=[]) if is_recorded else None, net, 4)
        learned.append([parameter.detach().clone() for parameter in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*learned, strict=True))


def test_a_training_that_raises_leaves_a_file(loop: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = loop.make(tmp_path)
    net = Net()
    net.fails_in = 6
    # A Trainer of transformers tells no callback.
    block = ours if "transformers" in type(ours).__module__ else contextlib.nullcontext()
    with pytest.raises(Boom, match="out of luck"), block:
        loop.run(ours, net, 6)
    (file,) = ours.files
    trace = torchprof.load(file)
    assert trace.steps["number"].tolist() == [0, 1]
    assert trace.facts["ended_by"] == "Boom"
    assert "Ended    by Boom" in capsys.readouterr().err


def test_a_training_shorter_than_the_schedule_has_the_steps_that_it_has(loop: Loop, tmp_path: Path) -> None:
    ours = loop.make(tmp_path, schedule=torchprof.schedule(wait=1, active=50), show=[])
    loop.run(ours, Net(), 4)
    assert names(tmp_path) == ["train.steps1-3.torchprof"]


def test_a_training_that_ends_before_the_schedule_begins_says_so(
    loop: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = loop.make(tmp_path, schedule=torchprof.schedule(wait=50, active=1))
    loop.run(ours, Net(), 3)
    assert names(tmp_path) == []
    assert ours.trace is None
    said = capsys.readouterr().err
    assert "torchprof: nothing was recorded: the training ended after 3 steps, and the schedule waits for 50 steps" in said


def test_every_cycle_has_a_file_and_every_training_its_own(trainer: Loop, tmp_path: Path) -> None:
    ours = trainer.make(tmp_path, schedule=torchprof.schedule(wait=1, active=1, repeat=0), show=[])
    for _ in range(2):
        trainer.run(ours, Net(), 4)
    assert names(tmp_path) == [
        "train.step1-2.torchprof",
        "train.step1.torchprof",
        "train.step3-2.torchprof",
        "train.step3.torchprof",
    ]


def test_a_training_after_one_that_raised_is_recorded(trainer: Loop, tmp_path: Path) -> None:
    ours = trainer.make(tmp_path, show=[])
    net = Net()
    net.fails_in = 6
    with pytest.raises(Boom):
        trainer.run(ours, net, 6)
    trainer.run(ours, Net(), 4)
    assert names(tmp_path) == ["train.steps2-3.torchprof", "train.torchprof"], "both steps of the first one were warm-up"


def test_another_recording_can_begin_after_a_training_that_raised(trainer: Loop) -> None:
    ours = trainer.make(None, show=[])
    net = Net()
    net.fails_in = 6
    with pytest.raises(Boom):
        trainer.run(ours, net, 6)
    with torchprof.profile(net) as prof:
        net(torch.ones(1, 8))
    assert len(prof.trace.module_calls)
    assert ours.trace.steps["number"].tolist() == [0, 1]


def test_a_trainer_that_resumes_counts_on(tmp_path: Path) -> None:
    loop = by_transformers()
    out = str(tmp_path / "out")
    loop.run(None, Net(), 4, out=out, save_strategy="steps", save_steps=2)
    ours = loop.make(tmp_path / "traces", show=[])
    loop.run(ours, Net(), 6, out=out, resume_from_checkpoint=f"{out}/checkpoint-2")
    assert ours.trace.steps["number"].tolist() == [2, 3, 4, 5]
    assert names(tmp_path / "traces") == ["train.steps4-5.torchprof"]


def test_the_checkpoints_of_a_trainer_are_of_no_step(tmp_path: Path) -> None:
    loop = by_transformers()
    ours = loop.make(None, schedule=torchprof.schedule(active=50), show=[])
    loop.run(ours, Net(), 5, evaluates=2, out=str(tmp_path), save_strategy="steps", save_steps=2)
    assert ours.trace.steps["number"].tolist() == [0, 1, 2, 3, 4]
    assert calls_of(ours.trace) == 2


def test_evaluations_at_the_ends_of_epochs_are_of_no_step() -> None:
    loop = by_transformers()
    ours = loop.make(None, schedule=torchprof.schedule(active=50), show=[])
    epochs = {"max_steps": -1, "num_train_epochs": 2, "eval_strategy": "epoch", "eval_on_start": True}
    loop.run(ours, Net(), 3, **epochs)
    assert ours.trace.steps["number"].tolist() == [0, 1, 2, 3, 4, 5]
    assert calls_of(ours.trace) == 2


def test_ranks_that_are_not_recorded_do_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        training = Training(tmp_path, "a step", ranks=(1, 2))
        training.begin(Net(), Rank(number, 3))
        for _ in range(3):
            torch.ones(1).exp()
            training.step()
        training.end()
    assert names(tmp_path) == ["train.step2.rank1.torchprof", "train.step2.rank2.torchprof"]
    assert torchprof.load(tmp_path / "train.step2.rank2.torchprof").facts["rank"] == 2
    assert capsys.readouterr().err.count("recorded") == 1, "one rank speaks for all"


def test_what_is_shown_is_what_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    def count(trace: torchprof.Trace) -> str:
        return f"{len(trace.steps)} steps of my own"

    training = Training(None, "a step", show=["by_op", "gpu", count])
    training.begin(Net(), None)
    for _ in range(3):
        torch.ones(1).exp()
        training.step()
    training.end()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "aten::exp" in captured.err
    assert "torchprof: gpu: " in captured.err, "why there is no such table"
    assert "3 steps of my own" in captured.err
    assert "Hottest" not in captured.err


def test_a_training_goes_on_where_it_cannot_be_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = Training(tmp_path, "a step")
    with torchprof.profile() as prof:
        with pytest.warns(RuntimeWarning, match="torchprof records nothing more of this training: .*already recording"):
            training.begin(Net(), None)
        training.step()
        training.end()
        torch.ones(1).exp()
    assert len(prof.trace.ops)
    assert "nothing was recorded: torchprof is already recording" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    training = Training(tmp_path / "file", "a step", show=[])
    training.begin(Net(), None)
    torch.ones(1).exp()
    with pytest.warns(RuntimeWarning, match="could not write the trace"):
        training.end()
    assert training.trace is not None
    assert training.files == []


def test_a_summary_between_cycles_does_not_end_the_recording() -> None:
    training = Training(None, "a step", schedule=torchprof.schedule(wait=1, active=1), show=[])
    training.begin(Net(), None)
    torchprof.summary(nn.Linear(2, 2), (2,))
    training.step()
    torch.ones(1).exp()
    training.step()
    training.end()
    assert training.trace is not None


def test_what_the_callback_of_the_user_raises_comes_out() -> None:
    def fails(prof: torchprof.profile) -> None:
        raise LookupError("no tracker")

    training = Training(None, "a step", schedule=torchprof.schedule(active=1), on_trace_ready=fails, show=[])
    training.begin(Net(), None)
    torch.ones(1).exp()
    with pytest.raises(LookupError, match="no tracker"):
        training.step()
    training.end()


def test_callbacks_can_be_sent_to_other_processes() -> None:
    loop = by_lightning("lightning.pytorch", "TorchprofProfiler")
    sent = pickle.loads(pickle.dumps(loop.make(None, show=[])))
    loop.run(sent, Net(), 3)
    assert sent.trace.steps["number"].tolist() == [0, 1, 2]


def test_a_script_that_dies_in_training_leaves_a_file(tmp_path: Path) -> None:
    script = """
import torch
from torchprof.integrations.training import Training
training = Training("traces", "a step is one")
training.begin(torch.nn.Linear(2, 2), None)
for _ in range(4):
    torch.ones(2).exp()
    training.step()
raise LookupError("no data")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=HERE, capture_output=True, text=True)
    assert done.returncode == 1
    assert "LookupError: no data" in done.stderr
    assert "torchprof: recorded 4 steps into traces/train.steps2-3.torchprof" in done.stderr
    assert torchprof.load(tmp_path / "traces" / "train.steps2-3.torchprof").facts["ended_by"] == "LookupError"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ranks": "0"}, "ranks='0' must be numbers of ranks"),
        ({"ranks": ()}, r"ranks=\(\) must be numbers of ranks"),
        ({"ranks": (-1,)}, "must be numbers of ranks"),
        ({"show": ["by_modul"]}, "show contains 'by_modul', which cannot be printed: did you mean 'by_module'"),
        ({"show": 3}, "show=3 must be a list"),
        ({"name": "a/b"}, "name='a/b' must be how the names of files begin"),
        ({"schedule": 3}, "schedule must be made by torchprof.schedule"),
        ({"activ": 3}, "'activ' is no setting: there are name, schedule"),
        ({"on_trace_ready": 3}, "on_trace_ready must be a function"),
        ({"stacks": 3}, "stacks=3 must be True or False"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(torchprof.ArgumentError, match=said):
        Training(None, "a step", **settings)


def test_what_is_no_accelerator_and_no_engine_is_named() -> None:
    accelerate = pytest.importorskip("torchprof.integrations.accelerate")
    ignite = pytest.importorskip("torchprof.integrations.ignite")
    with pytest.raises(torchprof.ModuleTypeError, match=r"accelerator=3 is no accelerate.Accelerator"):
        accelerate.profile(3)
    with pytest.raises(torchprof.ModuleTypeError, match=r"engine=3 is no ignite.engine.Engine"):
        ignite.TorchprofHandler(None).attach(3)


def test_other_handlers_of_exceptions_of_an_engine_decide() -> None:
    engine_of = pytest.importorskip("ignite.engine")
    from torchprof.integrations.ignite import TorchprofHandler

    def fails(engine: Any, batch: Any) -> None:
        raise Boom

    told: list[BaseException] = []
    engine = engine_of.Engine(fails)
    handler = TorchprofHandler(None, show=[]).attach(engine)
    engine.add_event_handler(engine_of.Events.EXCEPTION_RAISED, lambda engine, error: told.append(error))
    engine.run([1], max_epochs=1)
    assert isinstance(told[0], Boom)
    assert not handler._training.is_running


def test_a_package_that_is_missing_is_named() -> None:
    script = """
import importlib, sys
for missing in ("transformers", "ignite", "lightning", "lightning.pytorch", "pytorch_lightning"):
    sys.modules[missing] = None
from torchprof import MissingPackageError
for name in ("transformers", "ignite", "lightning"):
    try:
        importlib.import_module(f"torchprof.integrations.{name}")
    except MissingPackageError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], env=HERE, capture_output=True, text=True)
    said = done.stdout.splitlines()
    assert [line.split()[0] for line in said] == [
        "torchprof.integrations.transformers",
        "torchprof.integrations.ignite",
        "torchprof.integrations.lightning",
    ], done.stderr
    assert all("pip install" in line for line in said)
