"""DistributedDataParallel: its parameters are grouped once they are fake, and its hooks run as the program registers them.

PyTorch's own reducer runs, with two things done otherwise. It asks other ranks whether they have the same parameters, and tells
them the order of its buckets: they have, and it is the same. And the world that is not there says that a bucket is reduced
without the bucket, so a hook is always there, which is the program's, if it has one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial, wraps
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from torchprof.estimation.fake.callers import replaced
from torchprof.estimation.sharding.unused_parameters import FindsUnused
from torchprof.estimation.sharding.works import Works
from torchprof.estimation.torch_private import SHARDING
from torchprof.wording import counted

__all__ = ["hooks_kept", "notes_of_hooks", "wrap", "wrapped_later"]

LATER: Final = ("register_comm_hook", "_register_builtin_comm_hook")
"""Methods that a build may call, of what is not there before parameters are fake."""
PARAMETERS, BUCKETS, LIMITS, GROUP, SPARSE, CAP, FINDS, _, _, FIRST_CAP, _, _, CAPS = range(13)
"""Places of arguments of PyTorch's reducer."""


@contextmanager
def wrapped_later() -> Iterator[None]:
    """DistributedDataParallel keeps the parameters that it is given, so it gets them once they are fake."""
    init = DistributedDataParallel.__init__
    signature = inspect.signature(init)

    @wraps(init)
    def init_later(self: Any, *args: Any, **options: Any) -> None:
        given = signature.bind(self, *args, **options)
        # A static graph, in which it is known what is used, needs what another does, and is told from it by values.
        finds = bool(given.arguments.get("find_unused_parameters")) and not given.arguments.get("static_graph")
        # A model on the CPU has no device_ids.
        given.arguments.update(device_ids=None, output_device=None, static_graph=False, find_unused_parameters=finds)
        nn.Module.__init__(self)
        self.module = given.arguments["module"]
        if (group := given.arguments.get("process_group") or dist.group.WORLD) is not None:
            self.process_group = group
        object.__setattr__(self, "wrap", [lambda: init(*given.args, **given.kwargs)])

    def later(name: str) -> Callable[..., None]:
        method = getattr(DistributedDataParallel, name)

        @wraps(method)
        def call(self: Any, *args: Any, **options: Any) -> None:
            vars(self)["wrap"].append(lambda: method(self, *args, **options))

        return call

    with ExitStack() as stack:
        stack.enter_context(replaced(DistributedDataParallel, "__init__", init_later))
        for name in LATER:
            stack.enter_context(replaced(DistributedDataParallel, name, later(name)))
        yield


def wrap(wrapper: Any, works: Works, *, on_cpu: bool) -> None:
    """Do what `wrapped_later` has put off, now that parameters are fake.

    Args:
        works: of collectives.
        on_cpu: whether that is the device.
    """
    of_torch = SHARDING.Reducer, SHARDING.Logger
    check = wrapper._check_comm_hook

    def checked(hook: Any) -> None:
        """Of one that sends bfloat16 PyTorch asks whether it was built for CUDA, and it is the target that counts."""
        if callable(hook) and not on_cpu:
            named = hook

            @wraps(hook)
            def hook(state: Any, bucket: Any) -> Any:
                return named(state, bucket)

            hook.__name__ = ""
        check(hook)

    with (
        replaced(SHARDING.ddp, "_verify_param_shape_across_processes", _nothing),
        replaced(SHARDING.ddp, "_sync_module_states", _nothing),
        replaced(dist, "Reducer", lambda *args: Reducer(of_torch, args, works, on_cpu=on_cpu)),
        replaced(dist, "Logger", lambda reducer: reducer.logger),
    ):
        first, *following = vars(wrapper).pop("wrap")
        object.__setattr__(wrapper, "_check_comm_hook", checked)
        first()
        for call in following:
            call()


@contextmanager
def hooks_kept() -> Iterator[None]:
    """Hooks are registered with what stands for a reducer, until the block ends."""
    builtin = SHARDING.register_builtin_comm_hook
    register = SHARDING.register_comm_hook

    @wraps(register)
    def call(reducer: Any, state: Any, hook: Any) -> None:
        if isinstance(reducer, Reducer):
            reducer.hook.register(state, hook)
        else:
            register(reducer, state, hook)

    @wraps(builtin)
    def call_builtin(reducer: Any, kind: Any) -> None:
        if isinstance(reducer, Reducer):
            reducer.hook.register(reducer.hook.group, BUILTIN[kind.name])
        else:
            builtin(reducer, kind)

    with ExitStack() as stack:
        stack.enter_context(replaced(dist, "_register_comm_hook", call))
        stack.enter_context(replaced(dist, "_register_builtin_comm_hook", call_builtin))
        yield


BUILTIN: Final = {"ALLREDUCE": default_hooks.allreduce_hook, "FP16_COMPRESS": default_hooks.fp16_compress_hook}
"""The hooks that PyTorch has in C++, which do what these do."""


class Reducer:
    """Stands for a reducer of PyTorch.

    Args:
        of_torch: PyTorch's class of reducers, and that of their loggers.
        arguments: of the reducer.
        works: of collectives.
        on_cpu: whether the device is the CPU.

    Attributes:
        hook: what reduces a bucket.
        logger: stands for that of PyTorch.
    """

    def __init__(self, of_torch: tuple[Any, Any], arguments: tuple[Any, ...], works: Works, *, on_cpu: bool) -> None:
        self._of_torch, self._arguments, self._works = of_torch, [*arguments], works
        parameters, finds = arguments[PARAMETERS], arguments[FINDS]
        self._arguments[FINDS] = False
        self.hook = Hook(arguments[GROUP])
        self.logger = Logger()
        self._lower: torch.dtype | None = None
        self._in_backward = False
        self._make()
        self._unused = FindsUnused(self._reducer, parameters, arguments[GROUP], on_cpu=on_cpu) if finds else None
        self._order = None if finds else Order(parameters)

    def _make(self) -> None:
        reducer, logger = self._of_torch
        self._reducer = reducer(*self._arguments)
        SHARDING.register_comm_hook(self._reducer, None, self.hook)
        self.logger.attach(logger(self._reducer))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reducer, name)

    def set_logger(self, logger: Logger) -> None:
        self._reducer.set_logger(logger.logger)

    def _set_mixed_precision_param_dtype(self, dtype: torch.dtype) -> None:
        self._lower = dtype
        self._reducer._set_mixed_precision_param_dtype(dtype)

    def _set_optimizer_in_backward(self) -> None:
        self._in_backward = True
        self._reducer._set_optimizer_in_backward()

    def _run_allreduce_hook(self, bucket: Any) -> Any:
        return reduced(self.hook.group, bucket)

    def prepare_for_backward(self, outputs: list[torch.Tensor]) -> None:
        self._reducer.prepare_for_backward([])
        if self._unused is not None:
            self._unused.search(outputs)
        if self._order is not None:
            self._order.begin()

    def _rebuild_buckets(self) -> bool:
        """Group parameters anew, once it is known in which order they get their gradients: at first all are in one bucket."""
        if self._order is None or not self._order.is_known:
            return False
        parameters, sparse = self._arguments[PARAMETERS], self._arguments[SPARSE]
        places = self._order.places
        self._order.end()
        self._order = None
        limits = self._arguments[CAPS] if len(self._arguments) > CAPS else None
        limits = limits or [self._arguments[FIRST_CAP], self._arguments[CAP]]
        ordered = [parameters[place] for place in places]
        self._works.let_go(self.hook.group)  # the first rank tells the others
        buckets, sizes = SHARDING.assign_buckets(ordered, limits, sparse, places)
        self._arguments[BUCKETS], self._arguments[LIMITS] = buckets, sizes
        self._reducer._remove_autograd_hooks()
        self.logger.attach(None)
        self._reducer = None  # its buckets are freed before there are others
        with _lowered(parameters) if self._lower is not None else nullcontext():
            self._make()
        self.set_logger(self.logger)
        if self._lower is not None:
            self._reducer._set_mixed_precision_param_dtype(self._lower)
        if self._in_backward:
            self._reducer._set_optimizer_in_backward()
        return True


@contextmanager
def _lowered(parameters: Any) -> Iterator[None]:
    """Parameters are in the dtype in which they are computed with, as buckets are that are made anew, until the block ends."""
    try:
        for parameter in parameters:
            parameter.data = parameter._mp_param
        yield
    finally:
        for parameter in parameters:
            parameter.data = parameter._fp_param


class Logger:
    """Stands for the logger of a reducer, which outlives it.

    Attributes:
        logger: that of PyTorch.
    """

    def __init__(self) -> None:
        self.logger: Any = None
        self._constructed: tuple[Any, ...] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.logger, name)

    def attach(self, logger: Any) -> None:
        """Stand for this one."""
        self.logger = logger
        if logger is not None and self._constructed is not None:
            logger.set_construction_data_and_log(*self._constructed)

    def set_construction_data_and_log(self, *data: Any) -> None:
        """Keep what is logged, for the next one."""
        self._constructed = data
        self.logger.set_construction_data_and_log(*data)


class Hook:
    """Reduces a bucket: with the hook of the program, or as without one.

    Args:
        group: the process group of the reducer.

    Attributes:
        state: that of the hook of the program.
    """

    def __init__(self, group: Any) -> None:
        self.group = group
        self.state: Any = None
        self._registered: Callable[[Any, Any], Any] | None = None

    def register(self, state: Any, hook: Callable[[Any, Any], Any]) -> None:
        """Have this one called from now on."""
        if self._registered is not None:
            raise RuntimeError("a communication hook of DistributedDataParallel can be registered only once")
        self.state, self._registered = state, hook

    def __call__(self, state: Any, bucket: Any) -> Any:
        return reduced(self.group, bucket) if self._registered is None else self._registered(self.state, bucket)


def notes_of_hooks(model: nn.Module, steps: int) -> Iterator[str]:
    """What hooks would do in later steps than these, in words."""
    for wrapper in model.modules():
        hook = getattr(vars(wrapper).get("reducer"), "hook", None)
        for name in BEGINS:
            begins = getattr(getattr(hook, "state", None), name, None)
            if isinstance(begins, int) and steps < begins + 2:
                yield (
                    f"what the hook of DistributedDataParallel needs once it begins ({name}={begins}): it is with "
                    f"steps={begins + 2}, and {counted(steps, 'step')} ran"
                )


BEGINS: Final = ("start_powerSGD_iter", "start_localSGD_iter")
"""What the states of PyTorch's hooks call the number of steps in which gradients are reduced as without them."""


def reduced(group: Any, bucket: Any) -> torch.futures.Future[torch.Tensor]:
    """A bucket of gradients has been reduced."""
    dist.all_reduce(bucket.buffer(), group=group)
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


class Order:
    """The order in which parameters get their gradients.

    Args:
        parameters: these.

    Attributes:
        places: of the parameters that have got theirs, in order.
    """

    def __init__(self, parameters: list[Any]) -> None:
        self.places: list[int] = []
        self._count = len(parameters)
        self._begun = [False]
        self._handles = [
            parameter.register_post_accumulate_grad_hook(partial(_note, self._begun, self.places, place))
            for place, parameter in enumerate(parameters)
        ]

    def begin(self) -> None:
        """A backward follows in which gradients are reduced."""
        if not self.is_known:
            self.places.clear()
            self._begun[0] = True

    @property
    def is_known(self) -> bool:
        """Whether all of them have."""
        return len(self.places) == self._count

    def end(self) -> None:
        """Look no more."""
        for handle in self._handles:
            handle.remove()


def _note(begun: list[bool], places: list[int], place: int, parameter: torch.Tensor) -> None:
    if begun[0] and place not in places:
        places.append(place)


def _nothing(*args: Any, **options: Any) -> None:
    """In place of what talks to other ranks."""
