"""Training loops as people write them, and with the libraries that they use. Each takes what to call at the end of a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

__all__ = ["LOOPS", "STEPS"]

STEPS = 6

Step = Callable[[], None]


class Loop:
    """A loop that can be run.

    Attributes:
        models: what is trained.
    """

    def __init__(self, models: dict[str, nn.Module], run: Callable[[Step], None]) -> None:
        self.models = models
        self.run = run


def network(inside: int, outside: int, width: int = 32) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inside, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, outside))


def data(batch: int = 16) -> DataLoader[Any]:
    torch.manual_seed(1)
    return DataLoader(TensorDataset(torch.randn(STEPS * batch, 8), torch.randn(STEPS * batch, 4)), batch_size=batch)


def plain() -> Loop:
    model = network(8, 4)
    optimizer = torch.optim.AdamW(model.parameters())

    def run(step: Step) -> None:
        for x, y in data():
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step()

    return Loop({"model": model}, run)


def closures() -> Loop:
    model = network(8, 4)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3, history_size=2)

    def run(step: Step) -> None:
        for x, y in data():

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)
            step()

    return Loop({"model": model}, run)


def gan() -> Loop:
    generator, critic = network(4, 8), network(8, 1)
    of_generator = torch.optim.Adam(generator.parameters())
    of_critic = torch.optim.Adam(critic.parameters())

    def run(step: Step) -> None:
        for x, _ in data():
            made = generator(torch.randn(len(x), 4))
            of_critic.zero_grad()
            (critic(made.detach()).mean() - critic(x).mean()).backward()
            of_critic.step()
            of_generator.zero_grad()
            (-critic(made).mean()).backward()
            of_generator.step()
            step()

    return Loop({"generator": generator, "critic": critic}, run)


def transformers_trainer() -> Loop:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2, n_embd=16, n_head=2, vocab_size=50, n_positions=16, bos_token_id=0, eos_token_id=1
    )
    model = transformers.GPT2LMHeadModel(config)
    rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(0, 50, (STEPS * 8, 12))]

    def run(step: Step) -> None:
        class Ends(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                step()

        arguments = transformers.TrainingArguments(
            output_dir="/nonexistent",
            max_steps=STEPS,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_steps=2,
        )
        transformers.Trainer(model, arguments, train_dataset=rows, callbacks=[Ends()]).train()

    return Loop({"model": model}, run)


def accelerate_loop() -> Loop:
    accelerate = pytest.importorskip("accelerate")
    model = network(8, 4)

    def run(step: Step) -> None:
        accelerator = accelerate.Accelerator(cpu=True)
        wrapped, optimizer, loader = accelerator.prepare(model, torch.optim.AdamW(model.parameters()), data())
        for x, y in loader:
            with accelerator.accumulate(wrapped):
                accelerator.backward(nn.functional.mse_loss(wrapped(x), y))
                accelerator.clip_grad_norm_(wrapped.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            step()

    return Loop({"model": model}, run)


def lightning_loop(automatic: bool) -> Loop:
    lightning = pytest.importorskip("lightning")

    class Trained(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = automatic
            self.net = network(8, 4)

        def training_step(self, batch: Any, _: int) -> Tensor:
            x, y = batch
            loss = nn.functional.mse_loss(self.net(x), y)
            if not automatic:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

    model = Trained()

    def run(step: Step) -> None:
        class Ends(lightning.Callback):  # type: ignore[misc, name-defined]
            def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
                step()

        lightning.Trainer(
            max_steps=STEPS,
            accelerator="cpu",
            logger=False,
            callbacks=[Ends()],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(model, data())

    return Loop({"model": model}, run)


LOOPS: dict[str, Callable[[], Loop]] = {
    "plain": plain,
    "lbfgs": closures,
    "gan": gan,
    "transformers": transformers_trainer,
    "accelerate": accelerate_loop,
    "lightning, automatic": lambda: lightning_loop(True),
    "lightning, manual": lambda: lightning_loop(False),
}
