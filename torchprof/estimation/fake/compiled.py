"""A model as ``torch.compile`` would run it, on fake tensors, without compiling its kernels.

Dynamo, AOTAutograd, the min-cut partitioner and Inductor do what they always do, up to the Python code that Inductor writes: it
allocates every buffer that is materialized, reuses and frees them, and calls the kernels in between. That code is run, with
kernels that do nothing. So nothing about fusion, recomputation or the reuse of buffers has to be guessed.

For CUDA, Inductor writes it for tensors that say they are there, as it would on a machine that has a GPU
(`torchprof.estimation.fake.inductor_for_cuda`). Where it cannot, what it writes for the CPU is taken, and the trace says so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Final

import torch
from torch import nn

from torchprof.errors import EstimateError
from torchprof.estimation.fake.callers import REPLACES, Stage, stage
from torchprof.estimation.fake.dynamo import undone
from torchprof.estimation.fake.higher_order import check_compiled
from torchprof.estimation.fake.inductor_for_cuda import FOR_THE_CPU, check_bfloat16, moved, runs_anywhere, writes_for_cuda
from torchprof.estimation.fake.stance import compiling_with
from torchprof.estimation.target import Device, Target
from torchprof.estimation.torch_private import COMPILE, DYNAMO, ESTIMATE, INDUCTOR_FOR_CUDA

__all__ = ["as_compiled", "as_written", "with_compiled_parts"]

COMPILER: Final = "async_compile = AsyncCompile()"
"""The line of Inductor's code that makes what compiles kernels."""

PASSED_ON: Final = ("graph_id", "is_inference", "is_backward", "get_decomp_fn")
"""Options that ``compile_fx_inner`` passes on to ``GraphLowering``. PyTorch 2.11 has no ``get_decomp_fn``."""


@contextmanager
def as_compiled(model: nn.Module, target: Target) -> Iterator[nn.Module]:
    """The model, compiled without kernels, until the block ends; then Dynamo forgets what it learned of it.

    Args:
        model: of fake tensors, which say that they are on the CPU.
        target: the device it is compiled for.

    Raises:
        EstimateError: this version of PyTorch lacks a private name that is needed, or Inductor writes other code than is
            understood here.
    """
    with _compiling(target) as backend:
        # Where there is a way, Dynamo looks up what is compiled here apart from what the user compiled.
        apart = {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(torch.compile).parameters else {}
        compiled: Any = torch.compile(model, backend=backend, dynamic=False, **apart)  # type: ignore[call-overload]
        yield compiled


@contextmanager
def as_written(model: nn.Module, target: Target) -> Iterator[nn.Module]:
    """The model, of which no part is compiled, until the block ends."""
    yield model


@contextmanager
def with_compiled_parts(model: nn.Module, target: Target) -> Iterator[nn.Module]:
    """The model, of which those parts are compiled without kernels that the program compiles itself, until the block ends.

    Args, Raises: as for `as_compiled`.
    """
    with _compiling(target):
        yield model


@contextmanager
def _compiling(target: Target) -> Iterator[Callable[..., Any]]:
    """All that is compiled is compiled without kernels, by the backend that this returns."""
    DYNAMO.require()

    def backend(graph: Any, example_inputs: Any) -> Any:
        check_compiled(graph)
        with stage(Stage.INDUCTOR), ESTIMATE.disable_modes():
            COMPILE.require()
        _use_originals(graph)
        with stage(Stage.GRAPH):
            return COMPILE.compile_fx.compile_fx(graph, example_inputs, inner_compile=partial(_without_kernels, target))

    with (
        undone(backend),
        stage(Stage.DYNAMO),
        DYNAMO.functorch_config.patch(enable_autograd_cache=False),
        compiling_with(backend),
    ):
        yield backend


def _use_originals(graph: Any) -> None:
    """Dynamo itself may put functions of an estimate into a graph, which Inductor does not know."""
    for module in graph.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            if node.op == "call_function":
                node.target = getattr(node.target, REPLACES, node.target)


def _without_kernels(target: Target, gm: Any, example_inputs: Sequence[Any], **options: Any) -> Callable[[list[Any]], Any]:
    """What ``torch._inductor.compile_fx.compile_fx_inner`` does, but for caches, kernels and CUDA graphs."""
    with stage(Stage.INDUCTOR), ESTIMATE.disable_modes(), torch.no_grad(), COMPILE.DebugContext():
        COMPILE.compile_fx.view_to_reshape(gm)
        if target.device == "cpu":
            graph, code = _written(gm, example_inputs, options)
            call = _loaded(code, graph.constants)
        else:
            try:
                with writes_for_cuda(target):
                    graph, code = _written(gm, example_inputs, options, "cuda")
                    check_bfloat16(graph, target)
                call = _loaded(runs_anywhere(code), graph.constants)
            except INDUCTOR_FOR_CUDA.SkipFrame:
                raise
            except Exception:  # of Inductor, which may ask for what is not known, or lack what is patched
                moved(gm, example_inputs, "cpu")
                graph, code = _written(gm, example_inputs, options)
                call = _marked(_loaded(code, graph.constants))
        _tell_strides(graph)
        return call


def _written(gm: Any, inputs: Sequence[Any], options: dict[str, Any], device: Device = "cpu") -> tuple[Any, str]:
    """What Inductor has made of a graph, and the code that it writes for it."""
    inductor, V = COMPILE.compile_fx, COMPILE.V
    is_inference = options.get("is_inference", False)
    fake_mode = inductor.fake_tensor_prop(gm, inputs)
    inductor._recursive_record_original_output_strides(gm)
    with V.set_fake_mode(fake_mode):
        inductor._recursive_post_grad_passes(gm, is_inference=is_inference)
        if device == "cuda":
            inputs = moved(gm, inputs, device)
        with inductor.maybe_disable_comprehensive_padding(inputs):
            graph = COMPILE.GraphLowering(
                gm,
                example_inputs=inputs,
                shape_env=gm.shape_env or inductor.shape_env_from_inputs(inputs),
                **{name: options[name] for name in PASSED_ON if name in options},
            )
            graph.freeze_runtime_asserts()
            with V.set_graph_handler(graph), V.set_extern_kernel_nodes([]):
                graph.run(*inputs)
                written, _ = graph.codegen()
    return graph, written.value


def _marked(call: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    """What was written for the CPU, though it is to run on CUDA: the trace shows it."""

    def marked(args: list[Any]) -> Any:
        with torch.profiler.record_function(FOR_THE_CPU):
            return call(args)

    marked._boxed_call = True  # type: ignore[attr-defined]
    return marked


def _tell_strides(graph: Any) -> None:
    """Backward is compiled for the layouts that forward chose for what is saved."""
    context = DYNAMO.TracingContext.try_get()
    if context is not None and context.output_strides is not None:
        for output in graph.graph_outputs:
            known = hasattr(output, "get_stride") and output.has_tensor_output()
            context.output_strides.append(tuple(map(int, output.get_stride())) if known else None)


def _loaded(code: str, constants: dict[str, Any]) -> Callable[[list[Any]], Any]:
    if code.count(COMPILER) != 1:
        raise EstimateError(
            f"compile=True cannot be estimated with PyTorch {torch.__version__}: Inductor writes {code.count(COMPILER)} times "
            f"{COMPILER!r} instead of once. Estimate without compile=True"
        )
    own = {"_NoKernels": _NoKernels, "_NoGuard": nullcontext, "_nothing": _nothing, "get_raw_stream": _nothing}
    names: dict[str, Any] = {"__name__": "torchprof_without_kernels", **own, **constants}
    exec(compile(code.replace(COMPILER, "async_compile = _NoKernels()"), "<inductor>", "exec"), names)
    names.update(
        empty_strided_cpu=_empty_strided,
        empty_strided_cuda=_empty_strided,
        device=_cpu,
        reinterpret_tensor=_reinterpreted,
        assert_size_stride=_nothing,
        assert_alignment=_nothing,
    )
    call: Any = names["call"]

    def boxed(args: list[Any]) -> Any:
        return call(args)

    boxed._boxed_call = True  # type: ignore[attr-defined]
    return boxed


class _NoKernels:
    """In place of ``torch._inductor.async_compile.AsyncCompile``: every kernel does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: _NoKernel()


class _NoKernel:
    """In place of a kernel: for the CPU it is called, for CUDA it is run."""

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """There is nothing to compute."""

    run = __call__


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


def _cpu(*args: Any, **kwargs: Any) -> torch.device:
    return torch.device("cpu")


def _empty_strided(size: Any, stride: Any, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device="cpu")


def _reinterpreted(tensor: torch.Tensor, size: Any, stride: Any, offset: int = 0) -> torch.Tensor:
    return tensor.as_strided(size, stride, tensor.storage_offset() + offset)
