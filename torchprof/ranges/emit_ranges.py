"""`torchprof.emit_ranges`: modules as ranges in Nsight Systems, VTune and other profilers."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from torchprof.errors import ModuleTypeError, RecordingError
from torchprof.ranges.backward import nodes_of
from torchprof.ranges.call import Call, OpenRanges
from torchprof.ranges.marker import Marker, marker_of
from torchprof.ranges.torch_private import next_sequence_number, queue_at_end, running_backward
from torchprof.record.modules import Models, check_models, walk
from torchprof.record.nested import find_tensors
from torchprof.record.opaque import opaque_because

__all__ = ["emit_ranges"]


class emit_ranges:
    """Show the modules of a model as ranges in another profiler, inside a ``with`` block: nothing is recorded by torchprof
    itself.

    A range begins before the hooks of a module's forward and ends after it, also where it raises, and is named by its path:
    ``encoder.layers.0``; that of the model by its class. Ranges of backward, ``encoder.layers.0 backward``, surround what
    autograd runs for what a call of the module made; those of modules inside it nest as in forward. They are of the thread that
    runs backward, which on a GPU is one of autograd's own.

    Nothing of the program is changed: backward is followed by hooks on nodes of autograd, which see gradients and change none,
    and no output is wrapped. A module that ``torch.compile`` returned has ranges, forward and backward, and those inside it
    have none; one that was compiled in place, by ``module.compile()``, has none itself. Where a function around the modules is
    compiled, it is compiled again without their hooks after the block.

    Args:
        model: as of `torchprof.profile`.
        to: ``"nvtx"`` for Nsight Systems; ``"itt"`` for VTune; or anything that has ``range_push(name)`` and ``range_pop()``.
        backward: whether to have ranges of backward.

    Raises:
        ModuleTypeError: it is not a module, nor a list or dict of modules.
        ArgumentError: ``to`` is something else.
        UnsupportedTorchError: this PyTorch was built without NVTX or ITT, or a private name that ranges of backward need is
            missing.
        RecordingError: the block was entered a second time, inside itself.

    Example:
        >>> with torchprof.emit_ranges(model, to="itt"):
        ...     train_step(batches[0])
    """

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module],
        to: Literal["nvtx", "itt"] | Marker = "nvtx",
        *,
        backward: bool = True,
    ) -> None:
        models = check_models(model)
        if models is None:
            raise ModuleTypeError("model must be a torch.nn.Module, or a list or dict of them, not None")
        self._models = models
        self._marker = marker_of(to)
        self._with_backward = backward
        self._ranges: Ranges | None = None
        self._hooks: list[Any] = []

    def __enter__(self) -> emit_ranges:
        if self._ranges is not None:
            raise RecordingError("these ranges are emitted already: one `with` block at a time")
        self._ranges = ranges = Ranges(self._marker, with_backward=self._with_backward)
        try:
            for module, name in hooked(self._models):
                self._hooks.append(module.register_forward_pre_hook(Begins(ranges, name), prepend=True))
                self._hooks.append(module.register_forward_hook(Ends(ranges), always_call=True))
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: types.TracebackType | None
    ) -> Literal[False]:
        self._remove()
        return False

    def _remove(self) -> None:
        ranges, self._ranges = self._ranges, None
        hooks, self._hooks = self._hooks, []
        if ranges is not None:
            ranges.close()
        for hook in hooks:
            hook.remove()


class Ranges:
    """Follows the calls of modules and their backward on all threads, until it is closed."""

    def __init__(self, marker: Marker, *, with_backward: bool) -> None:
        self._marker = marker
        self._with_backward = with_backward
        self._number = next_sequence_number()
        self._pass = running_backward()
        self._at_end = queue_at_end()
        self._of_threads = threading.local()
        self.is_open = True

    def close(self) -> None:
        """End the ranges of this thread. Hooks that are still called, as on nodes of a graph that is kept, do nothing."""
        self.is_open = False
        self._here().pop_to(0)

    def _here(self) -> OpenRanges:
        here: OpenRanges | None = getattr(self._of_threads, "open", None)
        if here is None:
            here = self._of_threads.open = OpenRanges(self._marker)
        return here

    def begin(self, module: nn.Module, name: str, frame: types.FrameType | None) -> None:
        """A call of a module begins."""
        here, running = self._here(), self._pass()
        parent = here.running(frame)
        if parent is None and running < 0:
            here.pop_to(0)  # of a backward pass that raised
        call = Call(name, parent, self._number(), running, module, frame)
        here.push(call, -1)
        outermost(call).moments.append((call.begin, call))

    def end(self, module: nn.Module, output: Any) -> None:
        """A call of a module ends; without an output where it raised."""
        call = self._here().end_forward(module)
        if call is None:
            return
        call.module = call.frame = None
        outermost(call).moments.append((self._number(), call.parent))
        if call.parent is None:
            if self._with_backward and output is not None and self._number() > call.begin:
                self._follow(call, output)
            call.moments = []

    def _follow(self, call: Call, output: Any) -> None:
        """Have it told what runs in the backward of an outermost call."""
        for node, owner, is_over in nodes_of(call, find_tensors(output)):
            node.register_prehook(partial(self._left, call) if is_over else partial(self._runs, owner or call))

    def _runs(self, call: Call, _: Any) -> None:
        """A node of autograd runs next that was made in a call."""
        if self.is_open and not torch.compiler.is_compiling():
            running = self._pass()
            if self._here().settle(call, running):
                self._at_end(partial(self._ended, running))

    def _left(self, call: Call, _: Any) -> None:
        """A node runs next that was made before an outermost call."""
        if self.is_open and not torch.compiler.is_compiling():
            self._here().leave(call, self._pass())

    def _ended(self, running: int) -> None:
        """A backward pass has ended."""
        if self.is_open:
            self._here().end_backward(running)


def hooked(models: Models) -> Iterator[tuple[nn.Module, str]]:
    """The modules that have hooks, and the names of their ranges: not those of compiled code, which would be compiled again."""
    is_inside: list[bool] = []
    for place in walk(models):
        module = place.module
        is_below = place.parent >= 0 and is_inside[place.parent]
        is_inside.append(is_below or bool(opaque_because(module)))
        is_compiled_with_hooks = vars(module).get("_compiled_call_impl") is not None
        if place.same_as < 0 and not (is_below or is_compiled_with_hooks or isinstance(module, torch.jit.ScriptModule)):
            yield module, place.path or type(module).__name__


def outermost(call: Call) -> Call:
    """The call that it is inside of and that is inside no other."""
    while call.parent is not None:
        call = call.parent
    return call


class Hook:
    """A hook of a module. A copy of the module has the same one, and one that is read from a file has one that does nothing."""

    def __init__(self, ranges: Ranges | None = None, name: str = "") -> None:
        self._ranges = ranges
        self._name = name

    def __deepcopy__(self, memo: Any) -> Hook:
        return self

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        return type(self), ()


class Begins(Hook):
    """Is called before forward."""

    def __call__(self, module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling() or self._ranges is None or not self._ranges.is_open:
            return
        self._ranges.begin(module, self._name, sys._getframe(1))


class Ends(Hook):
    """Is called after forward, also where it raised."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling() or self._ranges is None or not self._ranges.is_open:
            return
        self._ranges.end(module, output)
