"""The function of the torchinfo package, for programs that were written for it: only the import changes.

    from torchprof.torchinfo import summary

    summary(model, input_size=(1, 3, 224, 224), col_names=["output_size", "num_params", "mult_adds"])

The arguments are those of torchinfo 1.8, the table is torchprof's. The package is not needed.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from torchprof.arguments import is_int
from torchprof.errors import ArgumentError
from torchprof.record.inputs import Inputs, make_inputs
from torchprof.record.mode import in_mode
from torchprof.record.preserve import preserved_random_states
from torchprof.record.working_call import Sizes, names_working_call
from torchprof.summarize import summary as summary_of
from torchprof.tables.model_statistics import ModelStatistics

__all__ = ["ModelStatistics", "summary"]

COLUMNS: Final = {
    "input_size": "input",
    "output_size": "output",
    "num_params": "params",
    "params_percent": "params_share",
    "kernel_size": "kernel_size",
    "mult_adds": "macs",
    "trainable": "trainable",
}
"""Columns of torchinfo and those of torchprof that show the same."""

MODES: Final = {"train": True, "eval": False, "same": None}

ROW_SETTINGS: Final = ("depth", "var_names", "ascii_only", "hide_recursive_layers")

COL_WIDTH: Final = 25


def summary(
    model: nn.Module,
    input_size: Any = None,
    input_data: Any = None,
    batch_dim: int | None = None,
    cache_forward_pass: bool | None = None,
    col_names: Iterable[str] | None = None,
    col_width: int = COL_WIDTH,
    depth: int = 3,
    device: str | torch.device | None = None,
    dtypes: Sequence[torch.dtype] | None = None,
    mode: str | None = None,
    row_settings: Iterable[str] | None = None,
    verbose: int | None = None,
    **kwargs: Any,
) -> ModelStatistics:
    """Show the layers of ``model``, with the arguments of torchinfo.

    What has no meaning here is named in a warning. Unlike that package, this moves no model, and leaves it as it was.

    Args:
        model: the module to look at, where it is.
        input_size: sizes of the inputs to make, with the batch dimension: one, or a list of several.
        input_data: or your own: a tensor or array, a list of positional arguments, or a dict of keyword arguments. With
            neither, nothing is run and only parameters are shown.
        batch_dim: the dimension of ``input_size`` to put a batch of 1 at; by default it has one already.
        cache_forward_pass: has no meaning here. ``select`` and ``with_columns`` of what is returned show other columns of one
            run.
        col_names: the columns to show, by torchinfo's names; by default those of `torchprof.summary`.
        col_width: has no meaning here: columns are as wide as what they show.
        depth: how deep to go; deeper modules are counted in the rows above them.
        device: where to put the inputs: where the model is. It is not moved.
        dtypes: dtype of each input to make; by default ``torch.get_default_dtype()``.
        mode: ``"eval"``, the default, or ``"train"``; ``"same"`` runs every module in the mode that is set. They are in their
            own again afterwards.
        row_settings: ``"ascii_only"`` draws the tree in ASCII, ``"hide_recursive_layers"`` leaves out modules that stand
            elsewhere in the tree already; ``"depth"`` and ``"var_names"`` are always shown.
        verbose: 0 prints nothing, 1 prints the summary, 2 also lists every parameter. By default 1, but 0 in an interactive
            session, where the returned value shows itself.
        **kwargs: further keyword arguments of ``model.forward``.

    Returns:
        A `Summary` that has ``total_params``, ``trainable_params``, ``total_mult_adds``, ``total_param_bytes``,
        ``total_output_bytes``, ``total_input`` and ``input_size`` too.

    Raises:
        ArgumentError, ModuleTypeError: an argument is wrong.
        Exception: whatever the model raises, with a note that names the module and, where one was found, a call that works.
            The table up to there is printed before.

    Example:
        >>> from torchprof.torchinfo import summary
        >>> summary(model, input_size=(4, 3, 112, 112), col_names=["output_size", "num_params"], depth=1)
    """
    settings = _row_settings(row_settings)
    columns = _columns(col_names)
    if mode is not None and mode not in MODES:
        raise ArgumentError(f"mode={mode!r} is unknown: use one of {', '.join(map(repr, MODES))}")
    if verbose is None:
        verbose = 0 if getattr(sys, "ps1", None) else 1
    if verbose not in (0, 1, 2):
        raise ArgumentError(f"verbose must be 0, 1 or 2, not {verbose!r}")
    _check_device(model, device)
    _name_what_has_no_meaning(cache_forward_pass, col_width, batch_dim, input_size, input_data, kwargs)
    given = _sizes(input_size, input_data)
    if isinstance(input_size, Sequence) and batch_dim is not None:
        input_size = [_with_batch(size, batch_dim) for size in Sizes(input_size).each()]
    asked = Sizes(input_size, None, dtypes, device)
    with in_mode(model, MODES[mode or "eval"]), names_working_call(model, asked, input_data, _write):
        inputs = _inputs(model, asked, input_data, kwargs)
        try:
            found = summary_of(model, input_data=inputs, depth=depth, columns=columns, verbose=0)
        except Exception as error:
            if verbose and (so_far := getattr(error, "torchprof_summary", None)) is not None:
                with suppress(Exception):  # the error to see is the model's
                    so_far.print()
            raise
    result = ModelStatistics(
        found.trace,
        found.style,
        found.chosen,
        depth=found.depth,
        list_parameters=verbose == 2,
        ascii_only="ascii_only" in settings,
        hide_recursive_layers="hide_recursive_layers" in settings,
        input_size=given,
    )
    if verbose:
        result.print()
    return result


def _row_settings(row_settings: Any) -> set[str]:
    settings = {row_settings} if isinstance(row_settings, str) else set(row_settings or ())
    if unknown := sorted(settings - set(ROW_SETTINGS)):
        raise ArgumentError(f"row_settings={row_settings!r} contains {unknown[0]!r}: use some of {', '.join(ROW_SETTINGS)}")
    return settings


def _columns(col_names: Any) -> tuple[str, ...] | None:
    """Our names of these columns."""
    if col_names is None:
        return None
    names = [col_names] if isinstance(col_names, str) else list(col_names)
    for name in names:
        if name not in COLUMNS:
            raise ArgumentError(
                f"col_names={col_names!r} contains {name!r}, which is unknown: use some of {', '.join(COLUMNS)}"
            )
    return tuple(COLUMNS[name] for name in names)


def _check_device(model: nn.Module, device: Any) -> None:
    """torchinfo would move the model there, for good."""
    if device is None or not isinstance(model, nn.Module):
        return
    wanted = torch.device(device)
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    if devices and not any(each.type == wanted.type and wanted.index in (None, each.index) for each in devices):
        where = ", ".join(sorted(map(str, devices)))
        raise ArgumentError(
            f"device={str(device)!r}, but the model is on {where}, and torchprof does not move it: call "
            f"model.to({str(device)!r}) first, or leave out device"
        )


def _name_what_has_no_meaning(
    cache_forward_pass: Any, col_width: Any, batch_dim: Any, input_size: Any, input_data: Any, kwargs: Mapping[str, Any]
) -> None:
    def warn(text: str) -> None:
        warnings.warn(f"torchprof.torchinfo.summary: {text}", stacklevel=4)

    if cache_forward_pass:
        warn("cache_forward_pass=True has no effect: to see other columns of one run, use select() of what is returned")
    if col_width != COL_WIDTH:
        warn(f"col_width={col_width!r} has no effect: columns are as wide as what they show")
    if batch_dim is not None and input_data is not None:
        warn(f"batch_dim={batch_dim!r} has no effect with input_data: shapes are shown as they are")
    if kwargs and input_size is None and input_data is None:
        warn(f"{', '.join(kwargs)}: not used, because nothing is run without input_size or input_data")


def _sizes(input_size: Any, input_data: Any) -> Any:
    """What torchinfo keeps of the inputs: sizes as a list of tuples, and data with the size of each tensor in its place."""
    if input_size is None:
        return _sizes_of(input_data) if input_data is not None else []
    return list(Sizes(input_size).each()) if isinstance(input_size, Sequence) else input_size


def _sizes_of(data: Any) -> Any:
    if isinstance(data, torch.Tensor):
        return data.size()
    if isinstance(data, np.ndarray):
        return torch.Size(data.shape)
    if isinstance(data, Mapping):
        return {name: _sizes_of(value) for name, value in data.items()}
    return [_sizes_of(value) for value in data] if isinstance(data, list | tuple) else data


def _with_batch(size: tuple[int, ...], dimension: Any, batch: int = 1) -> tuple[int, ...]:
    if not is_int(dimension, -len(size) - 1, len(size)):
        raise ArgumentError(f"batch_dim={dimension!r} is no dimension of a batch of {size}: use 0 to {len(size)}")
    at = dimension if dimension >= 0 else len(size) + 1 + dimension
    return (*size[:at], batch, *size[at:])


def _write(asked: Sizes) -> str:
    """A call of this function; here the batch is part of the sizes."""
    if asked.batch_size is not None:
        sizes = [_with_batch(size, 0, asked.batch_size) for size in asked.each()]
        asked = asked._replace(input_size=sizes[0] if len(sizes) == 1 else sizes, batch_size=None)
    return asked.call().removeprefix("torchprof.")


def _inputs(model: nn.Module, asked: Sizes, input_data: Any, kwargs: dict[str, Any]) -> Inputs | None:
    """The arguments of the forward call, ``kwargs`` among them."""
    if isinstance(input_data, np.ndarray):
        input_data = (input_data,)
    with preserved_random_states():
        inputs = make_inputs(
            model, asked.input_size, batch_size=None, input_data=input_data, dtypes=asked.dtypes, device=asked.device
        )
    if inputs is None or not kwargs:
        return inputs
    further = make_inputs(model, None, batch_size=None, input_data=kwargs, dtypes=None, device=asked.device)
    assert further is not None
    return Inputs(inputs.args, {**inputs.kwargs, **further.kwargs})
