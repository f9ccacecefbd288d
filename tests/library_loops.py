"""Trainings of the same small model by several libraries, recorded by torchprof's callback, profiler or handler of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

__all__ = ["LOOPS", "Boom", "Loop", "Net", "by_lightning", "by_transformers"]

BATCH = 4


class Boom(Exception):
    """What a training raises."""


class Net(nn.Module):
    """Raises in a call, where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)
        self.calls = 0
        self.fails_in = -1

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.fails_in:
            raise Boom("out of luck")
        y: Tensor = self.layer(x).square().mean()
        return y


class Loop:
    """A training of some library: of the same data and model, with two batches to a step, and an evaluation in between.

    Attributes:
        make: what makes the callback.
        run: trains with it, for so many steps, evaluating every so many of them (0: never); returns the parameters.
    """

    def __init__(self, make: Callable[..., Any], run: Callable[..., None], *, accumulates: bool = True) -> None:
        self.make = make
        self.run = run
        self.batches = 2 if accumulates else 1


def data(steps: int) -> Tensor:
    return torch.ones(steps * BATCH * 2, 8)


def by_transformers() -> Loop:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from torchprof.integrations.transformers import TorchprofCallback

    class OfTrainer(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"loss": self.net(x)}

    def run(callback: Any, net: Net, steps: int, evaluates: int = 0, out: str = "/nonexistent", **more: Any) -> None:
        rows = [{"x": row} for row in data(steps)]
        resumed = more.pop("resume_from_checkpoint", None)
        arguments = transformers.TrainingArguments(
            **{
                "output_dir": out,
                "max_steps": steps,
                "per_device_train_batch_size": BATCH,
                "per_device_eval_batch_size": BATCH,
                "gradient_accumulation_steps": 2,
                "use_cpu": True,
                "report_to": [],
                "save_strategy": "no",
                "disable_tqdm": True,
                "logging_steps": 1000,
                "eval_strategy": "steps" if evaluates else "no",
                "eval_steps": evaluates or None,
                "optim": "sgd",
                **more,
            }
        )
        trainer = transformers.Trainer(
            OfTrainer(net), arguments, train_dataset=rows, eval_dataset=rows, callbacks=[callback] if callback else []
        )
        trainer.train(resume_from_checkpoint=resumed)

    return Loop(TorchprofCallback, run)


def by_lightning(package: str, name: str, *, automatic: bool = True) -> Loop:
    pytorch = pytest.importorskip(package)
    pytest.importorskip("pytorch_lightning")
    from torchprof.integrations import lightning as ours

    class Module(pytorch.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net
            self.automatic_optimization = automatic

        def training_step(self, batch: Tensor, number: int) -> Tensor:
            loss: Tensor = self.net(batch)
            if not automatic:
                optimizer = self.optimizers()
                self.manual_backward(loss)
                if number % 2:
                    optimizer.step()
                    optimizer.zero_grad()
            return loss

        def validation_step(self, batch: Tensor, _: int) -> None:
            self.net(batch)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    def run(ours: Any, net: Net, steps: int, evaluates: int = 0, **more: Any) -> None:
        loader = torch.utils.data.DataLoader(data(steps), batch_size=BATCH)  # type: ignore[arg-type]
        of_name = {} if ours is None else {"profiler": ours} if name == "TorchprofProfiler" else {"callbacks": [ours]}
        quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        trainer = pytorch.Trainer(
            max_steps=steps,
            accelerator="cpu",
            val_check_interval=evaluates * 2 if evaluates else None,
            accumulate_grad_batches=2 if automatic else 1,
            **of_name,
            **{**dict.fromkeys(quiet, False), **more},
        )
        trainer.fit(Module(net), loader, loader if evaluates else None)

    return Loop(getattr(ours, name), run)


def by_accelerate() -> Loop:
    accelerate = pytest.importorskip("accelerate")
    from torchprof.integrations.accelerate import profile

    made: dict[str, Any] = {}

    def make(folder: Any, **settings: Any) -> Any:
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        return made.setdefault("prof", profile(accelerator, None, folder, **settings))

    def run(prof: Any, net: Net, steps: int, evaluates: int = 0) -> None:
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        loader = torch.utils.data.DataLoader(data(steps), batch_size=BATCH)  # type: ignore[arg-type]
        model, optimizer, loader = accelerator.prepare(net, optimizer, loader)
        if prof is not None:
            prof._accelerator, prof._model = accelerator, model

        def loop() -> None:
            for number, batch in enumerate(loader):
                with accelerator.accumulate(model):
                    accelerator.backward(model(batch))
                    optimizer.step()
                    optimizer.zero_grad()
                if prof is not None:
                    if evaluates and number % (2 * evaluates) == 2 * evaluates - 1:
                        prof.end_step()
                        model(batch)
                    prof.step()

        if prof is None:
            loop()
        else:
            with prof:
                loop()

    return Loop(make, run)


def by_ignite() -> Loop:
    engine_of = pytest.importorskip("ignite.engine")
    from torchprof.integrations.ignite import TorchprofHandler

    def run(handler: Any, net: Net, steps: int, evaluates: int = 0) -> None:
        optimizer = torch.optim.SGD(net.parameters(), 0.1)

        def train(engine: Any, batch: Tensor) -> None:
            net(batch).backward()
            if engine.state.iteration % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()

        engine = engine_of.Engine(train)
        if handler is not None:
            handler.attach(engine, net)
        if evaluates:
            every = engine_of.Events.ITERATION_COMPLETED(every=2 * evaluates)
            engine.add_event_handler(every, lambda: net(torch.ones(BATCH, 8)))
        engine.run(torch.utils.data.DataLoader(data(steps), batch_size=BATCH), max_epochs=1)  # type: ignore[arg-type]

    return Loop(lambda folder, **settings: TorchprofHandler(folder, iterations=2, **settings), run)


LOOPS: dict[str, Callable[[], Loop]] = {
    "transformers": by_transformers,
    "lightning": lambda: by_lightning("lightning.pytorch", "TorchprofProfiler"),
    "lightning, manual": lambda: by_lightning("lightning.pytorch", "TorchprofProfiler", automatic=False),
    "lightning, callback": lambda: by_lightning("lightning.pytorch", "TorchprofCallback"),
    "pytorch_lightning": lambda: by_lightning("pytorch_lightning", "TorchprofProfiler"),
    "pytorch_lightning, callback": lambda: by_lightning("pytorch_lightning", "TorchprofCallback"),
    "accelerate": by_accelerate,
    "ignite": by_ignite,
}
