"""Has Inductor write its code for CUDA, on a machine that has neither a GPU nor Triton.

Up to the code that it writes, Inductor asks only for the device of tensors and a few properties of the GPU. So tensors of the
graph say that they are on one, and what is asked is answered, on this thread.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from types import SimpleNamespace
from typing import Any, Final

import torch

from torchprof.estimation.fake.callers import remark
from torchprof.estimation.target import AMPERE, Target
from torchprof.estimation.torch_private import COMPILE, ESTIMATE, INDUCTOR_FOR_CUDA

__all__ = ["FOR_THE_CPU", "NOT_COMPILED", "check_bfloat16", "moved", "runs_anywhere", "writes_for_cuda"]

NOT_COMPILED: Final = "torchprof: bfloat16 that Inductor does not compile"
"""A remark, where a function was left as it is."""
FOR_THE_CPU: Final = "torchprof: code of Inductor for the CPU"
"""A range in the trace, around code that was to be written for CUDA and could not."""
NEEDS_A_GPU: Final = re.compile(r"^(import triton\b|from \S+triton_heuristics import |from \S+ import _cuda_).*$", re.MULTILINE)
"""Imports at the top of the code, of what only kernels and streams need."""
ON_A_GPU: Final = {"_DeviceGuard": "_NoGuard", "set_device": "_nothing"}
"""Functions of ``torch.cuda`` that it calls, and what is there instead."""


@contextmanager
def writes_for_cuda(target: Target) -> Iterator[None]:
    """Inductor finds the target's GPU, and a Triton that it writes for, until the block ends."""
    INDUCTOR_FOR_CUDA.require()
    with ExitStack() as stack:
        for owner, name, answer in _answers(target):
            is_own = name in vars(owner)
            stack.callback(*(setattr, owner, name, vars(owner)[name]) if is_own else (delattr, owner, name))
            setattr(owner, name, _on_this_thread(getattr(owner, name), answer))
        stack.callback(_forget)
        _forget()
        yield


def moved(graph: Any, inputs: Sequence[Any], device: str) -> list[Any]:
    """Have a graph, of which all shapes are known, be one of another device. Returns its inputs, on that device."""
    where = torch.device(device, 0) if device == "cuda" else torch.device(device)

    def on_device(tensor: Any) -> Any:
        on_meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        return ESTIMATE.FakeTensor(tensor.fake_mode, on_meta, where)

    nested = [module.graph for module in graph.modules() if isinstance(module, torch.fx.GraphModule)]
    for node in (node for each in nested for node in each.nodes):
        if node.op == "call_function":
            node.args, node.kwargs = ESTIMATE.tree_map_only(torch.device, lambda _: where, (node.args, node.kwargs))
        if "val" in node.meta:
            node.meta["val"] = ESTIMATE.tree_map_only(ESTIMATE.FakeTensor, on_device, node.meta["val"])
    found: list[Any] = ESTIMATE.tree_map_only(ESTIMATE.FakeTensor, on_device, list(inputs))
    return found


def check_bfloat16(graph: Any, target: Target) -> None:
    """What ``torch._inductor.compile_fx._check_triton_bf16_support`` does, which asks the GPU.

    Raises:
        SkipFrame: the GPU has no bfloat16, and some input or output of the graph is. Dynamo runs the function as it is written.
    """
    if target.capability >= AMPERE:
        return
    for node in (*graph.graph_inputs.values(), *graph.graph_outputs):
        if isinstance(node, INDUCTOR_FOR_CUDA.IRNode) and node.has_tensor_output() and node.get_dtype() is torch.bfloat16:
            remark(NOT_COMPILED)
            raise INDUCTOR_FOR_CUDA.SkipFrame("BF16 is not supported")


def runs_anywhere(code: str) -> str:
    """Code for CUDA without what only a machine with a GPU can import or do."""
    code = NEEDS_A_GPU.sub("", code)
    for name, instead in ON_A_GPU.items():
        code = code.replace(f"torch.cuda.{name}(", f"{instead}(")
    return code


def _answers(target: Target) -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    """What is asked, by its owner and name."""
    major, minor = target.capability
    limits = {
        "multi_processor_count": target.multiprocessors,
        "major": major,
        "regs_per_multiprocessor": 65_536,
        "max_threads_per_multi_processor": target.threads_per_multiprocessor,
        "max_threads_per_block": 1024,
        "warp_size": 32,
    }
    known = INDUCTOR_FOR_CUDA.DeviceProperties
    of_gpu = {name: limit for name, limit in limits.items() if name in known._fields}
    properties = known(type="cuda", index=0, cc=10 * major + minor, **of_gpu)
    yield known, "create", lambda device: properties
    yield torch.cuda, "get_device_properties", lambda device=None: SimpleNamespace(minor=minor, gcnArchName="", **limits)
    yield torch.cuda, "get_device_capability", lambda device=None: (major, minor)
    yield torch.cuda, "current_device", lambda: 0
    yield INDUCTOR_FOR_CUDA.scheduler, "has_triton", lambda: True
    yield INDUCTOR_FOR_CUDA.triton, "triton_hash_with_backend", lambda: ""
    yield INDUCTOR_FOR_CUDA.PyCodeCache, "load", lambda *code, **options: SimpleNamespace(__file__="", key="")
    yield ESTIMATE.FakeTensor, "contiguous", _contiguous
    constant_name = COMPILE.GraphLowering.constant_name
    yield COMPILE.GraphLowering, "constant_name", lambda graph, name, device: constant_name(graph, name, None)


def _contiguous(tensor: torch.Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
    """As ``tensor.contiguous()``, which makes the GPU the current one before it copies. A convolution of one dimension asks."""
    if tensor.is_contiguous(memory_format=memory_format):
        return tensor
    return torch.ops.aten.clone.default(tensor, memory_format=memory_format)  # type: ignore[no-any-return]


def _on_this_thread(original: Any, answer: Callable[..., Any]) -> Callable[..., Any]:
    thread = threading.get_ident()

    @wraps(original, updated=())
    def call(*args: Any, **options: Any) -> Any:
        return (answer if threading.get_ident() == thread else original)(*args, **options)

    return call


def _forget() -> None:
    """Inductor keeps what it was answered."""
    for function in vars(INDUCTOR_FOR_CUDA.utils).values():
        if callable(clear := getattr(function, "cache_clear", None)):
            clear()
