"""Configurations of transformers, given as a JSON file or by the name of their class."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from torchprof.cli.arguments import UsageError, did_you_mean
from torchprof.cli.files import quoted
from torchprof.errors import MissingPackageError
from torchprof.wording import shortened

__all__ = ["model_config"]


def model_config(named: str, sizes: Mapping[str, Any]) -> Any:
    """The configuration that is meant.

    Args:
        named: the path of a JSON file that has its ``model_type``, or the name of its class.
        sizes: what is otherwise in it.

    Raises:
        UsageError: there is none.
        OSError: the file cannot be read.
        MissingPackageError: transformers is not installed.
    """
    try:
        import transformers
        from transformers import AutoConfig, PretrainedConfig
        from transformers.models.auto import configuration_auto
    except ImportError as error:
        raise MissingPackageError("plan --model needs transformers: pip install transformers") from error
    classes: dict[str, str] = vars(configuration_auto)["CONFIG_MAPPING_NAMES"]
    known = AutoConfig
    if named.endswith(".json") or os.path.sep in named or os.path.exists(named):
        kind, given = _read(named, list(classes))
        return _made(named, lambda: known.for_model(kind, **{**given, **sizes}))
    made = getattr(transformers, named, None) if named.isidentifier() else None
    if not (isinstance(made, type) and issubclass(made, PretrainedConfig)) or not made.model_type:
        near = did_you_mean(named, classes.values())
        raise UsageError(
            f"--model {named} is no JSON file, and no configuration of transformers{near or ': such as LlamaConfig'}"
        )
    return _made(named, lambda: made(**sizes))


def _read(path: str, known: list[str]) -> tuple[str, dict[str, Any]]:
    """The model type and the sizes in a file."""
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read()
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--model {quoted(path)} is no JSON: {error}") from None
    kind = given.pop("model_type", None) if isinstance(given, dict) else None
    if kind is None:
        raise UsageError(
            f'--model {quoted(path)} has no model_type: {{"model_type": "llama", "hidden_size": 8192, ...}} has one'
        )
    if kind not in known:
        raise UsageError(
            f"--model {quoted(path)}: model_type {kind!r} is unknown to transformers{did_you_mean(str(kind), known)}"
        )
    return str(kind), given


def _made(named: str, make: Any) -> Any:
    try:
        return make()
    except Exception as error:  # what transformers checks of sizes, in errors of many kinds
        raise UsageError(f"--model {quoted(named)} is no configuration: {shortened(str(error), 200)}") from None
