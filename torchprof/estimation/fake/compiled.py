"""A model as ``torch.compile`` would run it, on fake tensors, without compiling its kernels.

Dynamo, AOTAutograd, the min-cut partitioner and Inductor do what they always do, up to the Python code that Inductor writes: it
allocates every buffer that is materialized, reuses and frees them, and calls the kernels in between. That code is run, with
kernels that do nothing. So nothing about fusion, recomputation or the reuse of buffers has to be guessed.

For CUDA, Inductor writes it for tensors that say they are there, as it would on a machine that has a GPU
(`torchprof.estimation.fake.inductor_for_cuda`). Where it cannot, what it writes for the CPU is taken, and the trace says so.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from types import CodeType
from typing import Any, Final

import torch
from torch import nn

from torchprof import _native
from torchprof.errors import EstimateError
from torchprof.estimation.fake.callers import REPLACES, Stage, is_read, stage
from torchprof.estimation.fake.inductor_for_cuda import FOR_THE_CPU, check_bfloat16, moved, runs_anywhere, writes_for_cuda
from torchprof.estimation.fake.stance import compiling_with
from torchprof.estimation.target import Device, Target
from torchprof.estimation.torch_private import COMPILE, ESTIMATE, INDUCTOR_FOR_CUDA

__all__ = ["as_compiled"]

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
    COMPILE.require()

    def backend(graph: Any, example_inputs: Any) -> Any:
        _use_originals(graph)
        with stage(Stage.GRAPH):
            return COMPILE.compile_fx.compile_fx(graph, example_inputs, inner_compile=partial(_without_kernels, target))

    # Where there is a way, Dynamo looks up what is compiled here apart from what the user compiled.
    apart = {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(torch.compile).parameters else {}
    seen: list[CodeType] = []
    with ExitStack() as stack:
        _settle()
        stack.enter_context(stage(Stage.DYNAMO))
        stack.enter_context(COMPILE.functorch_config.patch(enable_autograd_cache=False))
        stack.callback(COMPILE.register_bytecode_hook(lambda code, _: seen.append(code)).remove)
        callback_handler = COMPILE.callback_handler
        callback_handler.register_start_callback(_pause)
        stack.callback(callback_handler.remove_start_callback, _pause)
        callback_handler.register_end_callback(_resume)
        stack.callback(callback_handler.remove_end_callback, _resume)
        stack.callback(_forget, seen, backend)
        stack.callback(_set_shapes, copy.deepcopy(COMPILE.get_code_state()))
        stack.enter_context(compiling_with(backend))
        compiled: Any = torch.compile(model, backend=backend, dynamic=False, **apart)  # type: ignore[call-overload]
        yield compiled


def _use_originals(graph: Any) -> None:
    """Dynamo itself may put functions of an estimate into a graph, which Inductor does not know."""
    for module in graph.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            if node.op == "call_function":
                node.target = getattr(node.target, REPLACES, node.target)


def _settle() -> None:
    """What Dynamo does with the functions of an estimate, all of which it could read."""
    torch.compiler.assume_constant_result(is_read)
    for code in _own_codes():
        COMPILE.skip_code(code)


def _own_codes() -> Iterator[CodeType]:
    """The code of all functions of torchprof, which Dynamo may inline, and never compile where they are called by PyTorch."""
    modules = [module for name, module in [*sys.modules.items()] if name.partition(".")[0] == "torchprof"]
    found = [value for module in modules for value in vars(module).values()]
    found += [value for kind in found if isinstance(kind, type) for value in vars(kind).values()]
    codes = [code for value in found if isinstance(code := getattr(inspect.unwrap(value) if callable(value) else value, "__code__", None), CodeType)]
    while codes:
        code = codes.pop()
        yield code
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def _pause(_: object) -> None:
    """While the compiler works, on fake tensors of its own, nothing is recorded."""
    _native.pause_recording()


def _resume(_: object) -> None:
    _native.resume_recording([], 0)


def _set_shapes(seen: dict[Any, Any]) -> None:
    """Put back which shapes Dynamo has seen: it would compile for any shape when it sees a second one."""
    state = COMPILE.get_code_state()
    state.clear()
    state.update(seen)


def _forget(codes: Sequence[CodeType], backend: Callable[..., Any]) -> None:
    """Remove what Dynamo keeps of the functions it compiled with this backend. What the user compiled stays."""

    def is_of_estimate(found: Any) -> bool:
        return getattr(found, "compiler_fn", found) is backend

    for code in dict.fromkeys(codes):
        entries = COMPILE.cache_entries_of(code)
        of_estimate = [entry for entry in entries if is_of_estimate(entry.backend)]
        if len(of_estimate) == len(entries):
            COMPILE.reset_code(code)
            continue
        for entry in of_estimate:
            guards: Any = entry.guard_manager
            guards.extra_state.invalidate(entry, COMPILE.DeletedGuardManager("the estimate is over"))
    backends = COMPILE.cached_backends
    for key in [key for key, cached in backends.items() if is_of_estimate(cached)]:
        del backends[key]


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
    context = COMPILE.TracingContext.try_get()
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
