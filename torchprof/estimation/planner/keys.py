"""The key of the cache: everything that what is found depends on, in words. Where that cannot be said, nothing is kept."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import torch

from torchprof._version import __version__
from torchprof.estimation.planner.choice import Choice
from torchprof.estimation.planner.one_choice import Asked
from torchprof.estimation.planner.transformers_models import ShardedTransformer

__all__ = ["key_of", "of_choice"]

NAMED: Final = (type(None), bool, int, float, str, bytes, torch.dtype)
"""Values that are what they are written as."""

IMPLEMENTATIONS: Final = ("_attn_implementation", "_experts_implementation")
"""What transformers leaves out of the dict of a configuration."""


class UnknownError(Exception):
    """What this is cannot be said in words."""


def key_of(asked: Asked, label: str | None) -> str | None:
    """What the results depend on beside the choice; None where that is not known.

    Args:
        label: stands for the functions of the user's own, whose code may use anything.
    """
    if isinstance(asked.build_with, ShardedTransformer):
        config = asked.build_with.config
        how = [getattr(config, name, None) for name in IMPLEMENTATIONS]
        model: Any = ["transformers", sys.modules["transformers"].__version__, type(config).__qualname__, config.to_dict(), how]
    elif label is None:
        return None
    else:
        model = "functions of the user's own"
    functions = {name: getattr(asked, name) for name in ("optimizer", "loss", "step", "amp", "gpu", "links", "others")}
    try:
        told = {name: _told(value, label) for name, value in functions.items()}
    except UnknownError:
        return None
    parts = [label, model, told, _program(), _settings()]
    return json.dumps(parts, sort_keys=True, default=str)


def of_choice(choice: Choice, passes: int) -> str | None:
    """The choice in words: choices that need the same estimate have the same; None where it has none.

    Args:
        passes: how many are estimated of it.
    """
    try:
        over = {name: _told(value, None) for name, value in choice.over.items()}
    except UnknownError:
        return None
    return json.dumps([choice.gpus, choice.batch, choice.sequence, passes, over], sort_keys=True)


def _told(value: Any, label: str | None) -> Any:
    if isinstance(value, NAMED):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, Mapping):
        return {str(name): _told(each, label) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [type(value).__name__, *(_told(each, label) for each in value)]
    if isinstance(value, partial):
        return [_told(value.func, label), _told(value.args, label), _told(value.keywords, label)]
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(module, str) and isinstance(name, str) and (module.partition(".")[0] == "torch" or label is not None):
        return f"{module}.{name}"
    raise UnknownError


@cache
def _program() -> str:
    """Of this torchprof, every file as it is here; of Python and PyTorch, the versions."""
    root = Path(__file__).parents[2]
    found = hashlib.sha256()
    for file in sorted((*root.rglob("*.py"), *root.glob("_C*"))):
        facts = file.stat()
        found.update(f"{file.relative_to(root)} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return f"{__version__} {found.hexdigest()} {sys.version} torch {torch.__version__}"


def _settings() -> list[str]:
    """What a program may have told PyTorch, and changes which kernels it takes."""
    backends: Any = torch.backends.cuda
    flags = (
        backends.flash_sdp_enabled(),
        backends.mem_efficient_sdp_enabled(),
        backends.math_sdp_enabled(),
        backends.cudnn_sdp_enabled(),
        backends.matmul.fp32_precision,
        torch.backends.cudnn.enabled,
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.get_default_dtype(),
    )
    return list(map(str, flags))
