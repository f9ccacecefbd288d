"""Programs of real size for the accuracy of estimates on CUDA: what people train, in float32 and under autocast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
import transformers as hf
from torch import Tensor, nn

__all__ = ["PROGRAMS", "Program"]

Made = tuple[nn.Module, dict[str, Any]]


@dataclass(frozen=True)
class Program:
    """A training program.

    Attributes:
        make: makes the model and its inputs, by name. What the model returns has its loss under ``"loss"``.
        optimizer: makes the optimizer of parameters.
        amp: the dtype of autocast; None: without.
    """

    make: Callable[[], Made]
    optimizer: Callable[..., torch.optim.Optimizer]
    amp: torch.dtype | None = None

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, **inputs: Any) -> None:
        """One training step, in which nothing but the loss is held during backward."""
        with torch.autocast("cuda", self.amp, enabled=self.amp is not None):
            loss = model(**inputs)["loss"]
        loss.backward()
        optimizer.step()
        model.zero_grad()


def gpt2() -> Made:
    return hf.GPT2LMHeadModel(hf.GPT2Config()).train(), words(50257, 4, 512)


def llama() -> Made:
    config = hf.LlamaConfig(
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=8,
        num_attention_heads=16,
        num_key_value_heads=4,
        vocab_size=32000,
    )
    return hf.LlamaForCausalLM(config).train(), words(32000, 4, 512)


def bert() -> Made:
    ids = words(30522, 16, 128)["input_ids"]
    inputs = {"input_ids": ids, "labels": torch.zeros(16, dtype=torch.long), "attention_mask": torch.ones_like(ids)}
    return hf.BertForSequenceClassification(hf.BertConfig()).train(), inputs


def t5() -> Made:
    config = hf.T5Config(num_layers=4, decoder_start_token_id=0)
    return hf.T5ForConditionalGeneration(config).train(), words(32000, 8, 128)


def vit() -> Made:
    inputs = {"pixel_values": torch.randn(8, 3, 224, 224), "labels": torch.zeros(8, dtype=torch.long)}
    return hf.ViTForImageClassification(hf.ViTConfig(num_labels=100)).train(), inputs


class Classifier(nn.Module):
    """A network with a loss."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": nn.functional.cross_entropy(self.net(x).flatten(0, -2), labels.flatten())}


def resnet50(memory_format: torch.memory_format = torch.contiguous_format) -> Made:
    from torchvision.models import resnet50

    model = Classifier(resnet50()).to(memory_format=memory_format)
    x = torch.randn(16, 3, 224, 224).to(memory_format=memory_format)
    return model.train(), {"x": x, "labels": torch.zeros(16, dtype=torch.long)}


def resnet50_channels_last() -> Made:
    return resnet50(torch.channels_last)


class Recurrent(nn.Module):
    """Recurrent layers and a head on their outputs."""

    def __init__(self, embedding: nn.Module, layers: nn.Module, classes: int, *, last: bool) -> None:
        super().__init__()
        self.embedding, self.layers, self.head, self.last = embedding, layers, nn.Linear(512, classes), last

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(self.embedding(x))[0]
        made: Tensor = self.head(out[:, -1] if self.last else out)
        return made


def lstm() -> Made:
    layers = nn.LSTM(256, 512, 2, batch_first=True, dropout=0.1)
    given = words(10000, 16, 64)
    model = Recurrent(nn.Embedding(10000, 256), layers, 10000, last=False)
    return Classifier(model).train(), {"x": given["input_ids"], "labels": given["labels"]}


def gru() -> Made:
    model = Recurrent(nn.Identity(), nn.GRU(256, 512, 2, batch_first=True), 10, last=True)
    return Classifier(model).train(), {"x": torch.randn(16, 64, 256), "labels": torch.zeros(16, dtype=torch.long)}


def words(vocabulary: int, batch: int, length: int) -> dict[str, Tensor]:
    """Words, and the same again as labels, in tensors of their own."""
    drawn = torch.randint(0, vocabulary, (batch, length))
    return {"input_ids": drawn, "labels": drawn.clone()}


def fused(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, fused=True)


ADAMW, SGD = torch.optim.AdamW, torch.optim.SGD
BF16, FP16 = torch.bfloat16, torch.float16

PROGRAMS: Final = {
    "gpt2": Program(gpt2, ADAMW),
    "gpt2-sgd": Program(gpt2, SGD),
    "gpt2-bf16": Program(gpt2, ADAMW, BF16),
    "gpt2-fused": Program(gpt2, fused, BF16),
    "llama": Program(llama, ADAMW),
    "llama-bf16": Program(llama, ADAMW, BF16),
    "bert": Program(bert, ADAMW),
    "bert-fp16": Program(bert, ADAMW, FP16),
    "t5": Program(t5, ADAMW),
    "t5-bf16": Program(t5, ADAMW, BF16),
    "vit": Program(vit, ADAMW),
    "vit-bf16": Program(vit, ADAMW, BF16),
    "resnet50": Program(resnet50, SGD),
    "resnet50-bf16": Program(resnet50, SGD, BF16),
    "resnet50-channels-last": Program(resnet50_channels_last, SGD),
    "resnet50-cl-bf16": Program(resnet50_channels_last, SGD, BF16),
    "lstm": Program(lstm, ADAMW),
    "lstm-bf16": Program(lstm, ADAMW, BF16),
    "gru": Program(gru, ADAMW),
}
"""By name."""
