"""`torchprof.watch`: a few steps of a long job every so often, and nothing in between."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks

import torchprof
from torchprof import _C


class Job:
    """A model that is trained step by step."""

    def __init__(self) -> None:
        self.model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1)

    def step(self) -> None:
        self.model(torch.ones(2, 4)).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.step()

    def evaluate(self) -> None:
        with torch.no_grad():
            self.model.eval()(torch.ones(64, 4))
        self.model.train()


@pytest.fixture
def job() -> Iterator[Job]:
    hooks = dict(_global_optimizer_post_hooks)
    yield Job()
    assert dict(_global_optimizer_post_hooks) == hooks


def watched(job: Job, **options: int) -> torchprof.watch:
    return torchprof.watch(job.model, **{"every": 4, "active": 2, "warmup": 1, "first": 1, **options})  # type: ignore[arg-type]


def spans(watching: torchprof.watch) -> list[tuple[int, int]]:
    return [(window.first, window.last) for window in watching.windows]


def test_steps_are_those_of_the_optimizer_and_some_are_recorded(job: Job) -> None:
    with watched(job) as watching:
        for _ in range(10):
            job.step()
    assert spans(watching) == [(2, 3), (6, 7)]
    assert watching.number == 10
    assert watching.trace.steps["number"].tolist() == [5, 6, 7]
    calls = {row["path"]: row["calls"] for row in torchprof.by_module(watching.trace).rows if row.get("path")}
    assert calls["0"] == 1, "per step"


def test_a_loop_may_say_itself_what_a_step_is(job: Job) -> None:
    with torchprof.watch(job.model, every=3, active=2, warmup=0, first=1, steps_by="step") as watching:
        for _ in range(8):
            job.steps(2)  # which are of one
            watching.step()
    assert spans(watching) == [(1, 2), (4, 5), (7, 7)], "the last one has the steps that there were"
    calls = {row["path"]: row["calls"] for row in torchprof.by_module(watching.trace).rows if row.get("path")}
    assert calls["0"] == 2
    with pytest.raises(torchprof.RecordingError, match="outside the watch"):
        watching.step()
    with watched(job) as watching, pytest.raises(torchprof.RecordingError, match="are those of the optimizer"):
        watching.step()


def test_nothing_is_installed_between_windows(job: Job) -> None:
    before = _C.installed(nn.Module)
    with watched(job, every=6, first=2) as watching:
        seen = []
        for _ in range(12):
            seen.append(_C.installed(nn.Module) == before)
            job.step()
    # Steps 2 to 4 and 8 to 10 are recorded.
    assert seen == [True, True, False, False, False, True] * 2
    assert _C.installed(nn.Module) == before
    assert len(watching.windows) == 2


def test_the_figures_are_those_of_the_trace(job: Job) -> None:
    with watched(job) as watching:
        for _ in range(4):
            job.step()
    rows = [row for row in torchprof.by_step(watching.trace).rows if not row["warmup"]]
    (window,) = watching.windows
    for name in ("time", "forward", "backward", "optimizer", "other"):
        assert window.figures[name] == sum(row[name] for row in rows) / 2
    assert window.figures["peak"] == max(row["peak"] for row in rows)
    assert "kernels" not in window.figures
    assert window.ended_by == ""
    (row,) = watching.table().rows
    assert row["name"] == "2 to 3"
    assert row["time"] == window.figures["time"]


def validated(job: Job, steps: int, each: int, **options: int) -> torchprof.watch:
    """A watch of a job that is evaluated after every so many steps."""
    with watched(job, **options) as watching:
        for step in range(steps):
            job.step()
            if step % each == each - 1:
                job.evaluate()
    return watching


def test_a_step_with_an_evaluation_is_named_and_is_not_in_the_figures(job: Job) -> None:
    watching = validated(job, 10, 5, every=9, active=8)  # after step 4, so in step 5
    (window,) = watching.windows
    assert (window.first, window.last, window.evaluation_steps, window.counts_evaluations) == (2, 9, (5,), False)
    rows = [row for row in torchprof.by_step(watching.trace).rows if row["step"] in (2, 3, 4, 6, 7, 8, 9)]
    assert len(rows) == 7
    for name in ("time", "forward", "allocated"):
        assert window.figures[name] == sum(row[name] for row in rows) / 7
    said = "Evaluation: in step 5 a model was also called without gradients or in eval mode; "
    assert f"{said}left out of these rows" in str(watching.table())
    assert f"{said}they are in the means" in str(torchprof.by_module(watching.trace)), "sums have it"


def test_where_no_sums_are_kept_such_a_step_is_left_out_of_tables(job: Job) -> None:
    watching = validated(job, 10, 5, every=9, active=8, aggregate=False)
    (window,) = watching.windows
    assert (window.first, window.last, window.evaluation_steps) == (2, 9, (5,))
    assert window.figures["allocated"] == next(
        row["allocated"] for row in torchprof.by_step(watching.trace).rows if row["step"] == 6
    )
    table = torchprof.by_module(watching.trace)
    assert "Evaluation: in step 5 a model was also called" in str(table)
    assert "left out, as warm-up is" in str(table)
    assert next(row["calls"] for row in table.rows if row["path"] == "0") == 1


def test_a_window_at_whose_end_is_an_evaluation_has_its_first_and_last_step(job: Job) -> None:
    (window,) = validated(job, 10, 9, every=9, active=8).windows
    assert (window.first, window.last, window.evaluation_steps) == (2, 9, (9,))


@pytest.mark.parametrize("aggregate", [True, False])
def test_a_window_that_has_no_other_step_says_that_it_has_an_evaluation(job: Job, aggregate: bool) -> None:
    watching = validated(job, 8, 7, every=2, active=1, warmup=0, aggregate=aggregate)
    assert spans(watching) == [(1, 1), (3, 3), (5, 5), (7, 7)]
    assert [window.evaluation_steps for window in watching.windows] == [(), (), (), (7,)]
    assert watching.windows[-1].counts_evaluations
    assert "eval mode; in these rows, as their windows have no other steps" in str(watching.table())
    assert "they are in the means" in str(torchprof.by_module(watching.trace))


def test_where_most_steps_evaluate_a_model_that_is_training(job: Job) -> None:
    watching = validated(job, 10, 1)
    assert [window.evaluation_steps for window in watching.windows] == [(), ()]
    assert "Evaluation" not in str(watching.table())
    assert "evaluation_steps" not in watching.trace.facts


def test_a_loop_that_says_its_steps_has_evaluations_too(job: Job) -> None:
    with torchprof.watch(job.model, every=6, active=5, warmup=1, first=0, steps_by="step") as watching:
        for step in range(6):
            job.step()
            if step == 3:
                job.evaluate()
            watching.step()
    assert [window.evaluation_steps for window in watching.windows] == [(3,)]


def test_looking_for_evaluations_never_ends_the_job(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise LookupError

    monkeypatch.setattr("torchprof.running.evaluation.Evaluations.look", fails)
    assert spans(validated(job, 10, 5)) == [(2, 3), (6, 7)]


def test_of_many_windows_the_last_are_kept(job: Job) -> None:
    with watched(job, every=1, active=1, warmup=0, first=0, keep=3) as watching:
        for _ in range(8):
            job.step()
    assert spans(watching) == [(5, 5), (6, 6), (7, 7)]


def test_the_callback_is_called_while_nothing_is_recorded(job: Job) -> None:
    told = []

    def tell(watching: torchprof.watch) -> None:
        told.append((spans(watching), len(watching.trace.steps), threading.get_ident()))
        torchprof.summary(job.model, (4,), batch_size=1)  # which records

    with torchprof.watch(job.model, every=4, active=1, warmup=0, first=0, on_trace_ready=tell):
        for _ in range(6):
            job.step()
    here = threading.get_ident()
    assert told == [([(0, 0)], 1, here), ([(0, 0), (4, 4)], 1, here)]


def test_a_handler_of_files_is_a_callback(job: Job, tmp_path: os.PathLike[str]) -> None:
    keep = torchprof.handlers.save(tmp_path, "job")
    with torchprof.watch(job.model, every=4, active=2, warmup=0, first=0, on_trace_ready=keep):
        for _ in range(6):
            job.step()
    assert [os.path.basename(file) for file in keep.files] == ["job.steps0-1.torchprof", "job.steps4-5.torchprof"]


def test_a_callback_that_raises_does_not_end_the_job(job: Job) -> None:
    def fails(watching: torchprof.watch) -> None:
        raise LookupError("no tracker")

    watching = torchprof.watch(job.model, every=2, active=1, warmup=0, first=0, on_trace_ready=fails)
    said = "on_trace_ready of torchprof.watch raised LookupError: no tracker"
    with watching, pytest.warns(RuntimeWarning, match=said):
        job.steps(3)
    assert len(watching.windows) == 2


def test_an_interrupt_in_the_callback_comes_out_and_all_is_put_back(job: Job) -> None:
    def interrupted(watching: torchprof.watch) -> None:
        raise KeyboardInterrupt

    watching = torchprof.watch(job.model, every=2, active=1, warmup=0, first=0, on_trace_ready=interrupted)
    with pytest.raises(KeyboardInterrupt), watching:
        job.step()
    assert not watching.is_running


def test_an_exception_of_the_loop_ends_the_window_with_what_it_has(job: Job) -> None:
    watching = watched(job, active=3)

    def loop() -> None:
        with watching:
            job.steps(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    assert spans(watching) == [(2, 2)]
    assert watching.windows[0].ended_by == "ZeroDivisionError"


def test_a_window_without_a_step_that_counts_is_none(job: Job) -> None:
    with watched(job) as watching:
        job.step()
        job.step()
    assert len(watching.windows) == 0
    with pytest.raises(torchprof.RecordingError, match="no window came to its end yet"):
        _ = watching.trace
    assert "No window came to its end yet" in str(watching.table())


def test_a_recording_of_the_program_comes_first(job: Job) -> None:
    prof = torchprof.profile(job.model)
    with watched(job) as watching:
        job.steps(2)
        with pytest.warns(RuntimeWarning, match="left out the window at step 1.*another recording began"):
            prof.__enter__()
        job.step()
        prof.__exit__(None, None, None)
        job.steps(6)
    assert len(prof.trace.ops)
    assert watching.missed == 1
    assert spans(watching) == [(6, 7)]


def test_a_window_that_would_begin_in_a_recording_is_left_out(job: Job) -> None:
    watching, prof = watched(job), torchprof.profile(job.model)
    with watching, prof, pytest.warns(RuntimeWarning, match="left out the window at step 1"):
        job.steps(7)
    assert watching.missed == 2
    assert len(prof.trace.ops)


def test_it_is_started_and_stopped_without_a_block(job: Job) -> None:
    watching = watched(job)
    assert watching.start() is watching
    with pytest.raises(torchprof.RecordingError, match="was started already"):
        watching.start()
    for _ in range(4):
        job.step()
    watching.stop()
    watching.stop()
    for _ in range(4):
        job.step()
    assert spans(watching) == [(2, 3)]
    with watching:  # again
        assert (len(watching.windows), watching.number) == (0, 0)


def test_steps_of_other_threads_do_not_count(job: Job) -> None:
    other = Job()
    with watched(job) as watching:
        job.step()
        thread = threading.Thread(target=other.step)
        thread.start()
        thread.join()
        job.step()
    assert watching.number == 2


def test_the_model_learns_what_it_learns_without_it() -> None:
    learned = []
    for is_watched in (False, True):
        torch.manual_seed(0)
        job = Job()
        with watched(job, every=3) if is_watched else torch.enable_grad():
            for _ in range(9):
                job.step()
        learned.append([parameter.clone() for parameter in job.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*learned, strict=True))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"every": 3, "active": 3}, "every=3 is less than a window has steps: 1 that warm up and 3 active ones"),
        ({"every": 0}, "every must be an int of at least 1"),
        ({"active": True}, "active must be an int of at least 1"),
        ({"first": -1}, "first must be an int of at least 0"),
        ({"steps_by": "batches"}, "steps_by='batches' must be 'optimizer' or 'step'"),
        ({"keep": 0}, "keep=0 must be an int of at least 1"),
        ({"on_trace_ready": 3}, "on_trace_ready must be a function"),
        ({"budget": 3}, "budget must be a number of bytes"),
        ({"gpu": "tpu"}, "gpu must be one of"),
    ],
)
def test_arguments_that_cannot_be_are_named(options: dict[str, object], said: str) -> None:
    with pytest.raises(torchprof.ArgumentError, match=said):
        torchprof.watch(nn.Linear(2, 2), **options)  # type: ignore[arg-type]
