"""Why a program cannot be estimated, and what to do about it."""

from __future__ import annotations

import re
from typing import Any, Final

from torchprof.analysis.model.layer_calls import raising_call
from torchprof.errors import EstimateError
from torchprof.estimation.fake.real_ops import (
    KNOWS_NO_FORMAT,
    READS_VALUES,
    SparseError,
    UnmeasuredError,
    has_no_fake_kernel,
    needs_values,
)
from torchprof.estimation.torch_private import ESTIMATE
from torchprof.record.error_lines import line_of_error
from torchprof.record.profile import profile
from torchprof.terminal import printable

__all__ = ["BUILD", "STEP", "place_of_error", "reason_of"]

BUILD: Final = "the build of the model"
STEP: Final = "the step"
"""Where something is raised outside of the calls of modules: while the model gets its fake parameters, or later."""

NEEDS_CUDA: Final = ("not compiled with CUDA", "not linked with support for cuda", "without ATen_cuda", "type torch.cuda.")
"""What PyTorch says where it would need a GPU."""

ROUTED: Final = (
    ". If it counts the tokens that a router sends to each expert, routing='balanced' takes it that all get as many; or send "
    "as many to all, by their number alone: the splits of all_to_all are then known"
)
"""What is added where there are many ranks, or a router: a router of experts is what reads values most often there."""


def reason_of(error: BaseException, recording: profile, doing: str = STEP, *, of_many: bool = False) -> str:
    """Why fake tensors cannot do something, and the way out; empty where the error is the program's own.

    The program may have raised another exception because of it.

    Args:
        error: what was raised.
        recording: of the program.
        doing: `BUILD` or `STEP`.
        of_many: whether it is one of many ranks.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, EstimateError):  # what runs the op may have wrapped it
            return str(cause)
        place = place_of_error(recording, error, doing, cause)
        if reason := _reason(cause, place):
            in_module = not place.startswith((BUILD, STEP))
            routed = needs_values(cause) and (_chooses(recording) or (of_many and in_module))
            return reason + (ROUTED if routed else "")
        seen.add(id(cause))
        cause = cause.__cause__
    return ""


def _chooses(recording: profile) -> bool:
    """Whether the program chooses as routers do, in what was recorded of it."""
    return bool(recording.traces) and not {"aten::topk", "aten::argmax"}.isdisjoint(recording.trace.strings)


def _reason(error: BaseException, place: str) -> str:
    name = _op_of(error)
    if isinstance(error, UnmeasuredError):
        return (
            f"the memory of {name} in {place} is not known: {error}. Leave the part out with a step= of your own, or, where it "
            "is only the kernel of the CPU, estimate it for device='cuda'"
        )
    if isinstance(error, SparseError):
        return (
            f"{name} in {place} works on sparse tensors, or returns one, and how many elements it has is not known: pass "
            f"allow_real={(name,)!r} to run it for real on stand-ins, or leave the part out with a step= of your own"
        )
    if has_no_fake_kernel(error):
        allowed = repr((name,)) if name else "True"
        return (
            f"{name or error} in {place} has no fake kernel, so what it would return is not known: register one with "
            f"torch.library.register_fake, pass allow_real={allowed} to run it for real on stand-ins, or leave the part out "
            "with a step= of your own"
        )
    if needs_values(error):
        reader = "Tensor.__format__" if KNOWS_NO_FORMAT in str(error) else "Tensor.numpy"
        to_allow = READS_VALUES if name in ("", "aten::_local_scalar_dense") else name
        wants = (
            "leave it out of the step, such as a loss that is only printed, or make the branch depend on shapes"
            if place.startswith(STEP)
            else "make the branch depend on shapes, switch it off in the model's configuration, or leave it out with a step= "
            "of your own"
        )
        return (
            f"{name or reader} in {place} reads the values of a tensor (.item(), bool(tensor), nonzero, numpy()), and "
            f"there are none: pass allow_real={(to_allow,)!r} to have it work on stand-ins, {wants}"
        )
    if any(text in str(error) for text in NEEDS_CUDA):
        return (
            f"{place} needs a GPU, and an estimate has none: it takes 'cuda' as the device of tensors and modules, and knows "
            "the GPU, its streams and its events. Leave the rest out with a step= of your own"
        )
    return ""


def _op_of(error: BaseException) -> str:
    """The name of the op that an error is about; empty where there is none."""
    named = (getattr(error, "op", None), getattr(error, "func", None), *error.args)
    op: Any = next((item for item in named if isinstance(item, ESTIMATE.OpOverload)), None)
    if op is not None:
        return str(op._schema.name)
    in_text = re.search(r"\w+::\w+", str(error))  # an op of torch.library.custom_op, whose error is only a text
    return in_text.group() if in_text else ""


def place_of_error(recording: profile, error: BaseException, doing: str = STEP, cause: BaseException | None = None) -> str:
    """The module whose call raised, or what was done where none did, and the line of the program that raised the error or its
    cause, in words."""
    found = raising_call(recording.trace, error) if recording.traces else None
    line = line_of_error(cause or error)
    return f"{_module(found, doing)}, at {line}," if line else _module(found, doing)


def _module(found: tuple[str, str, tuple[str, ...]] | None, doing: str) -> str:
    if found is None:
        return doing
    path, type_name, _ = found
    kind = printable(type_name)
    return f"module {path!r} ({kind})" if path else f"the root module ({kind})"
