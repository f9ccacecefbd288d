"""``flex_attention`` on CUDA, where it can be trained, and keeps a log-sum-exp: fake tensors say that they are on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Final

import torch

from torchprof.estimation.fake.callers import in_graph, remarked, replaced
from torchprof.estimation.fake.higher_order import FLEX_AS_WRITTEN
from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.target import Target
from torchprof.estimation.torch_private import HIGHER_ORDER
from torchprof.trace.trace import Trace


class _OnCuda:
    """All that is asked of a tensor."""

    device = torch.device("cuda")


ON_CUDA: Final = _OnCuda()


@rule(
    Kind.PATCH,
    "torch.nn.attention.flex_attention",
    on="cuda",
    when="always: the CPU refuses gradients, and returns no log-sum-exp",
    source="_validate_device and _apply_kernel_options in torch/nn/attention/flex_attention.py",
)
@contextmanager
def flex_attention_of_cuda(target: Target) -> Iterator[None]:
    """Tensors are on CUDA for ``flex_attention``, until the block ends."""
    module = HIGHER_ORDER.flex_attention
    validate, apply_options = module._validate_device, module._apply_kernel_options

    @wraps(validate)
    def validate_device(*tensors: Any) -> None:
        if not in_graph():
            validate(*tensors)

    @wraps(apply_options)
    def apply_kernel_options(query: Any, key: Any, value: Any, *args: Any) -> Any:
        if in_graph():
            query = key = value = ON_CUDA
        return apply_options(query, key, value, *args)

    with ExitStack() as stack:
        stack.enter_context(replaced(module, "_validate_device", validate_device))
        stack.enter_context(replaced(module, "_apply_kernel_options", apply_kernel_options))
        yield


@rule(
    Kind.NOTE,
    on="cuda",
    when="the program calls flex_attention and runs it as written, as it does of one device without compile=True",
    source="math_attention in torch/_higher_order_ops/flex_attention.py makes all scores, the kernel of Inductor none",
)
def flex_attention_as_written(trace: Trace, target: Target) -> str | None:
    if target.compiled or FLEX_AS_WRITTEN not in remarked():
        return None
    return (
        "what torch.compile(flex_attention) saves: as it is written it makes all scores; compile=True predicts compiled code, "
        "and with world_size= what the program compiles is predicted so"
    )
