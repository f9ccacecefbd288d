"""One pass of a model on fake tensors, recorded: the memory that a device would take, where nothing is allocated.

PyTorch's kernels for ``meta`` tensors cannot say it. Some are written in Python, and allocate what no other kernel does; and
they choose kernels, such as that of attention, as no device does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final

import torch
from torch import nn

from torchprof import _native
from torchprof._native import require_extension
from torchprof.errors import EstimateError
from torchprof.estimation.fake.known_functions import functions_listed_by_themselves
from torchprof.estimation.fake.mode import DEVICE, EstimateMode
from torchprof.estimation.fake.model import CPU, Faking
from torchprof.estimation.fake.overrides import Overrides
from torchprof.estimation.fake.real_ops import RealOps
from torchprof.estimation.fake.stance import never_compiling
from torchprof.estimation.fake.substitutes import substituted
from torchprof.estimation.fake.surroundings import undisturbed
from torchprof.estimation.one_at_a_time import one_at_a_time
from torchprof.estimation.reasons import place_of_error
from torchprof.estimation.rules.applied import AppliedRules
from torchprof.estimation.rules.registry import Kind
from torchprof.estimation.target import Device, Target
from torchprof.estimation.torch_private import DISPATCHER_RULES, ESTIMATE
from torchprof.record.inputs import Inputs
from torchprof.record.modules import describe, is_lazy, walk
from torchprof.record.opaque import opaque_because
from torchprof.record.preserve import preserved
from torchprof.record.profile import profile
from torchprof.record.single_pass import facts_of, recording_of, run_pass
from torchprof.trace.trace import Trace
from torchprof.wording import shortened

__all__ = ["record_fake_pass"]

KNOWN_VALUES: Final = 1024
"""Elements up to which the values of a tensor that forward makes are kept, for forward may read them."""


def record_fake_pass(
    model: nn.Module,
    inputs: Inputs,
    device: Device,
    *,
    backward: bool = False,
    warmup: int = 0,
    watch: Callable[[nn.Module], Callable[[Trace], None]] | None = None,
) -> Trace:
    """Record a pass as `torchprof.record.single_pass.record_single_pass` does, on fake tensors.

    Only results of ops are counted, as the kernels of ``device`` return them, and not what kernels need while they run. The
    trace has the fact ``counted_as``, the device.

    Args:
        model: on any device; ``meta`` will do. It is as before afterwards.
        inputs: what to call it with; fake tensors take the place of these too.
        device: whose kernels are counted.
        backward, warmup, watch: as there.

    Raises:
        EstimateError: something of the program cannot run on fake tensors. What it was is said in the message.
    """
    require_extension()
    for feature in (ESTIMATE, DISPATCHER_RULES) if device == "cuda" else (ESTIMATE,):
        feature.require()
    recording = recording_of(model, backward, map(type, model.modules()))
    try:
        with one_at_a_time(), preserved(model):
            places = walk(model)
            for place in places:
                if opaque_because(place.module) == "compiled":
                    where = place.path or "the model"
                    raise EstimateError(f"{where} is compiled: torchprof.estimate(..., compile=True) predicts what that needs")
            if is_lazy(places):
                model(*inputs.args, **inputs.kwargs)  # gives it its parameters
            modules = [place.module for place in places if place.same_as < 0]
            facts = _recorded(model, modules, inputs, device, recording, backward, warmup, watch)
            described = describe(model)  # with tensors of its own again
    except EstimateError:
        raise
    except Exception as error:
        raise EstimateError(f"{place_of_error(recording, error)} raised {_in_short(error)} on fake tensors") from error
    trace = replace(recording.trace, model=described)
    trace.facts.update(facts, counted_as=device)
    return trace


def _recorded(
    model: nn.Module,
    modules: Iterable[nn.Module],
    inputs: Inputs,
    device: Device,
    recording: profile,
    backward: bool,
    warmup: int,
    watch: Callable[[nn.Module], Callable[[Trace], None]] | None,
) -> dict[str, Any]:
    """Run the passes, with fake tensors in place of the model's. Returns facts of the last."""
    rules = AppliedRules(Target(device), without=(Kind.WORKSPACE,))
    mode = OneDeviceMode(rules.overrides)
    with ExitStack() as stack:
        stack.enter_context(undisturbed(collect=False))
        stack.enter_context(rules.installed())
        stack.enter_context(_without_fused_layers())
        stack.enter_context(never_compiling())
        stack.enter_context(functions_listed_by_themselves())
        stack.callback(mode.backward_nodes.close)
        stack.callback(mode.outside.put_back)
        with profile(
            ops=False, shapes=False, modules=False, stacks=False, gpu="off"
        ):  # what is made here was there before the pass
            stack.enter_context(substituted(modules, mode.faking))
            given = Inputs(mode.faking.values(inputs.args), mode.faking.values(inputs.kwargs))
            for tensor in filter(_is_strided, given.tensors()):
                tensor.untyped_storage()  # an object in Python that is there from now on, and counts as a use of the memory
            with mode:
                for _ in range(warmup):
                    model(*given.args, **given.kwargs)
        finish = watch(model) if watch is not None else None
        with recording, mode:
            saved = run_pass(model, given, backward, recording.mark)
        if finish is not None:
            with mode:
                finish(recording.trace)
        return facts_of(given, saved)


@contextmanager
def _without_fused_layers() -> Iterator[None]:
    """A TransformerEncoder runs its layers, rather than one kernel for each, of which only the result would be counted."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _is_strided(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided


def _in_short(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {shortened(lines[0], 120)}" if lines else type(error).__name__


def _unwrapped(function: Any) -> Any:
    return getattr(function, "__wrapped__", function)


dispatch_estimated: Final = _unwrapped(EstimateMode.__torch_dispatch__)
dispatch_fake: Final = _unwrapped(ESTIMATE.FakeTensorMode.__torch_dispatch__)


class OneDeviceMode(EstimateMode):
    """The mode of estimates, for a program as it is: it may name devices, of which there is one, and use any tensors.

    Args:
        rules: what is done otherwise than PyTorch's fake kernels say.

    Attributes:
        faking: makes the fake tensors that stand for the program's.
    """

    def __init__(self, rules: Overrides) -> None:
        super().__init__(rules, RealOps(False))
        self.faking = Faking(self)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Whether PyTorch wraps `__torch_dispatch__` against compilers. None is at work here, and the wrapper is slow."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is DEVICE and getattr(args[0], "fake_mode", None) is self:  # more than half of all calls
            return CPU
        if kwargs and kwargs.get("device") not in (None, CPU):
            kwargs = {**kwargs, "device": CPU}
        return dispatch_estimated(self, func, types, args, kwargs)

    def may_turn_const(self, t: torch.Tensor) -> bool:
        kept: bool = super().may_turn_const(t)
        return kept or (type(t) is torch.Tensor and t.device == CPU and t.numel() <= KNOWN_VALUES)

    def _uncached(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = ESTIMATE.tree_map_only(torch.Tensor, self._own, (args, kwargs))
        return dispatch_fake(self, func, types, args, kwargs)

    def _own(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor, or the fake one for one that the program kept out of sight. Real ones PyTorch takes itself."""
        is_fake = type(tensor) is ESTIMATE.FakeTensor
        known = tensor.fake_mode is self if is_fake else tensor.device == CPU  # type: ignore[attr-defined]
        if known:
            return tensor
        fake = self.faking.tensor(tensor)  # while the recording is paused
        _native.take_as_earlier(fake)
        return fake
