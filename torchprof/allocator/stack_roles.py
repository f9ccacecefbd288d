"""What a program was doing, told by a stack: the innermost frame that is known for something decides.

A forward pass inside backward is recomputation. Where stacks have frames of Python, one without any is of the autograd engine,
which runs backward of CUDA on a thread of its own.

Sources: names of functions in ``torch/nn``, ``torch/optim``, ``torch/autograd``, ``torch/utils`` and ``torch/distributed``, of
``torch/csrc/autograd``, ``aten/src/ATen/cuda/CublasHandlePool.cpp`` and ``aten/src/ATen/native/cudnn``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.importers.cuda_snapshot import Annotation
from torchprof.importers.stacks import Frame, Stacks

__all__ = ["Role", "in_ranges", "roles"]


Ints = npt.NDArray[np.int64]


class Role(IntEnum):
    """What was done where memory was allocated or freed."""

    UNKNOWN = 0  # no stack was recorded
    OTHER = 1
    FORWARD = 2
    RECOMPUTATION = 3
    BACKWARD = 4
    ACCUMULATION = 5  # of gradients, by autograd
    OPTIMIZER = 6
    ZEROING = 7  # of gradients
    LOADING = 8  # of a model's parameters and buffers
    DATA = 9
    GATHERING = 10  # of parameters, by FSDP
    COMMUNICATION = 11
    WORKSPACE = 12  # of a library


class _Rule(NamedTuple):
    role: Role
    names: str
    files: str = ""

    def compiled(self) -> tuple[Role, re.Pattern[str], re.Pattern[str]]:
        return self.role, re.compile(self.names), re.compile(self.files)


# Of Python, names are whole; of C++, parts of them.
PYTHON: Final = [
    rule.compiled()
    for rule in (
        _Rule(Role.ZEROING, "zero_grad"),
        _Rule(Role.OPTIMIZER, ".*", r"/torch/optim/"),
        _Rule(Role.OPTIMIZER, "step", r"optim[^/]*(/[^/]*)?$"),  # of other libraries
        _Rule(
            Role.GATHERING, "init_all_gather_outputs|alloc_all_gather_outputs|init_unsharded_param|foreach_all_gather_copy_out"
        ),
        _Rule(Role.GATHERING, "_alloc_padded_unsharded_flat_param", r"/fsdp/"),
        _Rule(
            Role.COMMUNICATION, "foreach_all_gather|foreach_reduce|all_gather_copy_in.*|_all_gather_flat_param", r"/fsdp|/_fsdp"
        ),
        _Rule(
            Role.LOADING,
            "_apply|convert|to|cuda|to_empty|load_state_dict|_load_from_state_dict|__init__|reset_parameters",
            r"/torch/nn/",
        ),
        _Rule(Role.LOADING, ".*", r"/torch/nn/init\.py$"),
        _Rule(Role.LOADING, "from_pretrained|load_state_dict|load_checkpoint_in_model|set_module_tensor_to_device"),
        _Rule(Role.DATA, ".*", r"/torch/utils/data/"),
        _Rule(Role.DATA, "transfer_batch_to_device|move_data_to_device|batch_to_device|send_to_device|_prepare_inputs?"),
        _Rule(Role.BACKWARD, "backward|_engine_run_backward|_backward_impl"),
        _Rule(Role.BACKWARD, "grad|_make_grads", r"/torch/autograd/__init__\.py$"),
        _Rule(Role.BACKWARD, "unpack_hook|recompute_fn", r"/torch/utils/checkpoint\.py$"),
        _Rule(Role.FORWARD, "forward"),
        _Rule(Role.FORWARD, "_call_impl|_wrapped_call_impl", r"/torch/nn/modules/module\.py$"),
    )
]
CPP: Final = [
    rule.compiled()
    for rule in (
        _Rule(Role.WORKSPACE, "getNewWorkspace|getCurrentCUDABlas|getCUDABlasLt|getCurrentCUDASolver|Workspace::Workspace"),
        _Rule(Role.COMMUNICATION, "c10d::"),
        _Rule(Role.ACCUMULATION, "autograd::AccumulateGrad"),
        _Rule(Role.BACKWARD, r"autograd::(Engine::|Node::operator|PyNode::|CppNode|generated::\w+Backward)"),
    )
]

RANGES: Final = {"Optimizer.step#": Role.OPTIMIZER, "Optimizer.zero_grad#": Role.ZEROING}
"""How the ranges begin that optimizers of PyTorch open."""


def roles(stacks: Stacks) -> list[Role]:
    """The role of each stack, and at the end that of none: ``found[NOT_RECORDED]``."""
    frames = [stacks.frames(number) for number in range(len(stacks))]
    known = {frame: _known_for(frame) for frame in {frame for stack in frames for frame in stack}}
    has_python = any(frame.is_python for frame in known)
    without_frames = Role.BACKWARD if has_python else Role.UNKNOWN
    return [*(_role([known[frame] for frame in stack]) if stack else without_frames for stack in frames), Role.UNKNOWN]


def in_ranges(roles: list[Role], entries: Ints, times: Sequence[int], annotations: Sequence[Annotation]) -> None:
    """Where no stack says what was done, a range of an optimizer does, in which the entry was made.

    Args:
        roles: of entries; changed.
        entries: which they are; -1: none.
        times: of all entries; microseconds.
    """
    unknown = np.flatnonzero((np.array(roles, dtype=np.int64) == Role.UNKNOWN) & (entries >= 0))
    when = np.array(times, dtype=np.int64)[entries[unknown]]
    for prefix, role in RANGES.items():
        mine = [annotation for annotation in annotations if annotation.name.startswith(prefix)]
        if mine:
            starts, ends = (np.array(bound, dtype=np.int64) for bound in zip(*(each[1:] for each in mine), strict=True))
            around = np.searchsorted(starts, when, side="right") - 1
            for row in unknown[(around >= 0) & (when <= ends[around])].tolist():
                roles[row] = role


def _role(frames: Sequence[Role | None]) -> Role:
    known = [role for role in frames if role is not None]
    if not known:
        return Role.OTHER
    if known[0] == Role.FORWARD:
        around = next((role for role in known if role not in (Role.FORWARD, Role.DATA)), Role.FORWARD)
        return Role.RECOMPUTATION if around in (Role.BACKWARD, Role.ACCUMULATION) else Role.FORWARD
    return known[0]


def _known_for(frame: Frame) -> Role | None:
    if not frame.is_python:
        return next((role for role, names, _ in CPP if names.search(frame.name)), None)
    name, file = frame.name.rpartition(".")[2], frame.file.replace("\\", "/")
    return next((role for role, names, files in PYTHON if names.fullmatch(name) and files.search(file)), None)
