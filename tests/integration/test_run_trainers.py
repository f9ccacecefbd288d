"""`torchprof run` of programs whose loops are in a library: what they print, and their parameters, are the same to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_programs import Ran, by_run, plainly

import torchprof

PROGRAM = """
    import os, warnings
    warnings.filterwarnings("ignore")
    import torch

    def total(model):
        return [parameter.double().sum().item() for parameter in model.parameters()]

    def by_lightning():
        import lightning

        class Module(lightning.LightningModule):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(8, 2)
            def training_step(self, batch, number):
                return self.layer(batch).sum()
            def validation_step(self, batch, number):
                self.layer(batch)
            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), 0.1)

        torch.manual_seed(0)
        loader = torch.utils.data.DataLoader(torch.randn(8, 8), batch_size=2)
        model = Module()
        quiet = ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"]
        lightning.Trainer(max_epochs=1, accelerator="cpu", **dict.fromkeys(quiet, False)).fit(model, loader, loader)
        return total(model)

    def by_transformers():
        import transformers
        config = transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=16, n_positions=8)
        transformers.set_seed(0)
        model = transformers.GPT2LMHeadModel(config)
        data = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 8
        arguments = transformers.TrainingArguments(
            "out", max_steps=4, per_device_train_batch_size=2, report_to=[], save_strategy="no", disable_tqdm=True,
            use_cpu=True, logging_steps=100,
        )
        transformers.Trainer(model, arguments, train_dataset=data).train()
        return total(model)

    def by_accelerate():
        import accelerate
        torch.manual_seed(0)
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())
        optimizer, loader = torch.optim.AdamW(model.parameters()), torch.utils.data.DataLoader(torch.randn(16, 8), batch_size=2)
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        for batch in loader:
            with accelerator.accumulate(model):
                accelerator.backward(model(batch).sum())
                optimizer.step()
                optimizer.zero_grad()
        return total(model)

    if __name__ == "__main__":
        for train in (by_lightning, by_transformers, by_accelerate):
            for number in train():
                print(train.__name__, number)
"""
MODELS = {"Module": 4, "GPT2LMHeadModel": 4, "Sequential": 4}
"""Classes of the models, and how many steps each is trained for."""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Ran]:
    for name in ("lightning", "transformers", "accelerate"):
        pytest.importorskip(name)
    folder: Path = tmp_path_factory.mktemp("trainers")
    return plainly(folder, PROGRAM), by_run(folder, PROGRAM)


def without_times(out: str) -> list[str]:
    return [line for line in out.splitlines() if "runtime" not in line]


def test_what_they_print_and_learn_is_the_same(ran: tuple[Ran, Ran]) -> None:
    plain, recorded = ran
    assert without_times(recorded.out) == without_times(plain.out)
    assert (plain.code, recorded.code) == (0, 0)


def test_their_models_and_steps_are_found(ran: tuple[Ran, Ran]) -> None:
    trace = ran[1].trace()
    assert trace.model is not None
    assert [info.type for info in trace.model.modules if info.parent < 0] == list(MODELS)
    assert {"Module.layer", "GPT2LMHeadModel.transformer.h.0.attn.c_attn"} <= {info.path for info in trace.model.modules}
    # The first two of a training after another are one, unless its parameters came to lie where those of the other were.
    assert sum(MODELS.values()) - 2 <= len(trace.steps) <= sum(MODELS.values())
    rows = {row["path"]: row for row in torchprof.by_module(trace).rows if "path" in row}
    assert all(rows[path]["calls"] for path in ("Module.layer", "GPT2LMHeadModel.lm_head", "Sequential.0"))
