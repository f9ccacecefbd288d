"""`torchprof.summary`: run a model once, watched, and show what it is made of."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from torchprof import _native
from torchprof._native import require_extension
from torchprof.analysis.model.fold import fold_siblings, limit_depth
from torchprof.analysis.model.layer_calls import raising_call
from torchprof.analysis.model.summary import Row, Totals, rows_and_totals
from torchprof.errors import ArgumentError, ModuleTypeError
from torchprof.record.inputs import Inputs, make_inputs
from torchprof.record.modules import describe, is_lazy, walk
from torchprof.record.nested import find_tensors
from torchprof.record.preserve import preserved, random_states
from torchprof.record.profile import profile
from torchprof.rendering import torchsummary
from torchprof.rendering.printed import Printed, data_frame
from torchprof.rendering.text import Line
from torchprof.tables.summary import COLUMNS, default_columns, lines_of
from torchprof.trace.trace import Trace

if TYPE_CHECKING:
    import pandas

__all__ = ["Summary", "summary"]

Style = Literal["tree", "torchsummary"]
STYLES = ("tree", "torchsummary")


@dataclass(frozen=True)
class Summary(Printed):
    """What `summary` found. ``str()`` is the printed text.

    Attributes:
        rows: one `Row` per module, in the order of ``print(model)``; after ``depth`` and ``fold``.
        totals: figures of the model as a whole.
        trace: the recording behind them, to save or to analyse further.
        style, columns: how it is printed.
    """

    rows: list[Row]
    totals: Totals
    trace: Trace
    style: Style
    columns: tuple[str, ...]
    list_parameters: bool = False

    def lines(self) -> Iterator[Line]:
        if self.style == "torchsummary":
            return (Line("total", line) for line in torchsummary.render(self.trace).splitlines())
        return lines_of(self.rows, self.totals, self.columns, self.list_parameters)

    def __repr__(self) -> str:
        return f"<Summary: {len(self.rows):,} rows, {self.totals.params:,} parameters>"

    def to_dict(self) -> dict[str, Any]:
        """Rows and totals as plain Python data: bytes, elements and nanoseconds."""
        return {"rows": [_plain(row) for row in self.rows], "totals": asdict(self.totals)}

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a ``pandas.DataFrame``, one column per field of `Row`. Needs pandas.

        Raises:
            ImportError: pandas is not installed.
        """
        return data_frame([_plain(row) for row in self.rows])


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
) -> Summary:
    """Run ``model`` once and show its layers: shapes, parameters, bytes and time.

    The forward pass runs as you would run it, in the train/eval and grad mode that are set, and leaves the model, the random
    number generators and every gradient as they were.

    Args:
        model: the module to look at, on any device; on ``meta``, shapes and memory are found without either. Or a function
            that builds one, which is then built on ``meta``.
        input_size: sizes of the inputs to make: a tuple of ints, or a list of tuples for several inputs. Without the batch
            dimension if ``batch_size`` is given, with it otherwise.
        batch_size: the batch dimension to put before every size. -1 runs with 2 and shows -1, as torchsummary does.
        input_data: your own inputs instead: a tensor, a tuple or list of positional arguments, or a dict of keyword
            arguments. With neither this nor ``input_size``, nothing is run and only parameters are shown.
        dtypes: dtype of the inputs to make, or one per input; ``torch.float32`` by default.
        device: where to put the inputs; by default where the model's first parameter is. The model is not moved.
        depth: how deep to go; deeper modules are counted in the rows above them. None: everything.
        columns: which columns the tree shows, by name: see ``torchprof.tables.summary.COLUMNS``.
        style: ``"tree"``, or ``"torchsummary"`` for the table of that package, to the character.
        backward: also run a backward pass, from the sum of all outputs, and show its time. No gradient is stored.
        fold: show runs of identical sibling subtrees as one row (``x24``), whose figures are their sums.
        warmup: forward passes to run before the one that is recorded: the first pass of a process is slower.
        verbose: 0 prints nothing, 1 prints the summary, 2 also lists every parameter. By default 1, but 0 in a notebook,
            where the returned value shows itself.

    Returns:
        A `Summary`: rows, totals and the trace; ``str()`` gives the text.

    Raises:
        ArgumentError, ModuleTypeError: an argument is wrong.
        RecordingError: a recording is running already, or another profiler is active.
        Exception: whatever the model raises comes out unchanged, with a note that names the module it came from.

    Example:
        >>> torchprof.summary(model, input_size=(3, 112, 112), batch_size=4)
        >>> torchprof.summary(bert, input_data={"input_ids": ids, "attention_mask": mask}, depth=3, fold=True)
    """
    model = _module(model)
    _check(style, columns, depth, warmup, verbose)
    inputs = make_inputs_preserving_random_state(model, input_size, batch_size, input_data, dtypes, device)
    if inputs is None:
        trace = Trace.empty(describe(model))
    else:
        trace = _run(model, inputs, backward=backward, warmup=warmup, made_from=_made_from(input_size, batch_size))
        trace.facts["batch_size"] = batch_size
        trace.facts["input_sizes"] = [list(tensor.shape) for tensor in inputs.tensors()]
    rows, totals = rows_and_totals(trace)
    if depth is not None:
        rows = limit_depth(rows, depth)
    if fold:
        rows = fold_siblings(rows)
    result = Summary(
        rows,
        totals,
        trace,
        style,
        tuple(columns) if columns is not None else default_columns(totals),
        list_parameters=verbose == 2,
    )
    if verbose is None:
        verbose = 0 if hasattr(sys, "ps1") and "ipykernel" in sys.modules else 1
    if verbose:
        result.print()
    return result


def _module(model: Any) -> nn.Module:
    """The model, or what a function builds on ``meta``."""
    if callable(model) and not isinstance(model, nn.Module | type):
        with torch.device("meta"):
            model = model()
    if not isinstance(model, nn.Module):
        hint = " (an instance is needed: call the class)" if isinstance(model, type) else ""
        raise ModuleTypeError(f"model must be a torch.nn.Module, not {type(model).__name__}: {model!r:.80}{hint}")
    return model


def _plain(row: Row) -> dict[str, Any]:
    return {**row._asdict(), "tensors": [tensor._asdict() for tensor in row.tensors]}


def _check(style: Any, columns: Any, depth: Any, warmup: Any, verbose: Any) -> None:
    if style not in STYLES:
        raise ArgumentError(f"style={style!r} is unknown: use one of {', '.join(map(repr, STYLES))}")
    if columns is not None:
        names = [columns] if isinstance(columns, str) else list(columns)
        unknown = [name for name in names if name not in COLUMNS]
        if unknown or isinstance(columns, str):
            problem = f"contains {unknown[0]!r}, which is unknown" if unknown else "is a str, not a list of names"
            raise ArgumentError(f"columns={columns!r} {problem}: choose from {', '.join(COLUMNS)}")
    for name, value, least in (("depth", depth, 0), ("warmup", warmup, 0)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise ArgumentError(f"{name} must be an int of at least {least}, not {value!r}")
    if verbose not in (None, 0, 1, 2):
        raise ArgumentError(f"verbose must be 0, 1 or 2, not {verbose!r}")


def make_inputs_preserving_random_state(
    model: nn.Module, input_size: Any, batch_size: Any, input_data: Any, dtypes: Any, device: Any
) -> Inputs | None:
    states = random_states()
    try:
        return make_inputs(model, input_size, batch_size=batch_size, input_data=input_data, dtypes=dtypes, device=device)
    finally:
        for restore, state in states:
            restore(state)


def _made_from(input_size: Any, batch_size: Any) -> str:
    if input_size is None:
        return ""
    return f"input_size={input_size!r}" + (f", batch_size={batch_size!r}" if batch_size is not None else "")


def _run(model: nn.Module, inputs: Inputs, *, backward: bool, warmup: int, made_from: str) -> Trace:
    require_extension()
    places = walk(model)
    if is_lazy(places):
        model = copy.deepcopy(model)  # running a lazy module gives it its parameters for good
        places = walk(model)
    # Ops are what ties backward to modules; without a backward, calls and allocations tell everything there is to show.
    recording = profile(model, ops=backward, shapes=False)
    with preserved(model, places):
        try:
            for _ in range(warmup):
                model(*inputs.args, **inputs.kwargs)
            with recording:
                saved_inputs = _pass(model, inputs, backward, recording.mark)
        except Exception as error:
            _explain(error, recording, made_from)
            raise
    tensors = inputs.tensors()
    recording.trace.facts.update(
        saved_input_bytes=saved_inputs,
        input_bytes=sum(tensor.numel() * tensor.element_size() for tensor in _distinct(tensors)),
        inputs_on_meta=all(tensor.device.type == "meta" for tensor in tensors),
    )
    return recording.trace


def _pass(model: nn.Module, inputs: Inputs, backward: bool, mark: Callable[[str], None]) -> int:
    """One forward, and a backward if asked. Returns the bytes of inputs that the graph keeps.

    What autograd keeps is found by letting go of things one after the other: first of the outputs while the graph lives on,
    then of the graph.
    """
    tensors = _distinct(inputs.tensors())
    held = [_native.use_counts(tensor) for tensor in tensors]
    mark("forward")
    outputs = model(*inputs.args, **inputs.kwargs)
    mark("forward done")
    roots = [tensor for tensor in find_tensors(outputs) if tensor.requires_grad and tensor.grad_fn is not None]
    edges = [torch.autograd.graph.get_gradient_edge(root) for root in roots]
    shapes = [(root.shape, root.dtype, root.device) for root in roots]
    del outputs, roots
    mark("outputs released")
    saved = sum(
        tensor.untyped_storage().nbytes()
        for tensor, before in zip(tensors, held, strict=True)
        if _holds_storage(tensor) and any(now > then for now, then in zip(_native.use_counts(tensor), before, strict=True))
    )
    if backward:
        leaves: list[torch.Tensor] = [parameter for parameter in model.parameters() if parameter.requires_grad]
        leaves += [tensor for tensor in tensors if tensor.requires_grad and tensor.is_leaf]
        if not edges or not leaves:
            raise ArgumentError(
                "backward=True, but there is nothing to differentiate: no output depends on a parameter that requires a "
                "gradient (is this running under torch.no_grad()?)"
            )
        seeds = [torch.ones(shape, dtype=dtype, device=device) for shape, dtype, device in shapes]
        mark("backward")
        gradients = torch.autograd.grad(edges, leaves, seeds, allow_unused=True)
        mark("backward done")
        del gradients, seeds
    del edges
    mark("graph released")
    return saved


def _distinct(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _holds_storage(tensor: torch.Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_nested


def _explain(error: Exception, recording: profile, made_from: str) -> None:
    """Add to the model's own exception where it came from."""
    try:
        found = raising_call(recording.trace)
    except Exception:
        return
    if found is None:
        return
    path, type_name, shapes = found
    where = f"module {path!r} ({type_name})" if path else f"the root module ({type_name})"
    lines = [f"torchprof.summary: raised in {where}, called with {', '.join(shapes) or 'no tensors'}"]
    if made_from:
        lines.append(f"the inputs were made from {made_from}: check these and dtypes, or pass your own as input_data")
    if isinstance(error, TypeError) and "argument" in str(error):
        lines.append("forward's arguments can be given by name: input_data={'name': tensor, ...}")
    error.add_note("\n".join(lines))
