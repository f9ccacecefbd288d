"""Limits on real models: a transformer, its parts, and a model that is compiled. Each run is a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from pytest_runs import loaded

ROOT = Path(__file__).parents[2]
GPT2 = """
import pytest, torch, transformers

@pytest.fixture
def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=32, vocab_size=128, n_positions=64, use_cache=False)
    return transformers.GPT2LMHeadModel(config)

def products(batch=2, length=16, width=32, layers=2, vocabulary=128):
    tokens = batch * length
    layer = 2 * tokens * (width * 3 * width + width * width + 8 * width * width)
    return layer, 2 * tokens * width * vocabulary

LAYER, HEAD = products()
ATTENTION = 2 * 2 * 2 * 16 * 16 * 32  # q k and p v, of 2 sequences

@pytest.mark.limit(params=sum([128 * 32, 64 * 32, 2 * (12 * 32 * 32 + 13 * 32), 2 * 32]))
@pytest.mark.limit(module="transformer.h.1", params=12 * 32 * 32 + 13 * 32, flops=LAYER + ATTENTION)
@pytest.mark.limit(module="transformer.h.1.mlp", flops=2 * 2 * 16 * 8 * 32 * 32)
@pytest.mark.limit(module="lm_head", flops=HEAD)
@pytest.mark.limit(peak="8 MiB")
def test_forward(gpt2):
    with torch.no_grad(): gpt2(torch.zeros(2, 16, dtype=torch.long))

@pytest.mark.limit(module="transformer.h.1.mlp", flops=2 * 2 * 16 * 8 * 32 * 32 - 1, saved="1 KiB")
@pytest.mark.limit(peak="100 KiB")
def test_training(gpt2):
    ids = torch.zeros(2, 16, dtype=torch.long)
    optimizer = torch.optim.AdamW(gpt2.parameters())
    gpt2(ids, labels=ids).loss.backward()
    optimizer.step()

@pytest.mark.limit(peak="8 MiB", saved=0, params="1 M")
def test_generate(gpt2):
    gpt2.generate(torch.zeros(1, 4, dtype=torch.long), max_new_tokens=3, do_sample=False, pad_token_id=0)
"""
COMPILED = """
import pytest, torch
from torch import nn

class Net(nn.Module):
    def __init__(self, breaks):
        super().__init__()
        self.fc, self.breaks = nn.Linear(8, 8), breaks
    def forward(self, x):
        x = self.fc(x)
        if self.breaks: torch._dynamo.graph_break()
        return x.relu()

@pytest.fixture(autouse=True)
def fresh(): torch.compiler.reset()

@pytest.mark.limit(graph_breaks=0, params=72, peak="1 MiB")
def test_whole(): torch.compile(Net(False), backend="eager")(torch.ones(2, 8))
@pytest.mark.limit(graph_breaks=0)
def test_broken(): torch.compile(Net(True), backend="eager")(torch.ones(2, 8))
@pytest.mark.limit(graph_breaks=1)
def test_allowed(): torch.compile(Net(True), backend="eager")(torch.ones(2, 8))
@pytest.fixture
def compiled():
    net = torch.compile(Net(True), backend="eager")
    net(torch.ones(2, 8))
    return net
@pytest.mark.limit(graph_breaks=0)
def test_compiled_before(compiled): compiled(torch.ones(2, 8))
"""


def printed_by(folder: Path, source: str, *arguments: str) -> str:
    """What pytest prints of these tests, in a process in which nothing was compiled before."""
    (folder / "test_it.py").write_text(source)
    command = [sys.executable, "-m", "pytest", *loaded(), "-q", "-rA", "-W", "ignore", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment).stdout


def test_a_transformer_and_its_modules_keep_limits_that_are_computed_by_hand(tmp_path: Path) -> None:
    printed = printed_by(tmp_path, GPT2, "--torchprof")
    assert "PASSED test_it.py::test_forward" in printed, printed
    assert "PASSED test_it.py::test_generate" in printed, printed
    assert "FAILED test_it.py::test_training - Failed: peak on cpu: " in printed, printed
    assert re.search(r"^bytes saved for backward of transformer.h.1.mlp on cpu: .* and the limit is 1 KiB$", printed, re.M)
    assert re.search(
        r"^FLOPs of transformer.h.1.mlp: .*, and the limit is [\d,]+\nModule|^FLOPs of transformer.h.1.mlp: ", printed, re.M
    )
    assert re.search(r"^transformer.h.1.mlp \(GPT2MLP\) +[\d.]+ [kM]", printed, re.M), printed


def test_graph_breaks_are_counted_where_code_is_compiled(tmp_path: Path) -> None:
    printed = printed_by(tmp_path, COMPILED, "-p", "no:logging")
    assert "PASSED test_it.py::test_whole" in printed, printed
    assert "PASSED test_it.py::test_allowed" in printed, printed
    said = r"^graph breaks: 1, and the limit is 0\n1 x Call to `torch._dynamo.graph_break\(\)`\nGoes on in: forward, line 11$"
    assert re.search(said, printed, re.M), printed
    assert re.search(r"FAILED test_it.py::test_compiled_before - Failed: graph breaks: it cannot be told", printed), printed
