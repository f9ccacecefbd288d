"""Real architectures from transformers, built small from configurations: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from torchprof.record.nested import find_tensors

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


def llama_of_seventy_billion() -> hf.LlamaConfig:
    """The shape of Llama-70B; only ever built on ``meta``."""
    return hf.LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
    )


def mistral() -> Case:
    config = hf.MistralConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=50,
        sliding_window=4,
    )
    return hf.MistralForCausalLM(config), {"input_ids": TOKENS}


def mixtral() -> Case:
    config = hf.MixtralConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=50,
        num_local_experts=4,
    )
    return hf.MixtralForCausalLM(config), {"input_ids": TOKENS}


def opt() -> Case:
    config = hf.OPTConfig(
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=50,
        max_position_embeddings=32,
        word_embed_proj_dim=32,
    )
    return hf.OPTForCausalLM(config), {"input_ids": TOKENS}


def bloom() -> Case:
    config = hf.BloomConfig(hidden_size=32, n_layer=2, n_head=2, vocab_size=50)
    return hf.BloomForCausalLM(config), {"input_ids": TOKENS}


def bert() -> Case:
    config = hf.BertConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=50)
    return hf.BertModel(config), {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)}


def electra() -> Case:
    config = hf.ElectraConfig(
        embedding_size=16, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=50
    )
    return hf.ElectraModel(config), {"input_ids": TOKENS}


def t5() -> Case:
    config = hf.T5Config(d_model=32, d_ff=64, d_kv=8, num_layers=2, num_heads=4, vocab_size=50)
    return hf.T5ForConditionalGeneration(config), {"input_ids": TOKENS, "decoder_input_ids": TOKENS[:, :4]}


def vit() -> Case:
    config = hf.ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    return hf.ViTForImageClassification(config), {"pixel_values": torch.rand(2, 3, 32, 32)}


def swin() -> Case:
    config = hf.SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4)
    return hf.SwinForImageClassification(config), {"pixel_values": torch.rand(2, 3, 32, 32)}


def clip() -> Case:
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = hf.CLIPConfig(
        text_config={**small, "vocab_size": 50, "max_position_embeddings": 32, "bos_token_id": 0, "eos_token_id": 1},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    return hf.CLIPModel(config), {"input_ids": TOKENS, "pixel_values": torch.rand(2, 3, 32, 32)}


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


def wav2vec2() -> Case:
    config = hf.Wav2Vec2Config(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        conv_dim=(16, 16),
        conv_kernel=(10, 3),
        conv_stride=(5, 2),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    return hf.Wav2Vec2Model(config), {"input_values": torch.rand(2, 400)}


def mamba() -> Case:
    config = hf.MambaConfig(hidden_size=32, state_size=4, num_hidden_layers=2, vocab_size=50)
    return hf.MambaModel(config), {"input_ids": TOKENS}


def resnet() -> Case:
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    return hf.ResNetForImageClassification(config), {"pixel_values": torch.rand(2, 3, 32, 32)}


def convnext() -> Case:
    config = hf.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)
    return hf.ConvNextForImageClassification(config), {"pixel_values": torch.rand(2, 3, 32, 32)}


ALL: list[Callable[[], Case]] = [
    gpt2,
    llama,
    mistral,
    mixtral,
    opt,
    bloom,
    bert,
    electra,
    t5,
    vit,
    swin,
    clip,
    whisper,
    wav2vec2,
    mamba,
    resnet,
    convnext,
]


def loss_of(output: Any) -> Tensor:
    """A loss that every output that can be differentiated contributes to."""
    return torch.stack([tensor.square().mean() for tensor in find_tensors(output) if tensor.requires_grad]).sum()
