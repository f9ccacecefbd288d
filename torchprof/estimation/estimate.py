"""`torchprof.estimate`: what a training step will need, before it runs anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final, Literal

import torch
from torch import nn

from torchprof.allocator.gpus import capacity_of, gpu_named
from torchprof.allocator.replay import replay
from torchprof.allocator.settings import AllocatorSettings
from torchprof.arguments import check_int
from torchprof.errors import ArgumentError, EstimateError, ModuleTypeError, TorchprofError
from torchprof.estimation.bounds.step_flops import FLOAT32_PRODUCTS
from torchprof.estimation.estimated import Estimate
from torchprof.estimation.fake.interrupts import INTERRUPTS
from torchprof.estimation.notes import in_short, notes_of
from torchprof.estimation.one_at_a_time import one_at_a_time
from torchprof.estimation.overheads import with_overheads
from torchprof.estimation.sharding.context_parallel import note_of_sequences
from torchprof.estimation.sharding.host_memory import with_host
from torchprof.estimation.sharding.streams import numbered_streams, streams_of, with_streams
from torchprof.estimation.target import Target
from torchprof.estimation.torch_private import AUTOCAST_RULE, COMPILE, DISPATCHER_RULES, DYNAMO, ESTIMATE, SHARDING, STANCE
from torchprof.estimation.uncounted import without_uncounted
from torchprof.record.preserve import random_states
from torchprof.record.profile import profile
from torchprof.tables.memory import Memory
from torchprof.wording import shown

__all__ = ["estimate"]

AUTOCAST_DTYPES: Final = (torch.bfloat16, torch.float16)
"""Those of ``torch.autocast``, on CUDA and on the CPU. Any other only switches it off, with a warning."""


def estimate(
    model: nn.Module | Callable[[], nn.Module],
    inputs: Any = None,
    *,
    batch_size: int | None = None,
    dtypes: torch.dtype | Sequence[torch.dtype] | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    loss: Callable[[Any], torch.Tensor] | None = None,
    step: Callable[..., object] | None = None,
    steps: int = 2,
    device: str = "cuda",
    capacity: int | str | None = None,
    amp: torch.dtype | None = None,
    allocator: str = "",
    allow_real: bool | Iterable[str] = False,
    compile: bool = False,
    routing: Literal["balanced"] | float | None = None,
    world_size: int | None = None,
    rank: int = 0,
    ranks: Literal["all"] | None = None,
) -> Estimate:
    """Predict what a training step needs, by running the model's own code on fake tensors: no memory, no arithmetic, no GPU.

    Args:
        model: a module, of which a fake copy is made, or a function that builds one, so that it never exists. It is run as it
            is, in train mode unless it was set otherwise.
        inputs: as for `torchprof.summary`: sizes, or tensors (on any device; ``meta`` will do), or a dict of keyword arguments.
        batch_size, dtypes: for sizes, as for `torchprof.summary`.
        optimizer: a class or function called with the parameters, such as ``torch.optim.AdamW``; None: no optimizer step.
        loss: what is differentiated, given what the model returned; by default its ``loss``, or the sum of all it returned.
        step: a training step of your own, called as ``step(model, optimizer, *inputs)`` in place of all this; a dict of inputs
            is passed by keyword.
        steps: how many steps to run: an optimizer's state is there from the second on.
        device: ``"cuda"``, or ``"cpu"``.
        capacity: bytes the device has, memory such as ``"40GiB"`` or, for CUDA, the name of a GPU of ``torchprof.GPUS``. What
            depends on the GPU is that of the GPU that is named; with None, of the one in this machine, which is found without
            setting CUDA up; else of an A100.
        amp: run forward and loss under autocast with this dtype, ``torch.bfloat16`` or ``torch.float16``. A ``step`` of your
            own says that itself, with ``torch.autocast("cuda")``.
        allocator: settings as in ``PYTORCH_ALLOC_CONF``, such as ``"expandable_segments:True"``.
        allow_real: names of ops that may run for real, on the CPU, to find out what they return, such as ``("aten::nonzero",
            "mylib::op")``; ``"aten::item"`` stands for ``.item()``, ``bool(tensor)``, ``.tolist()`` and ``.numpy()``. Also
            paths of modules, such as ``"encoder.router"``, in which every op may that cannot do without; True: everywhere.
            They work on stand-ins, real tensors of the same shapes in which floats are ones, integers zeros, and masks select
            everything (`torchprof.estimation.fake.real_ops`), and take the memory and the time of a real run.
        compile: predict the step of ``torch.compile(model)``: what is saved, recomputed, fused and reused is what Inductor
            decides, whose code is run without its kernels. Compiling takes its time: seconds to minutes. With ``world_size``,
            what the program itself compiles is predicted so, such as the blocks of a model, and equal blocks are compiled once.
        routing: what is assumed of routers of experts, whose choice depends on values: ``"balanced"``: each expert gets as many
            tokens, and a remainder is spread over them. What ``topk``, ``argmax`` and ``max`` choose is known then, and what
            follows from it alone: counts of tokens, masks, splits of ``all_to_all``, what other ranks are told. A number such
            as 1.25 is the same for a rank whose experts are sent as much more than their share. It is an assumption, and the
            estimate says so. None: a program that reads how many tokens go where is an error.
        world_size: how many ranks train together. ``model`` is then a function that builds, wraps and shards the model as
            each of them does, and ``inputs`` are those of one rank; None: there is one, which knows of no others. For a
            pipeline it returns the schedule, which ``step`` is called with; without one, the first stage is given ``inputs``
            without the last of them, which is the target that the last stage is given.
        rank: which of them is estimated.
        ranks: ``"all"``: of the ranks that differ, as where shards do not divide, each is estimated, equal ones once, and the
            one that needs most is returned. They are told apart by what they hold of parameters and buffers, and by their
            stages of a pipeline.

    Returns:
        An `Estimate`.

    Raises:
        ArgumentError, ModuleTypeError: an argument is wrong.
        EstimateError: the program reads the values of tensors, uses an op that has no fake kernel, or one whose memory on the
            CPU cannot be measured: the message names the op, the module and the way out. Or a rank would wait for ever for
            another one: with ``ranks="all"``, all that is sent and received is looked at. Or PyTorch lacks a private name that
            is needed: the message names it. Or a thread that ``model`` or a step has started asks for an estimate while they
            run, as estimates run one after another; one that was there before, such as of a pool, waits instead, for ever if
            they wait for it. What the program itself raises comes out as it is, with a note.

    Example:
        >>> with torch.device("meta"):
        ...     llama = LlamaForCausalLM(config)
        >>> tokens = torch.empty(1, 4096, dtype=torch.long, device="meta")
        >>> print(torchprof.estimate(llama, {"input_ids": tokens, "labels": tokens}, optimizer=torch.optim.AdamW))
    """
    if device not in ("cuda", "cpu"):
        raise ArgumentError(f"device={device!r} cannot be estimated: use 'cuda' or 'cpu'")
    check_int("steps", steps, 1)
    if world_size is None and rank != 0:
        raise ArgumentError(f"rank={shown(rank)} is one of many: say of how many, with world_size=")
    if ranks is not None and ranks != "all":
        raise ArgumentError(f"ranks={shown(ranks)} must be 'all', for every rank that differs; or None, for the one of rank=")
    if ranks is not None and world_size is None:
        raise ArgumentError("ranks='all' is of many ranks: say of how many, with world_size=")
    if ranks is not None and rank != 0:
        raise ArgumentError(f"ranks='all' and rank={shown(rank)} exclude each other: leave out one of them")
    if world_size is not None and compile:
        raise ArgumentError(
            f"compile=True is for a model on one device: with world_size={shown(world_size)}, call torch.compile where the "
            "program does, as in the function that builds the model; what it compiles is estimated as compiled"
        )
    if amp is not None and not (isinstance(amp, torch.dtype) and amp in AUTOCAST_DTYPES):
        raise ArgumentError(
            f"amp={shown(amp)} is nothing that autocast computes in: use {' or '.join(map(str, AUTOCAST_DTYPES))}, or None for "
            "no autocast"
        )
    if not isinstance(compile, bool):
        raise ArgumentError(f"compile must be True or False, not {compile!r}")
    for name, function in (("optimizer", optimizer), ("loss", loss), ("step", step)):
        if function is not None and not callable(function):
            raise ModuleTypeError(f"{name} must be a function, or a class to call, not {type(function).__name__}")
    if amp is not None and step is not None:
        raise ArgumentError(
            f"amp={amp} is for the step that torchprof makes, and step= is your own: say there what runs under autocast, "
            f"with torch.autocast({device!r}, dtype={amp})"
        )
    settings = AllocatorSettings.parse(allocator)
    limit = capacity_of(capacity, device) if capacity is not None else None
    target = Target.of("cuda" if device == "cuda" else "cpu", gpu_named(capacity), limit, compile)
    needed = {
        ESTIMATE: True,
        STANCE: True,
        DISPATCHER_RULES: device == "cuda",
        AUTOCAST_RULE: device == "cuda" and amp,
        DYNAMO: compile,
        COMPILE: compile,
        SHARDING: world_size is not None,
    }
    for feature, is_needed in needed.items():
        if is_needed:
            feature.require()
    from torchprof.estimation.fake.routing import factor_of

    factor = factor_of(routing, world_size)
    given = (model, inputs, batch_size, dtypes, optimizer, loss, step, steps, target, limit, amp, settings, allow_real, factor)
    if world_size is None:
        with one_at_a_time(), INTERRUPTS.before_ops():
            return _estimated(*given, sharded=False)
    from torchprof.estimation.sharding.deadlocks import check_messages
    from torchprof.estimation.sharding.messages import messages_recorded
    from torchprof.estimation.sharding.stage_shapes import StageShapes
    from torchprof.estimation.sharding.world import fake_world

    shapes, messages = StageShapes(), {}

    def in_world(number: int) -> Estimate:
        to_others = messages_recorded(until_wait=target.device == "cuda")
        with fake_world(world_size, number), to_others as events:
            found = _estimated(*given, sharded=True)
        check_messages({number: events})
        messages[number] = events
        return replace(found, rank=number, world_size=world_size)

    def of_rank(number: int) -> Estimate:
        return shapes.estimated(number, in_world)

    from torchprof.estimation.rules.applied import AppliedRules
    from torchprof.estimation.sharding.all_ranks import largest_of_ranks

    with one_at_a_time(), INTERRUPTS.before_ops():
        return (
            of_rank(rank)
            if ranks is None
            else largest_of_ranks(model, world_size, of_rank, messages, AppliedRules(target).installed)
        )


def _estimated(
    model: Any,
    inputs: Any,
    batch_size: Any,
    dtypes: Any,
    optimizer: Any,
    loss: Any,
    step: Any,
    steps: int,
    target: Target,
    limit: int | None,
    amp: torch.dtype | None,
    settings: AllocatorSettings,
    allow_real: Any,
    factor: float | None,
    *,
    sharded: bool,
) -> Estimate:
    # These use private names of PyTorch as they are imported, so not before all of them are known to be there.
    from torchprof.estimation.fake.compiled import as_compiled, as_written, with_compiled_parts
    from torchprof.estimation.fake.higher_order import read_by_dynamo
    from torchprof.estimation.fake.known_functions import functions_listed_by_themselves
    from torchprof.estimation.fake.mode import EstimateMode, UnwrappedMode
    from torchprof.estimation.fake.model import built, fake_model
    from torchprof.estimation.fake.real_ops import RealOps
    from torchprof.estimation.fake.routing import Routing
    from torchprof.estimation.fake.stance import never_compiling
    from torchprof.estimation.fake.surroundings import undisturbed
    from torchprof.estimation.reasons import BUILD, STEP, place_of_error, reason_of
    from torchprof.estimation.rules.applied import AppliedRules
    from torchprof.estimation.sharding.building import built_sharded, made_fake, wrappers
    from torchprof.estimation.sharding.late_release import held_late
    from torchprof.estimation.sharding.nccl import nccl_buffers
    from torchprof.estimation.sharding.pipelines import pipeline_in
    from torchprof.estimation.sharding.replicas import notes_of_hooks
    from torchprof.estimation.sharding.works import Works
    from torchprof.estimation.training_step import TrainingStep, fake_inputs

    compiling = as_compiled if target.compiled else with_compiled_parts if sharded else as_written
    rules = AppliedRules(target)
    real_ops = RealOps(allow_real)
    routing = Routing(factor)
    kind, wrapped = (UnwrappedMode, wrappers()) if sharded else (EstimateMode, ())
    mode = kind(rules.overrides, real_ops, wrapped, routing)
    recording = profile(memory=True, stacks=False)
    states = random_states()
    with ExitStack() as stack:
        stack.callback(mode.backward_nodes.close)
        stack.callback(mode.outside.put_back)
        for restore, state in states:
            stack.callback(restore, state)
        stack.enter_context(undisturbed())
        stack.enter_context(never_compiling())
        stack.enter_context(functions_listed_by_themselves())
        stack.enter_context(rules.installed())
        stack.enter_context(read_by_dynamo())
        if sharded:
            mode.works = Works(until_wait=target.device == "cuda")
            stack.enter_context(mode.works.holding())
        if sharded and target.device == "cuda":
            stack.enter_context(numbered_streams())
        source = built_sharded(model) if sharded else built(model)
        doing = BUILD
        try:
            with recording:
                fake = made_fake(source, mode, has_host=target.device == "cuda") if sharded else fake_model(source, mode)
                doing = STEP
                recording.watch(fake)
                real_ops.watch(fake)
                arguments = fake_inputs(fake, inputs, batch_size, dtypes, mode)
                with mode, real_ops.numpy(), routing.numpy(), compiling(fake, target) as runs:
                    run = TrainingStep(runs, arguments, optimizer, loss, step, amp, lambda made: rules.adjust(made, real_ops))
                    for _ in range(steps):
                        if mode.communication is not None:
                            mode.communication.begin_step()
                        run.run()
                        recording.step()
                    del run, arguments
            if fake is not source and (around := mode.outside.parameters_of(source)):
                raise EstimateError(
                    f"the program uses {in_short(around)} of the model itself, not of the fake copy that stands for it: use "
                    "the model that step= is called with, or pass a function that builds it with all that refers to it"
                )
        except TorchprofError:
            raise
        except Exception as error:
            if isinstance(own := getattr(error, "inner_exception", None), TorchprofError):  # which a compiler wraps
                raise own from error
            if reason := reason_of(error, recording, doing, of_many=sharded):
                raise EstimateError(reason) from error
            place = place_of_error(recording, error, doing).removesuffix(",")
            error.add_note(f"torchprof.estimate: raised in {place}, on fake tensors, which say they are on the CPU")
            raise
    trace = without_uncounted(with_streams(recording.trace))
    trace.facts[FLOAT32_PRODUCTS] = torch.backends.cuda.matmul.fp32_precision
    trace, on_host = with_host(trace)
    account = Memory.of(trace, "meta")
    notes = (*notes_of(source, real_ops.ran, compiled=target.compiled or sharded), *rules.notes(trace), *mode.outside.notes())
    notes = (*notes, *note_of_sequences(), *(notes_of_hooks(source, steps) if sharded else ()))
    known: dict[str, Any] = {"assumed": tuple(routing.assumed()), "pipeline": pipeline_in(source, trace) if sharded else None}
    sent = mode.communication.sent() if mode.communication is not None else ()
    if target.device == "cpu":
        late = held_late(trace, account.allocations, mode.works.began) if mode.works is not None else 0
        known = {**known, "communication": sent, "held_late": late}
        return Estimate(trace, target.device, account, None, (), limit, rules.unknown(), notes, **known)
    overheads = rules.overheads(trace)
    if mode.communication is not None and (buffers := nccl_buffers(mode.communication.groups)) is not None:
        overheads = (*overheads, buffers)
    rows = with_overheads(trace, account.allocations, overheads)
    played = replay(rows, settings, streams=streams_of(trace, rows))
    return Estimate(
        trace,
        target.device,
        account,
        played,
        overheads,
        limit,
        rules.unknown(),
        notes,
        target.name,
        target.why,
        communication=sent,
        known_as=target.gpu,
        **known,
        host=on_host,
    )
