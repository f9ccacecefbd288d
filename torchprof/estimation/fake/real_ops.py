"""Ops that may run for real in an estimate: what they return depends on values, or they have no fake kernel.

There are no values, so an op that runs for real is given stand-ins: real tensors of the same shapes. Values that are known are
taken: of tensors that the program makes of Python numbers or numpy arrays, and of what real ops have returned. Otherwise floats
are ones, integers are zeros, which are valid indices everywhere, and booleans are what the comparison that made them says of
such tensors, or else True: a mask selects everything, which needs the most memory, and a check for NaN finds none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from torchprof.errors import ArgumentError
from torchprof.estimation.fake.sparse import is_sparse, made_of, parts_of, sparse_stand_in
from torchprof.estimation.torch_private import ESTIMATE

__all__ = [
    "READS_VALUES",
    "RealOps",
    "SparseError",
    "UnmeasuredError",
    "has_no_fake_kernel",
    "is_kept",
    "needs_values",
    "stand_in",
]

FakeTensor = ESTIMATE.FakeTensor
disable_modes = ESTIMATE.disable_modes
tree_map_only = ESTIMATE.tree_map_only

READS_VALUES = "aten::item"
"""What ``.item()``, ``bool(tensor)``, ``.tolist()`` and ``.numpy()`` go by in ``allow_real``."""

KNOWS_NO_NUMPY = ".numpy() is not supported for tensor subclasses"
KNOWS_NO_FORMAT = "unsupported format string passed to FakeTensor.__format__"
TRUTH = "_torchprof_truth"
"""An attribute of fake tensors of booleans: what all of their elements are when computed from stand-ins."""


class UnmeasuredError(Exception):
    """The memory of an op is not known: its kernel does not work on stand-ins, or it returns a sparse tensor.

    Attributes:
        op: the op.
    """

    def __init__(self, op: Any, reason: str) -> None:
        super().__init__(reason)
        self.op = op


class SparseError(Exception):
    """How many elements a sparse tensor has that an op returns, or that it is given, is not known.

    Attributes:
        op: the op.
    """

    def __init__(self, op: Any) -> None:
        super().__init__("sparse tensors")
        self.op = op


def needs_values(error: BaseException) -> bool:
    """Whether a fake tensor cannot do something because it depends on values."""
    kinds = (ESTIMATE.DataDependentOutputException, ESTIMATE.DynamicOutputShapeException)
    return isinstance(error, kinds) or any(text in str(error) for text in (KNOWS_NO_NUMPY, KNOWS_NO_FORMAT))


def has_no_fake_kernel(error: BaseException) -> bool:
    """Whether an op has no fake kernel, so that what it returns is not known."""
    return isinstance(error, ESTIMATE.UnsupportedOperatorException) or "no fake impl registered" in str(error)


class RealOps:
    """The ops that may run for real.

    Args:
        allowed: names of ops, such as ``"aten::nonzero"``, and paths of modules, such as ``"encoder.router"``, in which every
            op may that cannot do without; True: everywhere.

    Attributes:
        ran: names of the ops that did.

    Raises:
        ArgumentError: there is no such op.
    """

    def __init__(self, allowed: bool | Iterable[str]) -> None:
        if isinstance(allowed, str) or not isinstance(allowed, bool | Iterable):
            raise ArgumentError(f"allow_real must be True, False or names such as ('aten::nonzero',), not {allowed!r}")
        self._everywhere = allowed is True
        names = [] if isinstance(allowed, bool) else list(allowed)
        for name in names:
            if not isinstance(name, str) or ("::" in name and not ESTIMATE.schemas_of(name)):
                raise ArgumentError(f"allow_real names {name!r}, which is no op: use a name such as 'aten::nonzero', or True")
        self._ops = {name for name in names if "::" in name}
        self._modules = [name for name in names if "::" not in name]
        self._running = 0  # calls of modules of these
        self.ran: set[str] = set()

    def __bool__(self) -> bool:
        return self._everywhere or bool(self._ops or self._modules)

    def watch(self, model: nn.Module) -> None:
        """Find the modules that were named.

        Raises:
            ArgumentError: there is no such module.
        """
        for path in self._modules:
            try:
                module = model.get_submodule(path)
            except AttributeError as error:
                raise ArgumentError(f"allow_real names {path!r}, which is no module of the model, nor an op") from error
            module.register_forward_pre_hook(lambda *_: self._count(1))
            module.register_forward_hook(lambda *_: self._count(-1), always_call=True)

    def _count(self, calls: int) -> None:
        self._running += calls

    def name(self, func: Any) -> bool:
        """Whether this op was named."""
        name = func._schema.name
        return name in self._ops or (name == "aten::_local_scalar_dense" and READS_VALUES in self._ops)

    def allow(self, error: Exception) -> bool:
        """Whether this is an error of an op that may run for real here. Backward belongs to whichever module was named."""
        in_backward = bool(self._modules) and ESTIMATE.current_autograd_node() is not None
        here = self._everywhere or self._running or in_backward
        return bool(here) and (needs_values(error) or has_no_fake_kernel(error) or isinstance(error, SparseError))

    @contextmanager
    def allowing_value_reads(self) -> Iterator[None]:
        """Values may be read, as by ``.item()``, without a note of it, until the block ends."""
        before = set(self._ops), set(self.ran)
        self._ops.add(READS_VALUES)
        try:
            yield
        finally:
            self._ops, self.ran = before

    def numpy(self) -> AbstractContextManager[Any]:
        """Fake tensors turn into numpy arrays of stand-ins, where values may be read, until the block ends."""
        return _Numpy(self) if self else nullcontext()

    def allow_numpy(self) -> bool:
        return READS_VALUES in self._ops or self._everywhere or self._running > 0

    def run(self, mode: Any, func: Any, args: Any, kwargs: Any) -> Any:
        """What an op returns for stand-ins: fake tensors, which keep the values of indices and masks."""
        fakes: dict[int, torch.Tensor] = {}
        self.ran.add(func._schema.name)

        def real(fake: torch.Tensor) -> torch.Tensor:
            made = stand_in(fake)
            fakes[id(made)] = fake
            return made

        def fake(real: torch.Tensor) -> Any:
            if id(real) in fakes:
                return fakes[id(real)]
            if real.layout is torch.sparse_coo:
                indices, values = (fake(part) for part in parts_of(real))
                with mode:
                    return made_of(indices, values, real, real.is_coalesced())
            return mode.fake_tensor_converter.from_real_tensor(mode, real, make_constant=is_kept(real))

        with disable_modes():
            args, kwargs = tree_map_only(torch.Tensor, real, (args, kwargs))
            returned = func(*args, **kwargs)
            return tree_map_only(torch.Tensor, fake, returned)

    def note_truth(self, func: Any, args: Any, kwargs: Any, returned: Any) -> None:
        """Remember what a comparison says of stand-ins."""
        if type(returned) is not FakeTensor or returned.dtype != torch.bool or returned.constant is not None:
            return
        try:
            with disable_modes():
                small_args, small_kwargs = tree_map_only(torch.Tensor, _one_element, (args, kwargs))
                setattr(returned, TRUTH, bool(func(*small_args, **small_kwargs)))
        except Exception:  # it says nothing of one element: a mask made by indexing, say
            return


def stand_in(fake: Any, integers: int = 0) -> torch.Tensor:
    """A real tensor on the CPU in place of a fake one, whose integers are these."""
    if not isinstance(fake, FakeTensor):
        return fake  # type: ignore[no-any-return]
    if is_sparse(fake):
        return sparse_stand_in(fake)
    if isinstance(fake.constant, torch.Tensor):
        constant: torch.Tensor = fake.constant
        return constant.clone()
    made: torch.Tensor = torch.empty_strided(fake.shape, fake.stride(), dtype=fake.dtype, device="cpu")
    return made.fill_(_value(fake, integers))


def is_kept(real: torch.Tensor) -> bool:
    """Whether the values of a known tensor are kept: indices and masks, and single numbers."""
    return real.numel() == 1 or not (real.is_floating_point() or real.is_complex())


def _value(fake: torch.Tensor, integers: int = 0) -> int | bool:
    if fake.dtype == torch.bool:
        return bool(getattr(fake, TRUTH, True))
    return 1 if fake.is_floating_point() or fake.is_complex() else integers


def _one_element(tensor: torch.Tensor) -> torch.Tensor:
    known = getattr(tensor, "constant", None)
    if isinstance(known, torch.Tensor) and known.numel() == 1:
        return known.reshape((1,) * tensor.dim())
    return torch.full((1,) * tensor.dim(), _value(tensor), dtype=tensor.dtype, device="cpu")


class _Numpy(TorchFunctionMode):
    def __init__(self, real_ops: RealOps) -> None:
        super().__init__()
        self._real_ops = real_ops

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__format__ and isinstance(args[0], FakeTensor) and self._real_ops.allow_numpy():
            self._real_ops.ran.add("Tensor.__format__")
            with disable_modes(), ESTIMATE.DisableTorchFunction():
                return format(stand_in(args[0].detach()), args[1])
        to_numpy = func in (torch.Tensor.numpy, torch.Tensor.__array__)
        if not to_numpy or not isinstance(args[0], FakeTensor) or not self._real_ops.allow_numpy():
            return func(*args, **(kwargs or {}))
        self._real_ops.ran.add("Tensor.numpy")
        with disable_modes(), ESTIMATE.DisableTorchFunction():
            array = stand_in(args[0].detach()).numpy()
            return array.astype(args[1]) if args[1:] else array
