"""`torchprof.summary`: run a model once, recorded, and show what it is made of."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from torchprof.arguments import check_flag, check_int
from torchprof.errors import ArgumentError, EstimateError, ModuleTypeError
from torchprof.raised import explain_error, explains_recordings, made_from
from torchprof.record.batch_dimension import find_batch_dimensions
from torchprof.record.counted import Counted, counted_as
from torchprof.record.inputs import Inputs, make_inputs
from torchprof.record.modules import describe
from torchprof.record.preserve import preserved_random_states
from torchprof.record.sharded_parameters import sharded_parameters
from torchprof.record.single_pass import record_single_pass
from torchprof.record.torch_private import without_fake_mode
from torchprof.record.weight_and_bias import watch_weights_and_biases
from torchprof.record.working_call import Sizes, names_working_call
from torchprof.rendering.printed import check_width
from torchprof.tables.summary import STYLES, Style, Summary, chosen_columns
from torchprof.trace.trace import Trace

__all__ = ["summary"]


def summary(
    model: nn.Module | Callable[[], nn.Module],
    input_size: Any = None,
    *,
    batch_size: int | None = None,
    input_data: Any = None,
    dtypes: torch.dtype | Sequence[torch.dtype] | None = None,
    device: str | torch.device | None = None,
    depth: int | None = None,
    columns: Sequence[str] | None = None,
    style: Style = "tree",
    backward: bool = False,
    fold: bool = False,
    warmup: int = 0,
    verbose: int | None = None,
    width: int | None = None,
) -> Summary:
    """Run ``model`` once and show its layers: shapes, parameters, bytes, FLOPs and time.

    The forward pass runs as you would run it, in the train/eval and grad mode that are set, and leaves the model, the random
    number generators and every gradient as they were.

    Args:
        model: the module to look at, on any device; on ``meta``, shapes and memory are found without either. Or a function
            that builds one, which is then built on ``meta``.
        input_size: sizes of the inputs to make: a tuple of ints, or a list of tuples for several inputs. Without the batch
            dimension if ``batch_size`` is given, with it otherwise.
        batch_size: the batch dimension to put before every size. -1 runs with 2 and shows -1 in
            every shape that has the batch: in the tree, where a second run with 4 tells which dimension that is.
        input_data: your own inputs instead: a tuple or list of positional arguments, a dict or other mapping of keyword
            arguments, or one argument: a tensor, a ``PackedSequence``, a named tuple, any object with tensors. A dict that is
            one argument stands in a tuple: ``({...},)``. With neither this nor ``input_size``, nothing is run and only
            parameters are shown.
        dtypes: dtype of the inputs to make, or one per input; by default that of ``torch.rand``: ``torch.get_default_dtype()``.
        device: where to put the inputs, also those in containers and objects of ``input_data``, which are copied; by default
            where the model's first parameter is, or where your data is. The model is not moved. Where nothing has memory, with
            a model or inputs on ``meta`` and with fake tensors: the device whose kernels are counted, ``"cuda"`` or ``"cpu"``;
            by default that of the fake tensors, and ``"cuda"`` otherwise.
        depth: how deep to go; deeper modules are counted in the rows above them. None: everything.
        columns: which columns the tree shows, by name: see ``torchprof.tables.columns.COLUMNS``.
        style: ``"tree"``, or ``"torchsummary"`` for the table of that package, to the character.
        backward: also run a backward pass, from the sum of all outputs, and show its time. No gradient is stored.
        fold: show runs of identical sibling subtrees as one row (``x24``), whose figures are their sums.
        warmup: forward passes to run before the one that is recorded: the first pass of a process is slower.
        verbose: 0 prints nothing, 1 prints the summary, 2 also lists every parameter. By default 1, but 0 in a notebook,
            where the returned value shows itself.
        width: characters that a line of the printed text may have: see `Summary.to_text`. By default what the terminal has, and
            no limit where it is not printed to a terminal.

    Returns:
        A `Summary`: rows, totals and the trace; ``str()`` gives the text.

    Raises:
        ArgumentError, ModuleTypeError: an argument is wrong.
        RecordingError: a recording is running already.
        Exception: whatever the model raises comes out unchanged, with a note that names the module it came from. The table up
            to there, with the row of that module marked, is printed before; with ``verbose=0`` it is the exception's attribute
            ``torchprof_summary``.

    Example:
        >>> torchprof.summary(model, input_size=(3, 112, 112), batch_size=4)
        >>> torchprof.summary(bert, input_data={"input_ids": ids, "attention_mask": mask}, depth=3, fold=True)
    """
    if device is None and not isinstance(model, nn.Module):
        device = "meta"
    model = _module(model)
    _check(style, depth, warmup, verbose)
    check_flag("fold", fold)
    check_width(width)
    chosen = chosen_columns(columns) if columns is not None else None
    make: Callable[..., Inputs | None] = partial(make_inputs, model, input_size, input_data=input_data, dtypes=dtypes)
    if input_size is not None:
        make = preserved_random_states()(make)
    counted = counted_as(model, input_data, device)
    of_rank = sharded_parameters(model)
    watch = watch_weights_and_biases if style == "torchsummary" else None
    trace, why_not = None, ""
    if counted is not None:
        trace, why_not = _counted(model, partial(make, batch_size=batch_size), counted, backward, warmup, watch)
        device = counted.otherwise_on
    if trace is None:
        inputs = make(batch_size=batch_size, device=device)
        if inputs is None:
            trace = Trace.empty(describe(model))
        else:
            explain = partial(
                explain_error,
                inputs=inputs,
                made_from=made_from(input_size, batch_size),
                table=partial(Summary, chosen=chosen, depth=depth, fold=fold, list_parameters=verbose == 2, width=width),
                prints=verbose != 0,
            )
            with explains_recordings(), names_working_call(model, Sizes(input_size, batch_size, dtypes, device), input_data):
                trace = record_single_pass(model, inputs, backward=backward, warmup=warmup, on_error=explain, watch=watch)
            if counted is not None:
                trace.facts["memory_unknown_because"] = why_not
    trace.facts.update(of_rank)
    if "input_sizes" in trace.facts:  # it ran
        trace.facts["batch_size"] = int(batch_size) if batch_size is not None else None
        trace.facts["made_from_sizes"] = input_size is not None
        if batch_size == -1 and style == "tree":
            find_batch_dimensions(trace, partial(_record_batch, model, make, counted, device))
    result = Summary(trace, style, chosen, depth=depth, fold=fold, list_parameters=verbose == 2, width=width)
    if verbose is None:
        verbose = 0 if hasattr(sys, "ps1") and "ipykernel" in sys.modules else 1
    if verbose:
        result.print()
    return result


def _counted(
    model: nn.Module,
    make: Callable[..., Inputs | None],
    counted: Counted,
    backward: bool = False,
    warmup: int = 0,
    watch: Callable[[nn.Module], Callable[[Trace], None]] | None = None,
) -> tuple[Trace | None, str]:
    """The trace of a pass on fake tensors; or None, and why there is none."""
    from torchprof.estimation.fake_pass import record_fake_pass  # it takes its time to import

    with without_fake_mode():
        inputs = make(device=counted.inputs_on)
    if inputs is None:
        return Trace.empty(describe(model)), ""
    try:
        trace = record_fake_pass(model, inputs, counted.device, backward=backward, warmup=warmup, watch=watch)
    except EstimateError as error:
        return None, str(error)
    trace.facts["counted_on"] = counted.tensors
    return trace, ""


def _module(model: Any) -> nn.Module:
    """The model, or what a function builds on ``meta``."""
    if callable(model) and not isinstance(model, nn.Module | type):
        with torch.device("meta"):
            model = model()
    if not isinstance(model, nn.Module):
        hint = " (an instance is needed: call the class)" if isinstance(model, type) else ""
        raise ModuleTypeError(f"model must be a torch.nn.Module, not {type(model).__name__}: {model!r:.80}{hint}")
    return model


def _check(style: Any, depth: Any, warmup: Any, verbose: Any) -> None:
    if style not in STYLES:
        raise ArgumentError(f"style={style!r} is unknown: use one of {', '.join(map(repr, STYLES))}")
    if depth is not None:
        check_int("depth", depth, 0)
    check_int("warmup", warmup, 0)
    if verbose is not None and (not isinstance(verbose, int) or verbose not in (0, 1, 2)):
        raise ArgumentError(f"verbose must be 0, 1 or 2, not {verbose!r}")


def _record_batch(
    model: nn.Module, make: Callable[..., Inputs | None], counted: Counted | None, device: Any, batch_size: int
) -> Trace:
    """The trace of a pass with another batch."""
    if counted is not None and (trace := _counted(model, partial(make, batch_size=batch_size), counted)[0]) is not None:
        return trace
    inputs = make(batch_size=batch_size, device=device)
    assert inputs is not None
    return record_single_pass(model, inputs)
