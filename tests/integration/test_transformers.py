"""Real architectures, built from configurations: what the summary says against what Python knows of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

import torchprof
from torchprof.nested import find_tensors

Case = tuple[nn.Module, dict[str, Any]]
TOKENS = torch.arange(20).view(2, 10)


def gpt2() -> Case:
    config = hf.GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=50, n_positions=32)
    return hf.GPT2LMHeadModel(config), {"input_ids": TOKENS}


def llama() -> Case:
    config = hf.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=50
    )
    return hf.LlamaForCausalLM(config), {"input_ids": TOKENS}


def bert() -> Case:
    config = hf.BertConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=50)
    return hf.BertModel(config), {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)}


def t5() -> Case:
    config = hf.T5Config(d_model=32, d_ff=64, d_kv=8, num_layers=2, num_heads=4, vocab_size=50)
    return hf.T5ForConditionalGeneration(config), {"input_ids": TOKENS, "decoder_input_ids": TOKENS[:, :4]}


def vit() -> Case:
    config = hf.ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    return hf.ViTForImageClassification(config), {"pixel_values": torch.rand(2, 3, 32, 32)}


def whisper() -> Case:
    config = hf.WhisperConfig(
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        vocab_size=50,
        max_source_positions=50,
        max_target_positions=20,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return hf.WhisperModel(config), {"input_features": torch.rand(1, 80, 100), "decoder_input_ids": TOKENS[:1, :4]}


def mamba() -> Case:
    config = hf.MambaConfig(hidden_size=32, state_size=4, num_hidden_layers=2, vocab_size=50)
    return hf.MambaModel(config), {"input_ids": TOKENS}


def resnet() -> Case:
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    return hf.ResNetForImageClassification(config), {"pixel_values": torch.rand(2, 3, 32, 32)}


ALL: list[Callable[[], Case]] = [gpt2, llama, bert, t5, vit, whisper, mamba, resnet]


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore")
def test_the_summary_agrees_with_what_python_sees(make: Callable[[], Case]) -> None:
    model, data = make()
    model.eval()
    seen: dict[str, list[list[tuple[int, ...]]]] = {}
    hooks = [
        module.register_forward_hook(
            lambda module, args, output, path=path: seen.setdefault(path, []).append(
                [tuple(tensor.shape) for tensor in find_tensors(output)]
            )
        )
        for path, module in model.named_modules()
    ]
    model(**data)
    for hook in hooks:
        hook.remove()

    summary = torchprof.summary(model, input_data=data, backward=True, verbose=0)
    rows = [row for row in summary.rows if not row.note.startswith(("same module", "not registered"))]
    assert [row.path for row in rows] == [path for path, _ in model.named_modules()]
    assert summary.totals.params == sum(p.numel() for p in model.parameters())
    assert summary.totals.buffer_bytes == sum(b.nbytes for b in model.buffers())
    for row in rows:
        assert row.calls == len(seen.get(row.path, [])), row.path
        if row.calls:
            assert list(row.output_shapes) == seen[row.path][0], row.path
    assert 0 <= summary.totals.backward_unattributed < 0.1 * summary.totals.backward
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_llama_of_seventy_billion_parameters_is_summarised_on_meta() -> None:
    config = hf.LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
    )
    with torch.device("meta"):
        model = hf.LlamaForCausalLM(config)
        tokens = torch.zeros(1, 4096, dtype=torch.long)
    summary = torchprof.summary(model, input_data={"input_ids": tokens}, fold=True, verbose=0)
    assert summary.totals.params == 70_553_706_496
    assert any(row.copies == 80 for row in summary.rows)
    assert summary.totals.saved > 80 * 4096 * 8192 * 4
    assert all(parameter.is_meta for parameter in model.parameters())
