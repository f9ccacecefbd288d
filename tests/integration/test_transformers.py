"""Real architectures, built from configurations: what the summary says against what Python knows of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers as hf
from architectures import ALL, Case, llama_of_seventy_billion

import torchprof
from torchprof.record.nested import find_tensors
from torchprof.trace.schema import SCOPE_BACKWARD


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
    ops = summary.trace.ops
    nodes = (ops["scope"] == SCOPE_BACKWARD) & (ops["forward_thread"] != 0)
    assert (ops["module_call"][nodes] < 0).mean() < 0.02
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_llama_of_seventy_billion_parameters_is_summarised_on_meta() -> None:
    config = llama_of_seventy_billion()
    with torch.device("meta"):
        model = hf.LlamaForCausalLM(config)
        tokens = torch.zeros(1, 4096, dtype=torch.long)
    summary = torchprof.summary(model, input_data={"input_ids": tokens}, fold=True, verbose=0)
    assert summary.totals.params == 70_553_706_496
    assert any(row.copies == 80 for row in summary.rows)
    assert summary.totals.saved > 80 * 4096 * 8192 * 4
    assert all(parameter.is_meta for parameter in model.parameters())
