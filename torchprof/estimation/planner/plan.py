"""`torchprof.plan`: which configurations of a sharded training fit, on how many of which GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from inspect import signature
from typing import Any

import torch
from torch import nn

from torchprof.allocator.gpus import capacity_of, gpu_named
from torchprof.arguments import check_flag
from torchprof.errors import ArgumentError, ModuleTypeError, TorchprofError
from torchprof.estimation.bounds.links import link_of
from torchprof.estimation.estimate import AUTOCAST_DTYPES, estimate
from torchprof.estimation.planner.choice import Choice
from torchprof.estimation.planner.choices import choices_of
from torchprof.estimation.planner.configuration import Configuration
from torchprof.estimation.planner.one_choice import Asked
from torchprof.estimation.planner.planned import SAID, Plan
from torchprof.estimation.planner.progress import Progress
from torchprof.estimation.torch_private import ESTIMATE, SHARDING
from torchprof.rendering.units import format_bytes
from torchprof.wording import nearest, shown

__all__ = ["by_bound", "plan"]

OF_PLAN = ("device", "capacity", "world_size", "rank", "compile", "batch_size", "dtypes")
"""Arguments of `torchprof.estimate` that are settled here."""


def plan(
    build_with: Any,
    inputs: Callable[[Choice], Any] | None = None,
    gpus: int | Sequence[int] = (8, 16, 32, 64),
    gpu: int | str = "H100-80GB",
    *,
    batch: int | Sequence[int] = 1,
    sequence: int | Sequence[int] | None = None,
    tokens_per_step: int | None = None,
    over: Mapping[str, Any] | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] | None = torch.optim.AdamW,
    loss: Callable[[Any], torch.Tensor] | None = None,
    step: Callable[..., object] | None = None,
    amp: torch.dtype | None = None,
    links: Mapping[str, float | str] | None = None,
    cache: bool | str = True,
    processes: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Plan:
    """Which configurations of a training fit, on how many of which GPU: each is estimated as one of its ranks would run.

    Args:
        build_with: a function that builds, wraps and shards the model, as for ``estimate(build, world_size=...)``, given the
            configuration: a mapping with ``gpus``, ``batch``, ``sequence``, ``accumulation`` and every name in ``over``, each
            also an attribute (``choice.tp``). Or a configuration of transformers of a model that predicts tokens, such as a
            ``LlamaConfig``, which is sharded for you.
        inputs: a function that makes the inputs of one rank, for one pass of ``choice.batch`` samples, given the configuration;
            what it returns is as for `torchprof.estimate`. Of a configuration of transformers: None, for tokens and labels.
        gpus: how many train together; one number, or several to try.
        gpu: the name of one of ``torchprof.GPUS``, memory such as ``"40GiB"``, or bytes.
        batch: samples that a rank runs through the model at once, which is called the local batch or the micro-batch.
        sequence: tokens of a sample.
        tokens_per_step: tokens of one step of the optimizer, of all ranks. Where the ranks have fewer at once, each runs
            several passes and adds up the gradients: ``choice.accumulation`` of them, ``tokens_per_step / (batch * sequence *
            choice.data_ranks)``. Where that is no whole number, the combination is left out. None: one pass.
        over: values to try, one or several by name. ``replicate``, ``fsdp``, ``tp``, ``cp`` and ``pp`` are sizes of dimensions
            of the mesh, whose product has to divide the GPUs; ``...`` stands for what the others leave. Ranks along ``tp``,
            ``cp`` and ``pp`` have the same samples, all others have their own. Other names are yours. Of a configuration of
            transformers, there are ``replicate``, ``fsdp``, ``tp``, ``checkpointing`` (``"none"``, ``"selective"``,
            ``"full"``) and ``precision`` (``"bf16"``: computed in it, kept in float32; ``"bf16-true"``; ``"fp32"``), and with
            None, ``fsdp`` over the rest, ``tp`` up to 8 and each checkpointing are tried, in bf16.
        optimizer, loss, step, amp: as for `torchprof.estimate`. A ``step`` of your own accumulates gradients itself, so it is
            not taken with ``tokens_per_step``.
        links: as for `Estimate.bound`.
        cache: keep what is found in the user's cache directory, and look there first. That of functions of your own is kept
            only under a label: a text that you change whenever they find something else. False: neither.
        processes: how many processes estimate at once. None: a second one where there is a second core, it would save more
            than half a minute, and the functions can be found by their names in a module that is no script.
        progress: called after each configuration with how many are done, of how many, and that `Configuration`; by default
            a bar is shown on standard error where that is a terminal.
        options: further arguments of `torchprof.estimate`, such as ``ranks="all"``, ``allocator`` or ``allow_real``.

    Returns:
        A plan: what fits, by the bound of its time per token; and why the rest does not. What already the parameters, gradients
        and states of the optimizer are too large for is not estimated, and said to be so. Ctrl-C ends it early: the plan then
        has what is known.

    Raises:
        ArgumentError, ModuleTypeError: an argument is wrong, or no combination can be a configuration.
        TorchprofError: no configuration could be estimated: the reason of the first. Where some can be, what others raised is
            in their rows.

    Example:
        >>> plan = torchprof.plan(config, gpus=(2, 4), gpu="T4", sequence=128, over={"tp": (1, 2), "checkpointing": "full"})
        >>> best = plan.best
        >>> print(best.choice, best.headroom, best.bound)
    """
    for feature in (ESTIMATE, SHARDING):
        feature.require()
    from torchprof.estimation.fake.routing import factor_of
    from torchprof.estimation.planner.running import Running
    from torchprof.estimation.planner.transformers_models import ShardedTransformer

    for name, function in (
        ("optimizer", optimizer),
        ("loss", loss),
        ("step", step),
        ("progress", progress),
        ("inputs", inputs),
    ):
        if function is not None and not callable(function):
            raise ModuleTypeError(f"{name} must be a function, not {type(function).__name__}: {shown(function)}")
    build, made = build_with, inputs
    if over is not None and not isinstance(over, Mapping):
        raise ModuleTypeError(f"over must be a dict of values by name, such as {{'tp': (1, 2)}}, not {shown(over)}")
    if hasattr(build_with, "model_type") and not isinstance(build_with, nn.Module | type):
        if sequence is None and inputs is None:
            raise ArgumentError("sequence= is needed: how many tokens a sample has, such as sequence=8192")
        build = ShardedTransformer(build_with)
        made = inputs if inputs is not None else build.inputs
        over = build.over(over)
        build.check_sequence(sequence)
        options = {"routing": "balanced", **options}
    elif not callable(build_with) or isinstance(build_with, nn.Module | type):
        what = f"the class {build_with.__name__} itself" if isinstance(build_with, type) else type(build_with).__name__
        raise ModuleTypeError(
            "build_with must be a function that builds and shards the model, given the choice, or a configuration of "
            f"transformers, not {what}"
        )
    if made is None:
        raise ArgumentError("inputs= is needed: a function that makes them, such as lambda choice: (choice.batch, 3, 224, 224)")
    if step is not None and (tokens_per_step is not None or amp is not None):
        which = "tokens_per_step" if tokens_per_step is not None else "amp"
        raise ArgumentError(f"{which}= is for the step that torchprof makes, and step= is your own: say it there")
    if amp is not None and amp not in AUTOCAST_DTYPES:
        raise ArgumentError(f"amp={shown(amp)} must be {' or '.join(map(str, AUTOCAST_DTYPES))}, or None for no autocast")
    if unknown := [name for name in options if name not in signature(estimate).parameters]:
        near = nearest(unknown[0], [*signature(plan).parameters, *signature(estimate).parameters])
        others = f": did you mean {near!r}?" if near else ""
        raise ArgumentError(f"{unknown[0]}={shown(options[unknown[0]])} is no argument of plan, nor of estimate{others}")
    factor_of(options.get("routing"), world_size=1)
    if settled := [name for name in OF_PLAN if name in options]:
        raise ArgumentError(f"{settled[0]}={shown(options[settled[0]])} is nothing of a plan: gpus=, gpu= and inputs= say it")
    if not isinstance(cache, str):
        check_flag("cache", cache)
    if processes is not None and (not isinstance(processes, int) or isinstance(processes, bool) or processes < 1):
        raise ArgumentError(f"processes={shown(processes)} must be how many estimate at once, at least 1; or None")
    for dimension, link in links.items() if isinstance(links, Mapping) else ():
        link_of(dimension, link)
    capacity = _capacity(gpu)
    problem = build.problem if isinstance(build, ShardedTransformer) else _none
    choices, left_out, names = choices_of(gpus, batch, sequence, tokens_per_step, over if over is not None else {}, problem)
    asked = Asked(build, made, gpu_named(gpu) or capacity, links, optimizer, loss, step, amp, options)
    running = Running(asked, choices, capacity, cache, processes)
    with build.unwarned() if isinstance(build, ShardedTransformer) else nullcontext():
        rows, interrupted = running.run(progress)
    _raise_what_all_raise(rows, running.first_error)
    return Plan(
        tuple(sorted(rows, key=by_bound)),
        gpu_named(gpu) or format_bytes(capacity),
        capacity,
        names,
        (*left_out.items(),),
        interrupted,
    )


def _none(choice: Choice) -> str:
    """Of functions of the user's own it is not known beforehand what they cannot do."""
    return ""


def _capacity(gpu: Any) -> int:
    try:
        return capacity_of(gpu)
    except ArgumentError as error:
        raise ArgumentError(str(error).replace("capacity=", "gpu=", 1)) from None


def by_bound(row: Configuration) -> tuple[Any, ...]:
    """Where a row stands: what fits by the bound of its time per token, then by what it needs; then what fits only just."""
    at_most = row.tokens_per_second
    rank = list(SAID).index(row.status)
    return rank, row.only_just, -at_most if at_most is not None else float("inf"), row.needed or 0, row.choice.gpus


def _raise_what_all_raise(rows: Iterable[Configuration], first: TorchprofError | None) -> None:
    """Raise what the first one raised, where nothing else is known."""
    if first is not None and all(row.status == "failed" for row in rows):
        raise first
